"""Average precision of detections, as COCO counts it, in plain numpy.

For each class and each least overlap (IoU 0.5, 0.55, …, 0.95), the detections of all pictures are taken from the
highest score down; one is right if it overlaps an object of its class that no earlier one has. One that is not,
and lies in a crowd of its class by that share of its own area, is neither right nor wrong. Precision, made
to never rise with recall, is read at the 101 recalls 0, 0.01, …, 1 and averaged. Of a picture and a class,
the 100 detections with the highest scores count. Objects of all sizes count; COCO's figures for small,
medium and large ones are left out.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Found", "average_precision"]

_OVERLAPS = np.linspace(0.5, 0.95, 10)
_MOST = 100  # detections of a class in a picture
_RECALLS = np.linspace(0, 1, 101)

Array = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Found:
    """Detections in a picture, or its objects.

    Attributes:
        boxes: (n, 4), x0, y0, x1, y1 in any unit.
        classes: (n,) whole numbers.
        scores: (n,); None of objects.
        is_crowd: (n,), whether a box is around many objects, of which none is to be found; None where
            there is no such box.
    """

    boxes: Array
    classes: npt.NDArray[np.integer]
    scores: Array | None = None
    is_crowd: Flags | None = None


@dataclass(frozen=True, eq=False)
class _Judged:
    """Detections of one class in a picture.

    Attributes:
        scores: (detections,).
        is_hit: (overlaps, detections).
        counts: (overlaps, detections), whether it is right or wrong at all.
        objects: that were to be found.
    """

    scores: Array
    is_hit: Flags
    counts: Flags
    objects: int


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
    judged: dict[int, list[_Judged]] = defaultdict(list)
    for made, there in zip(found, right, strict=True):
        for label in np.union1d(made.classes, there.classes).tolist():
            judged[label].append(_judge(made, there, label))
    values = [
        _precisions(judged[label])
        for label in range(num_labels)
        if any(picture.objects for picture in judged[label])
    ]
    if not values:
        return {}
    table = np.array(values)  # (classes with objects, overlaps)
    return {"ap": float(table.mean()), "ap50": float(table[:, 0].mean())}


def _judge(made: Found, there: Found, label: int) -> _Judged:
    """Which detections of a class are right at each overlap, and which are in a crowd."""
    scores = np.zeros(len(made.boxes)) if made.scores is None else made.scores
    chosen = np.flatnonzero(made.classes == label)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")][:_MOST]
    boxes = made.boxes[chosen].astype(np.float64)  # (detections, 4), the highest score first
    is_crowd = np.zeros(len(there.boxes), bool) if there.is_crowd is None else there.is_crowd
    objects = there.boxes[(there.classes == label) & ~is_crowd].astype(np.float64)
    crowds = there.boxes[(there.classes == label) & is_crowd].astype(np.float64)
    shared = _shared(boxes, objects)
    overlaps = _over(shared, _areas(boxes)[:, None] + _areas(objects)[None] - shared)
    within = _over(_shared(boxes, crowds), _areas(boxes)[:, None]).max(axis=1, initial=0)
    is_hit = np.zeros((len(_OVERLAPS), len(boxes)), dtype=bool)
    is_free = np.ones((len(_OVERLAPS), len(objects)), dtype=bool)
    for at in np.flatnonzero(overlaps.max(axis=1, initial=0) >= _OVERLAPS[0]).tolist():
        free = np.where(is_free, overlaps[at], -1.0)  # (overlaps, objects)
        best = len(objects) - 1 - free[:, ::-1].argmax(axis=1)  # of equal ones COCO takes the last
        hits = np.flatnonzero(free.max(axis=1) >= _OVERLAPS)
        is_hit[hits, at] = True
        is_free[hits, best[hits]] = False
    counts = is_hit | (within < _OVERLAPS[:, None])
    return _Judged(scores[chosen], is_hit, counts, len(objects))


def _precisions(pictures: Sequence[_Judged]) -> list[float]:
    """Average precision of a class at each overlap."""
    scores = np.concatenate([picture.scores for picture in pictures])
    order = np.argsort(-scores, kind="stable")
    is_hit = np.concatenate([picture.is_hit for picture in pictures], axis=1)[:, order]
    counts = np.concatenate([picture.counts for picture in pictures], axis=1)[:, order]
    objects = sum(picture.objects for picture in pictures)
    found = []
    for hits, counted in zip(is_hit, counts, strict=True):
        right_so_far = np.cumsum(hits[counted])
        recall = right_so_far / objects
        precision = right_so_far / np.arange(1, len(right_so_far) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]  # never rises with recall
        places = np.searchsorted(recall, _RECALLS, side="left")
        found.append(float(np.append(precision, 0.0)[places].mean()))
    return found


def _shared(left: Array, right: Array) -> Array:
    """Area that is in both of all pairs, (n, m), of boxes x0, y0, x1, y1."""
    inner = np.minimum(left[:, None, 2:], right[None, :, 2:])
    inner = inner - np.maximum(left[:, None, :2], right[None, :, :2])
    return np.asarray(inner.clip(min=0).prod(axis=2))


def _areas(boxes: Array) -> Array:
    return np.asarray(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))


def _over(shared: Array, whole: Array) -> Array:
    return np.asarray(shared / np.maximum(whole, np.finfo(np.float64).tiny))
