"""What every exported graph gets: virtual tokens, a choice of logits, metadata for C programs.

Inputs that a graph gains are overridable initializers: a program that does not know of them runs
the plain model, and onnxruntime's own adapters (`.onnx_adapter`) can set them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgept.errors import ExportError
from edgept.manifest import KVGeometry

__all__ = [
    "add_logits_to_keep",
    "add_virtual_tokens",
    "declare_head_inputs",
    "declare_input",
    "declare_prefix_input",
    "declare_prompt_input",
]

_EMBEDDING_OPS = ("Gather", "GatherBlockQuantized")
_PROJECTION_OPS = ("MatMul", "MatMulNBits", "Gemm")
_ALL_POSITIONS = 1 << 31


def declare_prompt_input(graph: ir.Graph, hidden_size: int, dtype: ir.DataType) -> ir.Value:
    """Make `prompt_embeds` (num_virtual_tokens, hidden) an input whose default is one row of zeros."""
    default = np.zeros((1, hidden_size), dtype.numpy())
    return declare_input(graph, "prompt_embeds", ["num_virtual_tokens", hidden_size], default)


def declare_head_inputs(graph: ir.Graph, head: Mapping[str, npt.NDArray[Any]]) -> None:
    """Make the head's inputs (head.weight, head.bias, …) optional ones, with these defaults.

    Args:
        graph: that has them.
        head: by name; of head.weight and head.bias the first dimension is free where the graph's is.
    """
    for name, default in head.items():
        value = next(item for item in graph.inputs if item.name == name)
        dims = [size if isinstance(size, int) else str(size.value) for size in value.shape or ()]
        declare_input(graph, name, dims, default)


def declare_prefix_input(graph: ir.Graph, kv: KVGeometry, dtype: ir.DataType) -> None:
    """Make an encoder's `prompt_kv` an optional input whose default is no position at all."""
    dims: list[str | int] = [kv.num_layers, 2, kv.num_kv_heads, "num_prefix_tokens", kv.head_dim]
    default = np.zeros((kv.num_layers, 2, kv.num_kv_heads, 0, kv.head_dim), dtype.numpy())
    declare_input(graph, "prompt_kv", dims, default)


def declare_input(
    graph: ir.Graph, name: str, dims: list[str | int], default: npt.NDArray[Any]
) -> ir.Value:
    """Make a value an input that may be left out; its shape and the value that it has then are given."""
    value = next((item for item in graph.inputs if item.name == name), None)
    if value is None:
        value = ir.Value(name=name)
        graph.inputs.append(value)
    tensor = ir.tensor(default, name=name)
    value.shape = ir.Shape(dims)
    value.type = ir.TensorType(tensor.dtype)
    value.const_value = tensor
    graph.register_initializer(value)
    return value


