"""Arrays of numbers out of an `.npz` that a stranger may have made: sizes are known before anything is unpacked.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from edgept.errors import EdgeptError, InvalidFileError
from edgept.formats.regular_file import open_regular

__all__ = ["array_names", "read_array"]

# An array may be so large, or so many times its file: pictures pack to a tenth, nothing but zeros to a thousandth.
_MOST_BYTES, _MOST_TIMES = 1 << 30, 64
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def array_names(path: Path) -> list[str]:
    """Names of the arrays, sorted; none of them is read.

    Raises:
        UsageError: there is no such file.
        InvalidFileError: it is no archive.
    """
    with _opened(path) as (archive, _):
        return sorted(name.removesuffix(".npy") for name in archive.namelist())


def read_array(path: Path, name: str) -> npt.NDArray[Any]:
    """One array: whole or floating-point numbers, or truth values.

    Raises:
        UsageError: there is no such file.
        InvalidFileError: it is no archive; or the array is damaged, not of numbers or too large.
    """
    with _opened(path) as (archive, size), archive.open(f"{name}.npy") as stream:
        shape, is_fortran, dtype = _HEADERS[npy.read_magic(stream)](stream)
        if dtype.kind not in "biuf" or min(shape, default=0) < 0:
            raise _refuse(path, f"{name} is of {dtype} and the shape {str(shape)[:60]}")
        count = math.prod(shape)
        limit = max(_MOST_BYTES, _MOST_TIMES * size)
        if math.prod(max(side, 1) for side in shape) * dtype.itemsize > limit:
            raise InvalidFileError(
                "training-data",
                f"{path}: {name} says that it has the shape {str(shape)[:60]}, which is more than the {limit} "
                f"bytes that are unpacked of a file of {size}. Save the pictures as files, in a folder for "
                "each class.",
            )
        values = np.empty(count, dtype)
        _fill(stream, values.view(np.uint8))
        return values.reshape(shape, order="F" if is_fortran else "C")


def _fill(stream: IO[bytes], place: npt.NDArray[np.uint8]) -> None:
    """Read exactly so many bytes, and see that they were all, which compares the checksum too."""
    rest = place.data
    while len(rest):
        read = stream.readinto(rest)  # type: ignore[attr-defined]  # ZipExtFile has it
        if not read:
            raise ValueError(f"{len(rest)} bytes are missing")
        rest = rest[read:]
    if stream.read(1):
        raise ValueError("there is more than the shape says")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, int]]:
    """The archive, and its size in bytes."""
    with open_regular(path, max_bytes=1 << 62, follow_links=True) as (stream, size):
        try:
            with zipfile.ZipFile(stream) as archive:
                yield archive, size
        except EdgeptError:
            raise
        except (
            Exception
        ) as error:  # of a broken archive zipfile, zlib and numpy raise nearly anything
            raise _refuse(path, str(error) or type(error).__name__) from error


def _refuse(path: Path, found: str) -> InvalidFileError:
    return InvalidFileError(
        "training-data",
        f"{path} is no .npz of plain arrays: {found}. Save it with numpy.savez, without objects.",
    )
