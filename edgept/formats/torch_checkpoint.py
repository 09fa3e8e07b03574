"""Read the tensors of a .pt, .pth or .bin file that torch.save wrote, without torch."""

import math
import os
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgept.errors import InvalidFileError
from edgept.formats.regular_file import open_regular
from edgept.formats.safetensors_strict import check_finite
from edgept.formats.stored_zip import read_stored_zip
from edgept.formats.tensor_pickle import Storage, Tensor, interpret

__all__ = ["parse_torch_checkpoint", "read_torch_checkpoint"]

_DTYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "float64": "<f8"}
_MAX_NESTING = 4


def read_torch_checkpoint(
    path: str | os.PathLike[str], *, max_bytes: int, follow_links: bool = False
) -> dict[str, npt.NDArray[np.float32]]:
    """Read a torch.save file as float32 arrays.

    Args:
        path: the file.
        max_bytes: the largest file to accept.
        follow_links: whether the file may be a symbolic link.

    Returns:
        The tensors by name. A lone tensor has the name "". Nested dictionaries are flattened, their
        names joined with dots. What is no tensor (an epoch, a configuration's text) is left out.

    Raises:
        UsageError: there is no such file.
        InvalidFileError: the file is no such checkpoint, or holds what a prompt does not need.
    """
    with open_regular(path, max_bytes=max_bytes, follow_links=follow_links) as (stream, size):
        return parse_torch_checkpoint(stream.read(size))


def parse_torch_checkpoint(data: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """As `read_torch_checkpoint`, of the file's bytes."""
    entries = read_stored_zip(data)
    folders = {name.split("/")[0] for name in entries}
    root = next(iter(folders)) if len(folders) == 1 else ""
    if f"{root}/data.pkl" not in entries:
        raise InvalidFileError(
            "checkpoint-layout",
            "the archive is no torch.save file: it has no data.pkl. TorchScript and other archives "
            "are not read; save the prompt's tensors with torch.save or as .safetensors.",
        )
    if bytes(entries.get(f"{root}/byteorder", b"little")) != b"little":
        raise InvalidFileError(
            "checkpoint-byte-order",
            "the checkpoint is not little-endian. Save it again on a little-endian machine, or as "
            ".safetensors.",
        )
    tensors = _flatten(interpret(bytes(entries[f"{root}/data.pkl"])), "", 0, set())
    if not tensors:
        raise InvalidFileError(
            "checkpoint-empty", "the checkpoint holds no tensor. Save the prompt's tensors in it."
        )
    # A few bytes can describe many views of one storage: their sum is held to the file's size.
    if sum(map(_stored_bytes, tensors.values())) > len(data):
        raise InvalidFileError(
            "checkpoint-expanded",
            "the checkpoint's tensors are larger than the file: they share or repeat their numbers. "
            "Save contiguous copies: tensor.contiguous().clone().",
        )
    return {
        name: _materialise(name, tensor, entries, f"{root}/data/")
        for name, tensor in tensors.items()
    }


def _flatten(value: object, prefix: str, depth: int, seen: set[int]) -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {prefix: value}
    if not isinstance(value, dict):
        return {}
    if depth == _MAX_NESTING or id(value) in seen:
        raise InvalidFileError(
            "checkpoint-nesting",
            f"dictionaries nest deeper than {_MAX_NESTING}, or one stands in two places. Save the "
            "prompt's tensors alone.",
        )
    seen.add(id(value))
    tensors: dict[str, Tensor] = {}
    for key, member in value.items():
        name = f"{prefix}.{key}" if prefix else key
        tensors.update(_flatten(member, name, depth + 1, seen))
    return tensors


def _stored_bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * np.dtype(_DTYPES[tensor.storage.dtype]).itemsize


def _materialise(
    name: str, tensor: Tensor, entries: Mapping[str, memoryview], folder: str
) -> npt.NDArray[np.float32]:
    numbers = _numbers(name, tensor.storage, entries, folder)  # (storage.count,)
    shape, strides = tensor.shape, tensor.strides
    last = tensor.offset + sum(
        (size - 1) * stride for size, stride in zip(shape, strides, strict=True)
    )
    if 0 in shape or last >= numbers.size or math.prod(shape) > numbers.size:
        raise InvalidFileError(
            "checkpoint-shape",
            f"tensor {name[:80]!r} (offset {tensor.offset}, shape {shape}, strides {strides}) is "
            f"empty or does not lie within its {numbers.size} stored numbers. Save it again.",
        )
    view = np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :],
        shape,
        [stride * numbers.itemsize for stride in strides],
        writeable=False,
    )
    values: npt.NDArray[np.float32]
    if tensor.storage.dtype == "bfloat16":  # the upper half of a float32
        wide = view.astype(np.uint32, order="C")
        wide <<= 16
        values = wide.view(np.float32)
    else:
        with np.errstate(over="ignore", invalid="ignore"):  # refused below
            values = view.astype(np.float32, order="C")
    check_finite(name, values)
    values.flags.writeable = False
    return values


def _numbers(
    name: str, storage: Storage, entries: Mapping[str, memoryview], folder: str
) -> npt.NDArray[np.generic]:
    raw = entries.get(folder + storage.key)
    dtype = np.dtype(_DTYPES[storage.dtype])
    if raw is None or raw.nbytes != storage.count * dtype.itemsize:
        found = "missing" if raw is None else f"{raw.nbytes} bytes"
        raise InvalidFileError(
            "checkpoint-storage",
            f"tensor {name[:80]!r} needs {storage.count} numbers of {storage.dtype}, the archive's "
            f"entry is {found}. The file is damaged: save it again.",
        )
    return np.frombuffer(raw, dtype)
