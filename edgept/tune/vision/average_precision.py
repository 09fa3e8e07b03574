"""Average precision of detections, as COCO counts it, in plain numpy.

For each class and each least overlap (IoU 0.5, 0.55, …, 0.95), the detections of all pictures are taken from the
highest score down; one is right if it overlaps an object of its class that no earlier one has. Precision, made
to never rise with recall, is read at the 101 recalls 0, 0.01, …, 1 and averaged. Of a picture and a class,
the 100 detections with the highest scores count. COCO's areas and crowds are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Found", "average_precision"]

_OVERLAPS = tuple(0.5 + 0.05 * step for step in range(10))
_MOST = 100  # detections of a class in a picture
_RECALLS = np.linspace(0, 1, 101)

Array = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Found:
    """Detections in a picture, or its objects.

    Attributes:
        boxes: (n, 4), x0, y0, x1, y1 in any unit.
        classes: (n,) whole numbers.
        scores: (n,); None of objects.
    """

    boxes: Array
    classes: npt.NDArray[np.integer]
    scores: Array | None = None


def average_precision(
    found: Sequence[Found], right: Sequence[Found], num_labels: int
) -> dict[str, float]:
    """The mean over the classes that have an object, from 0 to 1.

    Args:
        found: detections in each picture, with scores.
        right: the objects of each picture.
        num_labels: how many classes there are.

    Returns:
        ap, over all overlaps; ap50, at 0.5. Nothing where there is no object at all.
    """
    table = [
        [_of_class(found, right, label, overlap) for overlap in _OVERLAPS]
        for label in range(num_labels)
        if any((entry.classes == label).any() for entry in right)
    ]
    if not table:
        return {}
    values = np.array(table)  # (classes with objects, overlaps)
    return {"ap": float(values.mean()), "ap50": float(values[:, 0].mean())}


def _of_class(found: Sequence[Found], right: Sequence[Found], label: int, overlap: float) -> float:
    scores: list[float] = []
    hits: list[bool] = []
    objects = 0
    for made, there in zip(found, right, strict=True):
        targets = there.boxes[there.classes == label]
        objects += len(targets)
        if made.scores is None:
            continue
        chosen = np.flatnonzero(made.classes == label)
        chosen = chosen[np.argsort(-made.scores[chosen], kind="stable")][:_MOST]
        shares = _iou(made.boxes[chosen], targets)  # (detections, objects)
        is_free = np.ones(len(targets), dtype=bool)
        for at, row in zip(chosen.tolist(), shares, strict=True):
            scores.append(float(made.scores[at]))
            free = np.where(is_free, row, -1.0)  # (objects,)
            best = int(free.argmax()) if len(free) else -1
            is_hit = best >= 0 and bool(free[best] >= overlap)
            hits.append(is_hit)
            if is_hit:
                is_free[best] = False
    order = np.argsort(-np.array(scores), kind="stable")
    right_so_far = np.cumsum(np.array(hits, dtype=float)[order])
    recall = right_so_far / objects
    precision = right_so_far / np.arange(1, len(order) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]  # never rises with recall
    places = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(places, len(precision))].mean())


def _iou(left: Array, right: Array) -> Array:
    """Intersection over union of all pairs, (n, m), of boxes x0, y0, x1, y1."""
    inner = np.minimum(left[:, None, 2:], right[None, :, 2:])
    inner = inner - np.maximum(left[:, None, :2], right[None, :, :2])
    shared = inner.clip(min=0).prod(axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (left, right)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.asarray(shared / np.maximum(union, np.finfo(np.float64).tiny))
