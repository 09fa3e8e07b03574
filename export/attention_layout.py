"""Attention on (batch, sequence, heads · head size), as projections give and take it.

torch.onnx splits the heads off by a Reshape and a Transpose on each side. ONNX's operator (opset 23) takes
queries, keys and values as they are, if it is told the number of heads; onnxruntime's then copies nothing.
Keys and values in front of those of the text, a prefix, are inputs of their own.
"""

import onnx_ir as ir

__all__ = ["join_heads"]

# (batch, sequence, heads, size) to (batch, heads, sequence, size), and back
_SWAP = (0, 2, 1, 3)


def join_heads(model: ir.Model) -> int:
    """Let attention take its heads side by side, wherever a graph splits them only for it.

    Args:
        model: from torch.onnx; it is changed. Attention of another kind, and in a graph of an opset below
            23, stays as it is.

    Returns:
        How many operators were changed.
    """
    graph = model.graph
    changed = 0
    for node in [item for item in graph if (item.domain, item.op_type) == ("", "Attention")]:
        pasts, split = zip(*(_prefix_of(value) for value in node.inputs[:3]), strict=True)
        joined = [_before_split(value) for value in split]
        after = _after_merge(node)
        heads = [_num_heads(value) for value in split]
        if after is None or None in joined or None in heads or heads[1] != heads[2]:
            continue
        others = [*node.inputs[3:]]
        if pasts != (None, None, None):
            if pasts[0] is not None or None in pasts[1:] or len(others) != 1:
                continue
            others += pasts[1:]
        attention = ir.node(
            "Attention",
            [*joined, *others],
            {**node.attributes, "q_num_heads": heads[0], "kv_num_heads": heads[1]},
            num_outputs=3 if pasts[1] else 1,  # onnxruntime wants the present where there is a past
            name=node.name,
        )
        new, old = attention.outputs[0], after.outputs[0]
        new.name, new.shape, new.type = node.outputs[0].name, old.shape, old.type
        graph.insert_before(node, attention)
        ir.convenience.replace_all_uses_with(old, new)
        changed += 1
    if changed:
        _remove_unused(graph)
    return changed


def _remove_unused(graph: ir.Graph) -> None:
    """Remove nodes and stored tensors that nothing reads.

    onnx_ir's own pass also takes the present from an attention, where nothing reads it.
    """
    for node in reversed(graph):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in [*graph.initializers.items()]:
        if not (value.uses() or value.is_graph_input() or value.is_graph_output()):
            del graph.initializers[name]


def _prefix_of(value: ir.Value | None) -> tuple[ir.Value | None, ir.Value | None]:
    """What stands in front of keys or values (batch, heads, sequence, size), and what behind it."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Concat" or len(node.inputs) != 2:
        return None, value
    if node.attributes["axis"].as_int() not in (2, -2):
        return None, value
    return node.inputs[0], node.inputs[1]


def _before_split(value: ir.Value | None) -> ir.Value | None:
    """(batch, sequence, width) of what a Reshape and a Transpose made (batch, heads, sequence, size)."""
    reshape = _swapped(value)
    if reshape is None or reshape.op_type != "Reshape":
        return None
    joined = reshape.inputs[0]
    return joined if joined is not None and _rank(joined) == 3 else None


def _after_merge(node: ir.Node) -> ir.Node | None:
    """The Reshape to (batch, sequence, width) behind an attention that has one output and one reader."""
    read = [value for value in node.outputs if value.uses() or value.is_graph_output()]
    if read != [node.outputs[0]]:
        return None
    transpose = _only_reader(_unchanged(node.outputs[0]), "Transpose")
    if transpose is None or tuple(transpose.attributes["perm"].as_ints()) != _SWAP:
        return None
    reshape = _only_reader(transpose.outputs[0], "Reshape")
    if reshape is None or reshape.outputs[0].is_graph_output() or _rank(reshape.outputs[0]) != 3:
        return None
    return reshape


def _swapped(value: ir.Value | None) -> ir.Node | None:
    """The producer of what is transposed to a value that has its heads in front."""
    transpose = None if value is None else value.producer()
    if (
        transpose is None
        or transpose.op_type != "Transpose"
        or transpose.inputs[0] is None
        or tuple(transpose.attributes["perm"].as_ints()) != _SWAP
    ):
        return None
    return transpose.inputs[0].producer()


def _unchanged(value: ir.Value) -> ir.Value:
    """What a Reshape to the shape that it has already makes of a value; else the value itself."""
    reshape = _only_reader(value, "Reshape")
    if reshape is None or value.shape is None or reshape.outputs[0].shape != value.shape:
        return value
    is_known = all(isinstance(size, int) or size.value is not None for size in value.shape)
    return reshape.outputs[0] if is_known else value


def _only_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    readers = value.consumers()
    if value.is_graph_output() or len(readers) != 1 or readers[0].op_type != op_type:
        return None
    return readers[0]


def _num_heads(value: ir.Value | None) -> int | None:
    """Of (batch, heads, sequence, size)."""
    if value is None or value.shape is None or value.shape.rank() != 4:
        return None
    heads = value.shape[1]
    return heads if isinstance(heads, int) else None


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else value.shape.rank()
