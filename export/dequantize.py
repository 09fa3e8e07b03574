"""The weights that a quantised bundle computes with, as float matrices: what its kernels multiply by.

What a kernel makes of its activations (int8 under accuracy level 4 and in int8-dynamic) is not in the
weights and not here.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgept.bundle import check_files, read_manifest
from edgept.errors import ExportError

__all__ = ["QuantizedMatrix", "is_quantized", "read_quantized"]

_INTEGERS = {
    ir.DataType.INT2,
    ir.DataType.UINT2,
    ir.DataType.INT4,
    ir.DataType.UINT4,
    ir.DataType.INT8,
    ir.DataType.UINT8,
}
_LOOKUP = "GatherBlockQuantized"

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class QuantizedMatrix:
    """A matrix that a graph stores in integers.

    Attributes:
        name: of the initializer with the integers, and of the graph's file.
        weight: (outputs, inputs) float32, or (tokens, hidden) of an embedding; columns that only fill
            the last block are left out where the graph says how many count.
        is_embedding: whether rows are looked up rather than multiplied by.
        bits: of an integer.
    """

    name: str
    weight: Array
    is_embedding: bool
    bits: int


def is_quantized(bundle: str | os.PathLike[str]) -> bool:
    """Whether a bundle's weights are integers, by its manifest.

    Raises:
        UsageError: there is no bundle.
        InvalidFileError: its manifest is malformed.
    """
    return read_manifest(Path(bundle)).precision.startswith("int")


def read_quantized(bundle: str | os.PathLike[str]) -> list[QuantizedMatrix]:
    """Every matrix that a bundle stores in integers, of all its graphs, each once.

    Args:
        bundle: its folder; the files are compared with the manifest first.

    Raises:
        UsageError: there is no bundle.
        UntrustedError: a file is not the one that was exported.
        ExportError: a graph stores integers for an operator that this version does not know, so that
            its weights would be incomplete.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    found: dict[tuple[str, bool], QuantizedMatrix] = {}
    for name in manifest.graphs:
        graph = ir.load(folder / name).graph
        read: set[str] = set()
        for node in graph:
            for matrix, initializers in _matrices(graph, node, name):
                found[matrix.name, matrix.is_embedding] = matrix
                read |= initializers
        _check_complete(graph, read, name)
    return list(found.values())


def _matrices(
    graph: ir.Graph, node: ir.Node, file: str
) -> Iterator[tuple[QuantizedMatrix, set[str]]]:
    """What a node multiplies by or looks up, and the initializers that it is read from."""
    if node.op_type == "MatMulNBits":
        yield _product(node, file)
    elif node.op_type == _LOOKUP:
        yield _lookup(node, file)
    elif node.op_type == "MatMulInteger" and _constant(node, 1) is not None:
        yield _integer_product(graph, node, file)


def _product(node: ir.Node, file: str) -> tuple[QuantizedMatrix, set[str]]:
    """MatMulNBits: rows (outputs) of blocks along the inputs; onnxruntime's contrib operators."""
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        raise _unknown(node, file, "a group index")
    bits, block, size = (_attribute(node, name) for name in ("bits", "block_size", "K"))
    outputs = _attribute(node, "N")
    packed = _required(node, 1, file)  # (outputs, blocks, block · bits / 8) uint8
    integers = _unpack(packed.reshape(outputs, -1), bits).reshape(outputs, -1, block)
    scales = _required(node, 2, file).astype(np.float32).reshape(outputs, -1, 1)
    zeros = _zero_points(node, 3, scales.shape, bits)
    weight = ((integers - zeros) * scales).reshape(outputs, -1)[:, :size]
    return _made(node, 1, weight, bits, file)


def _lookup(node: ir.Node, file: str) -> tuple[QuantizedMatrix, set[str]]:
    """GatherBlockQuantized on rows: integers (tokens, hidden · bits / 8), scales (tokens, blocks)."""
    source = node.inputs[0]
    if source is not None and (reshape := source.producer()) is not None:
        if reshape.op_type != "Reshape":
            raise _unknown(node, file, f"rows from a {reshape.op_type}")
        source = reshape.inputs[0]
    tensor = None if source is None else source.const_value
    scales = _required(node, 1 if len(node.inputs) < 3 else 2, file).astype(np.float32)
    if source is None or tensor is None or _attribute(node, "gather_axis", 0) != 0:
        raise _unknown(node, file, "rows that are no initializer")
    if tensor.dtype != ir.DataType.UINT8 or scales.ndim != 2:
        raise _unknown(node, file, f"rows of {tensor.dtype}")
    bits, block = _attribute(node, "bits", 4), _attribute(node, "block_size", 128)
    tokens = len(scales)
    integers = _unpack(tensor.numpy().reshape(tokens, -1), bits).reshape(tokens, -1, block)
    scales = scales[..., None]  # (tokens, blocks, 1)
    weight = ((integers - _zero_points(node, 3, scales.shape, bits)) * scales).reshape(tokens, -1)
    matrix = QuantizedMatrix(f"{file}: {source.name}", weight, is_embedding=True, bits=bits)
    return matrix, {str(source.name), *_names(node, (2, 3))}


