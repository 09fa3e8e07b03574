"""The safetensors container, read more strictly than its own library does.

Nothing but the header is in memory until the header is right; each byte is read once. Half-width
values are widened in place, so that no file takes more than twice its size.

Format: https://github.com/huggingface/safetensors, section Format. The rules: `prompt_file.md`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedIOBase

import numpy as np
import numpy.typing as npt

from edgept.errors import InvalidFileError
from edgept.formats.reason import Reason
from edgept.formats.strict_json import Json, parse_json

__all__ = [
    "MAX_HEADER_BYTES",
    "METADATA_KEY",
    "Header",
    "check_finite",
    "read_header",
    "read_tensors",
]

MAX_HEADER_BYTES = 64 << 10
METADATA_KEY = "__metadata__"

_MAX_DEPTH = 3  # file, tensor, shape
_MAX_TENSOR_BYTES = (1 << 63) - 1
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
_BLOCK = 1 << 16  # values that are judged or widened at once
_EXPORT_AGAIN = "Write the file again with 'edgept prompt pack' or a safetensors library."


@dataclass(frozen=True)
class Header:
    """A header whose text is right; what it says is not judged yet.

    Attributes:
        fields: the parsed JSON object.
        data_bytes: how many bytes of the file follow the header.
    """

    fields: dict[str, Json]
    data_bytes: int


@dataclass(frozen=True)
class _Entry:
    """One tensor: bytes [begin, end) of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(stream: BufferedIOBase, size: int) -> Header:
    """Read and check the header (rules 2 and 3) of a file of `size` bytes, 8 or more.

    Raises:
        InvalidFileError: the header breaks a rule.
    """
    length = int.from_bytes(_read_exactly(stream, 8), "little")
    if length > MAX_HEADER_BYTES:
        raise InvalidFileError(
            Reason.HEADER_TOO_LARGE,
            f"the header claims {length} bytes, at most {MAX_HEADER_BYTES} are read. This is no "
            "safetensors file, or one of another kind.",
        )
    if length > size - 8:
        raise InvalidFileError(
            Reason.HEADER_TRUNCATED,
            f"the header claims {length} bytes, {size - 8} follow it. The file was cut short: copy "
            "it again.",
        )
    raw = _read_exactly(stream, length)
    if raw[:1] != b"{":
        raise InvalidFileError(
            Reason.HEADER_START,
            f"the header begins with {raw[:1]!r}, a safetensors header with b'{{'. {_EXPORT_AGAIN}",
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidFileError(
            Reason.HEADER_UTF8, f"the header is not UTF-8: {error}. {_EXPORT_AGAIN}"
        ) from error
    fields = parse_json(text, max_depth=_MAX_DEPTH)
    assert isinstance(fields, dict)  # noqa: S101  # it began with a brace
    return Header(fields, size - 8 - length)


def read_tensors(
    stream: BufferedIOBase, header: Header, ranks: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """Check the tensors that a header announces (rule 4), read them and check their values (rule 5).

    Args:
        stream: where `read_header` left it.
        header: the header.
        ranks: the names that may occur, each with the numbers of dimensions that it may have;
            None for a checkpoint whose names are its own.

    Returns:
        Each tensor as a read-only float32 array, in the order of the header.

    Raises:
        InvalidFileError: a tensor breaks a rule.
    """
    entries = [
        _entry(name, entry, header.data_bytes, ranks)
        for name, entry in header.fields.items()
        if name != METADATA_KEY
    ]
    in_file_order = sorted(entries, key=lambda entry: (entry.begin, entry.end))
    _check_layout(in_file_order, header.data_bytes)
    if ranks is not None:
        shapes = {entry.name: entry.shape for entry in entries}
        _check_head(shapes)
        _check_box(shapes)
    arrays = {entry.name: _read_values(stream, entry) for entry in in_file_order}
    if stream.read(1):
        raise _changed()
    return {entry.name: arrays[entry.name] for entry in entries}


def check_finite(name: str, values: npt.NDArray[np.float32]) -> None:
    """Refuse a tensor with an infinity or a NaN (rule 5), without a mask of its whole size.

    Raises:
        InvalidFileError: a value is not finite.
    """
    flat = values.reshape(-1)  # a view: every caller's values are contiguous
    for start in range(0, flat.size, _BLOCK):
        if not np.isfinite(flat[start : start + _BLOCK]).all():
            raise InvalidFileError(
                Reason.VALUE_NOT_FINITE,
                f"tensor {name[:80]!r} holds an infinity or a NaN. The training diverged or the file "
                "is damaged: use an earlier checkpoint, or a lower learning rate.",
            )


def _entry(
    name: str, entry: Json, data_bytes: int, ranks: Mapping[str, tuple[int, ...]] | None
) -> _Entry:
    shown = repr(name[:80])
    if ranks is not None and name not in ranks:
        raise InvalidFileError(
            Reason.TENSOR_NAME,
            f"tensor {shown} is none that a prompt holds ({', '.join(ranks)}). Is it a checkpoint? "
            "Then 'edgept prompt pack' may read it.",
        )
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise _bad_entry(shown)
    dtype, dims, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not (isinstance(dtype, str) and isinstance(dims, list) and isinstance(offsets, list)):
        raise _bad_entry(shown)
    shape = tuple(dim for dim in dims if isinstance(dim, int))
    bounds = tuple(offset for offset in offsets if isinstance(offset, int))
    if len(shape) != len(dims) or len(bounds) != len(offsets) or len(bounds) != 2:
        raise _bad_entry(shown)
    if dtype not in _ITEM_BYTES:
        raise InvalidFileError(
            Reason.TENSOR_DTYPE,
            f"tensor {shown} is {dtype[:20]!r}; {', '.join(_ITEM_BYTES)} are read. Convert it to "
            "float32 first.",
        )
    allowed_ranks = range(1, 9) if ranks is None else ranks[name]
    if len(shape) not in allowed_ranks:
        raise InvalidFileError(
            Reason.TENSOR_RANK,
            f"tensor {shown} has {len(shape)} dimensions, "
            f"{' or '.join(map(str, allowed_ranks))} are expected. {_EXPORT_AGAIN}",
        )
    if 0 in shape:
        raise InvalidFileError(
            Reason.TENSOR_ZERO_DIM,
            f"tensor {shown} has shape {shape}; a tensor without values says nothing. {_EXPORT_AGAIN}",
        )
    if name == "prompt_kv" and ranks is not None and shape[1] != 2:
        raise InvalidFileError(
            Reason.TENSOR_SHAPE,
            f"prompt_kv has shape {shape}; the second dimension is 2, keys and values. {_EXPORT_AGAIN}",
        )
    needed = math.prod(shape) * _ITEM_BYTES[dtype]
    if needed > _MAX_TENSOR_BYTES:
        raise InvalidFileError(
            Reason.TENSOR_OVERFLOW,
            f"tensor {shown} of shape {shape} exceeds 2^63 - 1 bytes. {_EXPORT_AGAIN}",
        )
    begin, end = bounds
    if begin > end or end > data_bytes:
        raise InvalidFileError(
            Reason.TENSOR_OUT_OF_BOUNDS,
            f"tensor {shown} is said to be bytes {begin} to {end} of {data_bytes}. The file was cut "
            "short or damaged: copy it again.",
        )
    if end - begin != needed:
        raise InvalidFileError(
            Reason.TENSOR_SIZE,
            f"tensor {shown} of shape {shape} in {dtype} needs {needed} bytes, its offsets span "
            f"{end - begin}. {_EXPORT_AGAIN}",
        )
    return _Entry(name, dtype, shape, begin, end)


def _bad_entry(shown: str) -> InvalidFileError:
    return InvalidFileError(
        Reason.TENSOR_ENTRY,
        f"tensor {shown} is not described by exactly dtype (a string), shape (integers) and "
        f"data_offsets (two integers). {_EXPORT_AGAIN}",
    )


def _check_layout(in_file_order: list[_Entry], data_bytes: int) -> None:
    if not in_file_order:
        raise InvalidFileError(Reason.TENSOR_MISSING, f"the file holds no tensor. {_EXPORT_AGAIN}")
    position = 0
    for entry in in_file_order:
        if entry.begin != position:
            reason = Reason.DATA_HOLE if entry.begin > position else Reason.DATA_OVERLAP
            raise InvalidFileError(
                reason,
                f"tensor {entry.name[:80]!r} begins at byte {entry.begin}, the one before it ends at "
                f"{position}; tensors follow each other without a gap. {_EXPORT_AGAIN}",
            )
        position = entry.end
    if position != data_bytes:
        raise InvalidFileError(
            Reason.DATA_TRAILING,
            f"{data_bytes - position} bytes follow the last tensor. Something was appended to the "
            "file: copy or write it again.",
        )


def _check_head(shapes: Mapping[str, tuple[int, ...]]) -> None:
    bias, weight = shapes.get("head.bias"), shapes.get("head.weight")
    if bias is not None and (weight is None or weight[0] != bias[0]):
        raise InvalidFileError(
            Reason.HEAD_MISMATCH,
            f"head.bias has shape {bias}, head.weight {weight}; there is one bias per row of the "
            f"weight. {_EXPORT_AGAIN}",
        )
    dense = shapes.get("head.dense.weight"), shapes.get("head.dense.bias")
    size = 0 if weight is None else weight[1]
    if dense not in ((None, None), ((size, size), (size,))):
        raise InvalidFileError(
            Reason.HEAD_MISMATCH,
            f"head.dense.weight has shape {dense[0]}, head.dense.bias {dense[1]}, head.weight {weight}; "
            f"the layer in front of head.weight is as large as that has columns, both ways. {_EXPORT_AGAIN}",
        )


def _check_box(shapes: Mapping[str, tuple[int, ...]]) -> None:
    box = shapes.get("box.weight"), shapes.get("box.bias")
    weight = shapes.get("head.weight", (0, 0))
    if box not in ((None, None), ((4, weight[1]), (4,))):
        raise InvalidFileError(
            Reason.BOX_MISMATCH,
            f"box.weight has shape {box[0]}, box.bias {box[1]}, head.weight {shapes.get('head.weight')}; a "
            f"box is four numbers, each with a bias, read off what head.weight reads. {_EXPORT_AGAIN}",
        )


def _read_values(stream: BufferedIOBase, entry: _Entry) -> npt.NDArray[np.float32]:
    count = math.prod(entry.shape)
    values = np.empty(count, dtype="<f4")  # (count,)
    if entry.dtype == "F32":
        _read_into(stream, values)
    else:
        # The halves are read into the upper half of their float32 array. Widening from the front
        # never reaches a half that is still to be read: block [a, b) is written to halves
        # [2a, 2b), and what is unread starts at count + b >= 2b.
        halves = values.view("<u2")[count:]  # (count,)
        _read_into(stream, halves)
        for start in range(0, count, _BLOCK):
            block = halves[start : start + _BLOCK].copy()
            values[start : start + _BLOCK] = _widen(block, entry.dtype)
    check_finite(entry.name, values)
    values.flags.writeable = False
    return values.reshape(entry.shape)


def _widen(halves: npt.NDArray[np.uint16], dtype: str) -> npt.NDArray[np.float32]:
    if dtype == "BF16":  # a bfloat16 is the upper half of a float32
        return (halves.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):  # a signalling NaN; refused afterwards
        return halves.view(np.float16).astype(np.float32)


def _read_into(
    stream: BufferedIOBase, array: npt.NDArray[np.float32] | npt.NDArray[np.uint16]
) -> None:
    if stream.readinto(array.data.cast("B")) != array.nbytes:
        raise _changed()


def _read_exactly(stream: BufferedIOBase, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise _changed()
    return data


def _changed() -> InvalidFileError:
    return InvalidFileError(
        Reason.FILE_CHANGED,
        "the file grew or shrank while it was read. Wait until whatever writes it has finished.",
    )
