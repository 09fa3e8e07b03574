"""The class of each pixel of a picture, from a file or from shapes."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL.PngImagePlugin import PngImageFile

from edgept.errors import EdgeptError, InvalidFileError
from edgept.pictures.reading import check_size, read_picture_bytes
from edgept.tune.vision.rows import IGNORED, PictureRow
from edgept.tune.vision.run_length import paint

__all__ = ["read_mask", "read_mask_file"]

_MODES = ("1", "L", "P")  # a number for each pixel


def read_mask(
    row: PictureRow, labels: Sequence[str], size: tuple[int, int], numbered: Sequence[str]
) -> npt.NDArray[np.uint8]:
    """The mask of a row, (height, width): class indices, and 255 where nothing is learnt.

    Args:
        row: of masks.
        labels: names of the classes.
        size: width and height of its picture.
        numbered: what the numbers of a file stand for, all of them among `labels`; in another order where a
            run goes on from a prompt.

    Raises:
        InvalidFileError: the file is no mask, is of another size, or has a class that is none.
    """
    if not isinstance(row.mask, Path):
        return paint(row.mask or (), labels, *size)
    mask = read_mask_file(row.mask)
    if mask.shape != (size[1], size[0]):
        raise InvalidFileError(
            "training-data",
            f"{row.mask} has {mask.shape[1]} x {mask.shape[0]} pixels, its picture {size[0]} x {size[1]}",
        )
    highest = int(mask[mask != IGNORED].max(initial=0))
    if highest >= len(numbered):
        raise InvalidFileError(
            "training-data",
            f"{row.mask} has the class {highest}; there are {len(numbered)} classes, from 0 on",
        )
    indices = np.full(256, IGNORED, dtype=np.uint8)  # of `labels`, for each number
    indices[: len(numbered)] = [labels.index(name) for name in numbered]
    return np.asarray(indices[mask])


def read_mask_file(path: Path) -> npt.NDArray[np.uint8]:
    """A PNG of class indices, (height, width).

    Raises:
        UsageError: there is no such file.
        InvalidFileError: it is no picture of one channel of 8 bits, or too large.
    """
    data = read_picture_bytes(path)
    try:
        with PngImageFile(BytesIO(data)) as mask:  # the header alone
            if mask.mode not in _MODES:
                raise InvalidFileError(
                    "training-data",
                    f"{path} is a picture of the mode {mask.mode}; a mask has one channel of 8 bits",
                )
            check_size(*mask.size, str(path))
            return np.array(mask, dtype=np.uint8)
    except EdgeptError:
        raise
    except Exception as error:  # of a broken file Pillow raises nearly anything
        raise InvalidFileError("training-data", f"{path} is no readable PNG ({error})") from error