def _integer_product(graph: ir.Graph, node: ir.Node, file: str) -> tuple[QuantizedMatrix, set[str]]:
    """MatMulInteger, whose result is cast and multiplied by what comes in's scale times the weights'."""
    integers = _required(node, 1, file).astype(np.float32)  # (inputs, outputs)
    zeros = _constant(node, 3)
    if zeros is not None:
        integers = integers - zeros.astype(np.float32)
    scales = _rescaling(graph, node)
    if scales is None or integers.ndim != 2:
        raise _unknown(node, file, "no scale behind it")
    weight = np.ascontiguousarray((integers * scales.astype(np.float32)).T)
    return _made(node, 1, weight, 8, file)


def _rescaling(graph: ir.Graph, node: ir.Node) -> npt.NDArray[np.generic] | None:
    """The weights' scales, () or (outputs,): in Mul(Cast(node), Mul(scale of what comes in, scales))."""
    casts = [user for user in node.outputs[0].consumers() if user.op_type == "Cast"]
    for cast in casts:
        for product in cast.outputs[0].consumers():
            for factor in product.inputs if product.op_type == "Mul" else ():
                scaling = None if factor is None else factor.producer()
                if scaling is None or scaling.op_type != "Mul":
                    continue
                for value in scaling.inputs:
                    if value is not None and value.name in graph.initializers:
                        tensor = value.const_value
                        return None if tensor is None else tensor.numpy()
    return None


def _unpack(packed: npt.NDArray[np.generic], bits: int) -> Array:
    """Unsigned integers (rows, columns) float32, the lowest bits of each byte first."""
    if bits == 8:
        return packed.astype(np.float32)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (packed.astype(np.uint8)[..., None] >> shifts) & ((1 << bits) - 1)
    return parts.reshape(len(packed), -1).astype(np.float32)


def _zero_points(node: ir.Node, index: int, shape: tuple[int, ...], bits: int) -> Array:
    """What stands for 0 in each block, (rows, blocks, 1); the middle of the range where nothing is said."""
    given = _constant(node, index)
    rows, blocks, _ = shape
    if given is None:
        return np.full((1, 1, 1), 1 << (bits - 1), np.float32)
    if given.dtype.kind == "f":
        return given.astype(np.float32).reshape(shape)
    return _unpack(given.reshape(rows, -1), bits)[:, :blocks].reshape(shape)


def _made(
    node: ir.Node, index: int, weight: Array, bits: int, file: str
) -> tuple[QuantizedMatrix, set[str]]:
    (name,) = _names(node, (index,))
    matrix = QuantizedMatrix(f"{file}: {name}", weight, is_embedding=False, bits=bits)
    return matrix, {name, *_names(node, (2, 3))}


def _names(node: ir.Node, indices: tuple[int, ...]) -> set[str]:
    values = [node.inputs[index] for index in indices if index < len(node.inputs)]
    return {str(value.name) for value in values if value is not None}


def _constant(node: ir.Node, index: int) -> npt.NDArray[np.generic] | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    tensor = None if value is None else value.const_value
    return None if tensor is None else tensor.numpy()


def _required(node: ir.Node, index: int, file: str) -> npt.NDArray[np.generic]:
    found = _constant(node, index)
    if found is None:
        raise _unknown(node, file, f"an input {index} that is no initializer")
    return found


def _attribute(node: ir.Node, name: str, default: int | None = None) -> int:
    if name in node.attributes:
        return node.attributes[name].as_int()
    if default is None:
        raise ExportError(f"the node {node.name} has no {name}; please report this bundle.")
    return default


def _check_complete(graph: ir.Graph, read: set[str], file: str) -> None:
    """Refuse integers that no operator above reads: a matrix that is quantised in another way."""
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in _INTEGERS or name in read or tensor.size < 2:
            continue
        users = sorted({node.op_type for node in value.consumers()})
        raise ExportError(
            f"{file} stores {name} {list(tensor.shape)} in {tensor.dtype.name.lower()} for "
            f"{', '.join(users) or 'no operator'}, which this version does not turn back into floats. Tune "
            "with --weights float."
        )


def _unknown(node: ir.Node, file: str, what: str) -> ExportError:
    return ExportError(
        f"{file}: {node.op_type} {node.name} has {what}, which this version does not turn back into "
        "floats. Tune with --weights float."
    )
