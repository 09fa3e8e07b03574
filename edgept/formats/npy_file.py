"""Read a .npy file of floats: no pickle, and nothing allocated before the size is known.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import math
import os
import re

import numpy as np
import numpy.typing as npt

from edgept.errors import InvalidFileError
from edgept.formats.regular_file import open_regular
from edgept.formats.safetensors_strict import check_finite

__all__ = ["read_npy"]

# The header is a Python literal; numpy writes it in one form, which is all that is accepted.
_HEADER = re.compile(
    rb"\{'descr': '([^']{1,8})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,15}, ?)*\d{0,15})\), \} *\n"
)
_DTYPES = {b"<f2", b"<f4", b"<f8"}
_MAX_HEADER_BYTES = 4096


def read_npy(path: str | os.PathLike[str], *, max_bytes: int) -> npt.NDArray[np.float32]:
    """Read a .npy file as a read-only float32 array.

    Raises:
        UsageError: there is no such file.
        InvalidFileError: it is no .npy file of little-endian floats.
    """
    with open_regular(path, max_bytes=max_bytes) as (stream, size):
        data = stream.read(size)
    length_bytes = 2 if data[6:7] == b"\x01" else 4
    start = 8 + length_bytes
    if data[:6] != b"\x93NUMPY" or data[6:8] not in (b"\x01\x00", b"\x02\x00") or size < start:
        raise _refuse(f"it begins with {data[:8]!r}")
    length = int.from_bytes(data[8:start], "little")
    match = _HEADER.fullmatch(data, start, start + min(length, _MAX_HEADER_BYTES))
    if match is None:
        raise _refuse("its header is not one that numpy writes for a plain array")
    descr, fortran_order, dims = match.groups()
    if descr not in _DTYPES:
        raise _refuse(f"its type is {descr.decode('ascii', 'replace')!r}")
    shape = tuple(int(dim) for dim in dims.replace(b" ", b"").split(b",") if dim)
    dtype = np.dtype(descr.decode("ascii"))
    if 0 in shape or math.prod(shape) * dtype.itemsize != size - start - length:
        raise _refuse(f"{size - start - length} bytes of data for shape {shape} of {dtype.name}")
    order = fortran_order == b"True"
    stored = np.frombuffer(data, dtype, offset=start + length)
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        values = np.ascontiguousarray(
            stored.reshape(shape, order="F" if order else "C"), dtype=np.float32
        )
    check_finite(str(path), values)
    values.flags.writeable = False
    return values


def _refuse(found: str) -> InvalidFileError:
    return InvalidFileError(
        "npy-malformed",
        f"not a .npy file of float16, float32 or float64: {found}. Write it with "
        "numpy.save(path, array.astype('float32')).",
    )
