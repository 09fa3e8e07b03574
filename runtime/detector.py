"""Object detection: each virtual token finds one thing, or nothing (YOLOS, Fang et al. 2021).

Of a model that was trained to find what a text names (OWL-ViT, Minderer et al. 2022), each patch does.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgept.errors import UsageError
from edgept.latency import Latency
from edgept.runtime.forward import softmax
from edgept.runtime.vision import Seen

__all__ = ["Detection", "Detections", "check_threshold", "to_detections"]


@dataclass(frozen=True)
class Detection:
    """A thing that was found.

    Attributes:
        label: what it is.
        score: probability of that label; "no object" takes its share. Where patches find things, each
            label has a probability of its own.
        box: left, top, right and bottom in pixels of the picture, inside it.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in a picture.

    Attributes:
        found: best first.
        labels: all classes, in the head's order.
        threshold: no detection scores less.
        size: width and height of the picture in pixels.
        prompt: name of the prompt.
        latency: how long each phase took; prefill is the run.
    """

    found: tuple[Detection, ...]
    labels: tuple[str, ...]
    threshold: float
    size: tuple[int, int]
    prompt: str | None
    latency: Latency


def check_threshold(threshold: object) -> float:
    """A threshold that scores can be compared with.

    Raises:
        UsageError: it is no number from 0 to 1.
    """
    if not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise UsageError(
            f"threshold is {threshold!r}, expected a number from 0 to 1: a probability."
        )
    return float(threshold)


def to_detections(seen: Seen, threshold: float, detects: str) -> Detections:
    """The things whose label is at least as probable as a threshold, from logits and boxes.

    Args:
        seen: of the whole picture.
        threshold: least score.
        detects: what finds them, "tokens" or "patches", as in ImageGeometry.
    """
    first_patch = 1 + seen.virtual_tokens
    tokens = slice(1, first_patch) if detects == "tokens" else slice(first_patch, None)
    logits = seen.values["logits"][tokens]  # (virtual tokens or patches, classes)
    if detects == "tokens":
        nothing = np.zeros((len(logits), 1), np.float32)  # the logit of "no object"
        scores = softmax(np.concatenate([logits, nothing], axis=1))[:, :-1]
    else:
        scores = softmax(np.stack([logits, np.zeros_like(logits)], axis=-1))[..., 0]  # sigmoid
    classes = scores.argmax(axis=1)
    boxes = _in_pixels(seen.values["boxes"][tokens], seen)
    best = scores.max(axis=1)
    # what lies in a padding only has no pixel of the picture
    is_there = (best >= threshold) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    order = [token for token in np.argsort(-best, kind="stable").tolist() if is_there[token]]
    return Detections(
        found=tuple(
            Detection(seen.labels[classes[token]], float(best[token]), tuple(boxes[token].tolist()))
            for token in order
        ),
        labels=seen.labels,
        threshold=threshold,
        size=seen.size,
        prompt=seen.prompt,
        latency=seen.latency,
    )


def _in_pixels(boxes: npt.NDArray[np.float32], seen: Seen) -> npt.NDArray[np.float64]:
    """Left, top, right and bottom in pixels, inside the picture, of centres and sides in shares of its frame."""
    centre, sides = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    corners = np.concatenate([centre - sides / 2, centre + sides / 2], axis=1)  # (tokens, 4)
    boxes_in_pixels: npt.NDArray[np.float64] = np.clip(
        corners * [*seen.frame, *seen.frame], 0, [*seen.size, *seen.size]
    )
    return boxes_in_pixels