def add_virtual_tokens(
    graph: ir.Graph, vocab_size: int, hidden_size: int, *, scaled_embedding: bool
) -> None:
    """Give a graph that embeds `input_ids` its virtual tokens: ids from vocab_size on.

    Six small nodes compute Where(id >= vocab_size, prompt_embeds[id - vocab_size], embed(id)).

    Args:
        graph: a graph with the input `input_ids` and one embedding lookup.
        vocab_size: rows of the embedding.
        hidden_size: width of the embedding.
        scaled_embedding: the model's embedding module itself scales its rows (Gemma 3), so that
            a prompt, which peft puts behind that module, is not scaled.

    Raises:
        ExportError: the lookup is not found.
    """
    input_ids = next(item for item in graph.inputs if item.name == "input_ids")
    lookups = [node for node in input_ids.consumers() if node.op_type in _EMBEDDING_OPS]
    if len(lookups) != 1:
        raise ExportError(
            f"{len(lookups)} embedding lookups of input_ids in the built graph, expected one. This "
            "model needs support of its own: please report its config.json."
        )
    lookup = lookups[0]
    last = lookup
    if scaled_embedding:
        scales = [node for node in lookup.outputs[0].consumers() if node.op_type == "Mul"]
        if len(scales) != 1:
            raise ExportError(
                "the embedding scales its rows, but the built graph shows no scaling behind the "
                "lookup. This model needs support of its own: please report its config.json."
            )
        last = scales[0]
    embedded = last.outputs[0]  # (batch, sequence, hidden)
    if embedded.dtype is None:
        raise ExportError("the built graph does not say the embedding's type; please report this.")
    prompt_embeds = declare_prompt_input(graph, hidden_size, embedded.dtype)

    first_virtual = _constant(graph, "edgept.vocab_size", np.array(vocab_size, np.int64))
    zero = _constant(graph, "edgept.zero", np.array(0, np.int64))
    last_axis = _constant(graph, "edgept.last_axis", np.array([-1], np.int64))
    is_virtual = _node("GreaterOrEqual", [input_ids, first_virtual], "is_virtual")
    token_ids = _node("Where", [is_virtual.outputs[0], zero, input_ids], "token_ids")
    offsets = _node("Sub", [input_ids, first_virtual], "virtual_offsets")
    virtual_ids = _node("Max", [offsets.outputs[0], zero], "virtual_ids")
    rows = _node("Gather", [prompt_embeds, virtual_ids.outputs[0]], "virtual_embeds")
    column = _node("Unsqueeze", [is_virtual.outputs[0], last_axis], "is_virtual_column")
    graph.insert_before(lookup, [is_virtual, token_ids, offsets, virtual_ids, rows, column])
    lookup.replace_input_with(list(lookup.inputs).index(input_ids), token_ids.outputs[0])

    users = list(embedded.uses())
    chosen = _node("Where", [column.outputs[0], rows.outputs[0], embedded], "embeds")
    chosen.outputs[0].shape, chosen.outputs[0].type = embedded.shape, embedded.type
    graph.insert_after(last, chosen)
    for node, index in users:
        node.replace_input_with(index, chosen.outputs[0])


def add_logits_to_keep(graph: ir.Graph) -> None:
    """Let a run ask for the logits of the last positions only, before the head computes the rest.

    The new input `logits_to_keep` int64 [1] says how many of the last positions; by default all.

    Raises:
        ExportError: the head's projection is not found.
    """
    logits = next(item for item in graph.outputs if item.name == "logits")
    head = logits.producer()
    while head is not None and head.op_type not in _PROJECTION_OPS:
        head = head.inputs[0].producer() if head.inputs and head.inputs[0] is not None else None
    if head is None or head.op_type == "Gemm":
        raise ExportError("no projection to logits in the graph; please report this model.")
    count = ir.Value(
        name="logits_to_keep", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64)
    )
    count.const_value = ir.tensor(np.array([_ALL_POSITIONS], np.int64), name="logits_to_keep")
    graph.inputs.append(count)
    graph.register_initializer(count)
    end = _constant(graph, "edgept.end", np.array([np.iinfo(np.int64).max], np.int64))
    axis = _constant(graph, "edgept.sequence_axis", np.array([1], np.int64))
    hidden = head.inputs[0]  # (batch, sequence, hidden)
    start = _node("Neg", [count], "first_kept")
    kept = _node("Slice", [hidden, start.outputs[0], end, axis], "kept_hidden")
    graph.insert_before(head, [start, kept])
    head.replace_input_with(0, kept.outputs[0])
    for value in {item for item in (logits, head.outputs[0]) if item.shape is not None}:
        dims = list(value.shape or ())
        value.shape = ir.Shape([dims[0], "logits_kept", *dims[2:]])


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _node(op_type: str, inputs: list[ir.Value | None], output: str) -> ir.Node:
    node = ir.node(op_type, inputs, name=f"edgept/{output}")
    node.outputs[0].name = f"edgept/{output}"
    return node
