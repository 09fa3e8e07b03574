"""Semantic segmentation: the class of every pixel, from those of the patches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgept.latency import Latency
from edgept.manifest import ImageGeometry
from edgept.runtime.forward import softmax
from edgept.runtime.vision import Seen

__all__ = ["Segmentation", "to_segmentation", "upsampled_argmax"]

_SIDE = 1024  # of the squares of pixels that are upsampled at once


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Which class every pixel of a picture is of.

    Attributes:
        labels: all classes, in the head's order; the background, if there is one, is one of them.
        classes: (height, width) of the picture, uint16: an index of labels for each pixel.
        shares: of the picture's pixels, one a class, in the order of labels.
        probabilities: (rows, columns, classes) float32 of the patches: softmax over their logits. Where the
            model pads a picture to a square, the last rows or columns show none of it.
        prompt: name of the prompt.
        latency: how long each phase took; prefill is the run.
    """

    labels: tuple[str, ...]
    classes: npt.NDArray[np.uint16]
    shares: tuple[float, ...]
    probabilities: npt.NDArray[np.float32]
    prompt: str | None
    latency: Latency


def to_segmentation(seen: Seen, image: ImageGeometry) -> Segmentation:
    """The class of every pixel, from the logits of the patches.

    Args:
        seen: of the whole picture.
        image: what its pixels were made for.
    """
    patches = seen.values["logits"][1 + seen.virtual_tokens :]  # (patches, classes)
    logits = patches.reshape(*image.grid, -1)
    width, height = seen.size
    sides = image.sides_of(seen.size, seen.frame)
    classes = upsampled_argmax(logits, height, width, sides)
    counts = np.zeros(len(seen.labels), np.int64)
    for square in _squares(height, width):
        counts += np.bincount(classes[square].ravel(), minlength=len(counts))
    return Segmentation(
        labels=seen.labels,
        classes=classes,
        shares=tuple((counts / classes.size).tolist()),
        probabilities=softmax(logits).astype(np.float32),
        prompt=seen.prompt,
        latency=seen.latency,
    )


def upsampled_argmax(
    logits: npt.NDArray[np.float32],
    height: int,
    width: int,
    sides: tuple[float, float] | None = None,
) -> npt.NDArray[np.uint16]:
    """The largest class of each pixel, (height, width), of logits (rows, columns, classes).

    They are upsampled bilinearly, with half-pixel centres, as PyTorch does with align_corners=False; a
    square of pixels at a time, class by class, so that beside the result memory is bounded, whatever the
    sides and the classes.

    Args:
        logits: of the patches.
        height: of the picture in pixels.
        width: of the picture in pixels.
        sides: height and width of the picture in patches. They are more than rows and columns where a part
            of a patch is left over at the bottom and on the right: pixels there have the class of the
            nearest patch. They are fewer where the picture was padded there. None is neither.
    """
    rows, columns = logits.shape[:2]
    tall, wide = sides or (rows, columns)
    planes = np.moveaxis(logits, 2, 0)  # (classes, rows, columns)
    found = np.empty((height, width), np.uint16)
    for down, across in _squares(height, width):
        above, below, low = _between(rows, tall / height, down)
        left, right, far = _between(columns, wide / width, across)
        used = slice(
            above[0], below[-1] + 1
        )  # of a flat picture not all rows, which would take long
        above, below, low = above - above[0], below - above[0], low[:, None]  # low: (pixels, 1)
        best = np.full((len(above), len(left)), -np.inf, np.float32)
        index = np.zeros(best.shape, np.uint16)
        for number, plane in enumerate(planes[:, used]):
            lines = plane[:, left] * (1 - far) + plane[:, right] * far  # (used rows, pixels)
            value = lines[above] * (1 - low) + lines[below] * low  # (pixels, pixels)
            index[value > best] = number
            np.maximum(best, value, out=best)
        found[down, across] = index
    return found


def _squares(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the parts that a picture is cut into."""
    for top in range(0, height, _SIDE):
        for left in range(0, width, _SIDE):
            yield slice(top, min(top + _SIDE, height)), slice(left, min(left + _SIDE, width))


def _between(
    patches: int, scale: float, pixels: slice
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each pixel of a side: the patches on its two sides, and the weight of the second.

    Args:
        patches: of this side.
        scale: of a pixel in patches.
        pixels: which.
    """
    centre = np.arange(pixels.start, pixels.stop, dtype=np.float32) + np.float32(0.5)
    place = np.clip(centre * np.float32(scale) - np.float32(0.5), 0, patches - 1)
    first = place.astype(np.int64)
    return first, np.minimum(first + 1, patches - 1), place - first.astype(np.float32)
