"""COCO's masks: runs of pixels, written as a list or packed into a text, and shapes to a map of classes."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgept.tune.vision.rows import BACKGROUND, Shape

__all__ = ["decode_counts", "paint"]


def decode_counts(text: str) -> list[int] | None:
    """Lengths of runs from COCO's packed text; None where it is none.

    Each number is groups of five bits, the lowest first, as characters from "0" on; the sixth bit says
    that more follow, the highest bit of the last group is the sign. From the fourth number on, it is the
    difference to the one before the last.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > 60:
            return None
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        value = shift = 0
    return runs if shift == 0 else None


def paint(
    shapes: Sequence[Shape], labels: Sequence[str], width: int, height: int
) -> npt.NDArray[np.uint8]:
    """The class of each pixel, (height, width): later shapes over earlier ones, the rest background."""
    canvas = np.full((height, width), labels.index(BACKGROUND), np.uint8)
    for shape in shapes:
        index = labels.index(shape.label)
        if shape.counts:
            runs = np.array(shape.counts)
            inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
            rows, columns = shape.size
            canvas[inside.reshape(columns, rows).T] = index
        for polygon in shape.polygons:
            _fill(canvas, polygon, index)
    return canvas


def _fill(canvas: npt.NDArray[np.uint8], polygon: Sequence[float], index: int) -> None:
    """Paint the pixels whose centres are inside a polygon, so that it is as large as its runs would be.

    Each edge turns what is right of it over, in the rows that it crosses: what is turned over an odd number
    of times is inside.
    """
    corners = np.reshape(polygon, (-1, 2)) - 0.5  # x and y; centres of pixels are whole numbers
    ends = np.array(canvas.shape[::-1])
    left, top = np.ceil(corners.min(axis=0)).clip(0, ends).astype(int)
    right, bottom = np.ceil(corners.max(axis=0)).clip(0, ends).astype(int)
    turns = np.zeros((bottom - top, right - left + 1), dtype=bool)
    for edge in zip(corners.tolist(), np.roll(corners, -1, axis=0).tolist(), strict=True):
        (x0, y0), (x1, y1) = sorted(edge, key=lambda point: point[1])
        rows = np.arange(max(math.ceil(y0), top), min(math.ceil(y1), bottom))
        if not len(rows):
            continue
        crossings = x0 + (x1 - x0) * ((rows - y0) / (y1 - y0))
        columns = np.ceil(crossings).clip(left, right).astype(int)
        turns[rows - top, columns - left] ^= True
    inside = np.logical_xor.accumulate(turns, axis=1)[:, :-1]  # (rows, columns)
    canvas[top:bottom, left:right][inside] = index
