"""Semantic segmentation: the class of every pixel, from those of the patches."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgept.latency import Latency
from edgept.runtime.forward import softmax
from edgept.runtime.vision import Seen

__all__ = ["Segmentation", "to_segmentation", "upsampled_argmax"]

_MAX_VALUES = 1 << 22  # that are upsampled at once


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Which class every pixel of a picture is of.

    Attributes:
        labels: all classes, in the head's order; the background, if there is one, is one of them.
        classes: (height, width) of the picture, uint16: an index of labels for each pixel.
        shares: of the picture's pixels, one a class, in the order of labels.
        probabilities: (rows, columns, classes) float32 of the patches: softmax over their logits.
        prompt: name of the prompt.
        latency: how long each phase took; prefill is the run.
    """

    labels: tuple[str, ...]
    classes: npt.NDArray[np.uint16]
    shares: tuple[float, ...]
    probabilities: npt.NDArray[np.float32]
    prompt: str | None
    latency: Latency


def to_segmentation(seen: Seen, grid: tuple[int, int]) -> Segmentation:
    """The class of every pixel, from the logits of the patches.

    Args:
        seen: of the whole picture.
        grid: rows and columns of patches.
    """
    patches = seen.values["logits"][1 + seen.virtual_tokens :]  # (patches, classes)
    logits = patches.reshape(*grid, -1)
    width, height = seen.size
    classes = upsampled_argmax(logits, height, width)
    counts = np.bincount(classes.ravel(), minlength=len(seen.labels))
    return Segmentation(
        labels=seen.labels,
        classes=classes,
        shares=tuple((counts / classes.size).tolist()),
        probabilities=softmax(logits).astype(np.float32),
        prompt=seen.prompt,
        latency=seen.latency,
    )


def upsampled_argmax(
    logits: npt.NDArray[np.float32], height: int, width: int
) -> npt.NDArray[np.uint16]:
    """The largest class of each pixel, (height, width), of logits (rows, columns, classes).

    They are upsampled bilinearly, with half-pixel centres, as PyTorch does with align_corners=False; a
    few rows of pixels at a time, class by class, so that memory does not grow with the classes.
    """
    rows, columns, classes = logits.shape
    above, below, down = _between(rows, height)
    left, right, across = _between(columns, width)
    found = np.empty((height, width), np.uint16)
    step = max(1, _MAX_VALUES // width)
    planes = np.moveaxis(logits, 2, 0)  # (classes, rows, columns)
    wide = [plane[:, left] * (1 - across) + plane[:, right] * across for plane in planes]
    for first in range(0, height, step):
        part = slice(first, first + step)
        weight = down[part, None]  # (pixels, 1)
        best = wide[0][above[part]] * (1 - weight) + wide[0][below[part]] * weight
        index = np.zeros(best.shape, np.uint16)
        for number in range(1, classes):
            other = wide[number][above[part]] * (1 - weight) + wide[number][below[part]] * weight
            larger = other > best
            index[larger] = number
            np.maximum(best, other, out=best)
        found[part] = index
    return found


def _between(
    patches: int, pixels: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each pixel of a side: the patches on its two sides, and the weight of the second."""
    centre = (np.arange(pixels, dtype=np.float32) + np.float32(0.5)) * np.float32(patches / pixels)
    place = np.maximum(centre - np.float32(0.5), 0)
    first = place.astype(np.int64)
    return first, np.minimum(first + 1, patches - 1), place - first.astype(np.float32)
