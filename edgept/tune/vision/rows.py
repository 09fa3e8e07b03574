"""Pictures with what is to be learnt of them: a class, boxes, or a class for every pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgept.errors import InvalidFileError

__all__ = ["BACKGROUND", "IGNORED", "Box", "PictureData", "PictureRow", "Shape", "malformed"]

BACKGROUND = "background"  # what COCO's masks leave uncovered
IGNORED = 255  # the class of a pixel that nothing is learnt of
_SHOWN = 20


@dataclass(frozen=True)
class Box:
    """An object.

    Attributes:
        label: its class.
        corners: x0, y0, x1, y1 in pixels of the picture.
    """

    label: str
    corners: tuple[float, float, float, float]


@dataclass(frozen=True)
class Shape:
    """An object's area.

    Attributes:
        label: its class.
        polygons: each x, y, x, y, … in pixels; of these or of `counts` one.
        counts: lengths of runs, outside first, down the columns of a picture of `size`, as COCO has it.
        size: height and width that the runs fill.
    """

    label: str
    polygons: tuple[tuple[float, ...], ...] = ()
    counts: tuple[int, ...] = ()
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class PictureRow:
    """A picture, and what is to be learnt of it.

    Attributes:
        place: where it stands, for messages: a file, or an index of an array.
        picture: the file, or (height, width) or (height, width, 3) uint8.
        label: its class; "" where pixels or boxes have classes.
        boxes: of its objects.
        crowds: boxes around many objects that nobody marked one by one: none of them is learnt, and what is
            found in them is neither right nor wrong.
        mask: a file with the class of each pixel, or the shapes that make one; None elsewhere.
        size: width and height that the data state; None where they do not.
    """

    place: str
    picture: Path | npt.NDArray[np.uint8]
    label: str = ""
    boxes: tuple[Box, ...] = ()
    crowds: tuple[Box, ...] = ()
    mask: Path | tuple[Shape, ...] | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class PictureData:
    """A data set.

    Attributes:
        kind: classes, boxes or masks.
        rows: in an order that is always the same.
        sha256: of the files that say what is learnt, and of the pictures.
        path: where it was read.
        labels: names of the classes in order, where the data list them; else none.
    """

    kind: str
    rows: tuple[PictureRow, ...]
    sha256: str
    path: str
    labels: tuple[str, ...] = ()


def malformed(path: str, problems: Sequence[str], remedy: str) -> InvalidFileError:
    """An error that names what is wrong, a line for each.

    Args:
        path: of the data.
        problems: "cats/3.png is empty"; the first twenty are shown.
        remedy: what to do.
    """
    shown = "".join(f"\n  {problem}" for problem in problems[:_SHOWN])
    more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    count = "1 picture" if len(problems) == 1 else f"{len(problems)} pictures"
    return InvalidFileError(
        "training-data", f"{path}: {count} cannot be learnt from. {remedy}{shown}{more}"
    )
