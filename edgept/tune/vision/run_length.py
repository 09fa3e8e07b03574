"""COCO's masks: runs of pixels, written as a list or packed into a text, and shapes to a map of classes."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from edgept.tune.vision.rows import Shape

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
    """The class of each pixel, (height, width): later shapes over earlier ones, the rest of class 0."""
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    for shape in shapes:
        index = labels.index(shape.label)
        if shape.counts:
            runs = np.array(shape.counts)
            inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
            rows, columns = shape.size
            area = np.ascontiguousarray(inside.reshape(columns, rows).T)  # (height, width)
            canvas.paste(index, (0, 0), Image.fromarray(area))
        for polygon in shape.polygons:
            draw.polygon(list(polygon), fill=index)
    return np.array(canvas)  # (height, width)
