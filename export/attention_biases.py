"""Two of attention's three biases, which need not be added to every position.

A bias of the keys adds the same number to all of a query's scores, and softmax takes no notice of it. One of
the values is in every weighted mean of them once, since the weights sum to one: so it may as well be in the
bias behind the next product. A prefix has no such biases, so they are subtracted from its few positions: all
keys and values are then without them.
"""

import numpy as np
import onnx_ir as ir

from edgept.export.attention_layout import remove_unused

__all__ = ["drop_biases"]


def drop_biases(model: ir.Model) -> int:
    """Leave a key's bias out and move a value's behind the next product, wherever a graph allows it.

    Args:
        model: whose attention is one operator that takes projections as they are; it is changed.

    Returns:
        How many attentions were changed.
    """
    graph = model.graph
    changed = 0
    for node in [item for item in graph if (item.domain, item.op_type) == ("", "Attention")]:
        keys, values = (_biased_product(value) for value in node.inputs[1:3])
        behind = _next_bias(node)
        softcap = node.attributes.get("softcap")
        if keys is None or values is None or behind is None or (softcap and softcap.as_float()):
            continue
        product, bias, addition, place = behind
        weights = product.inputs[1].const_value  # type: ignore[union-attr]  # as _next_bias found it
        if len(node.inputs) > 4 and not _subtract_from_prefix(graph, node, keys[1], values[1]):
            continue
        moved = _float64(values[1]) @ np.asarray(weights.numpy(), np.float64)  # type: ignore[union-attr]
        total = _float64(bias) + moved  # (width,)
        node.replace_input_with(1, keys[0])
        node.replace_input_with(2, values[0])
        addition.replace_input_with(place, _stored(graph, f"{bias.name}.{changed}", total, bias))
        changed += 1
    remove_unused(graph)
    return changed


def _subtract_from_prefix(
    graph: ir.Graph, node: ir.Node, key_bias: ir.Value, value_bias: ir.Value
) -> bool:
    """Take the biases (heads · size,) from keys and values (batch, heads, prefix, size) in front of the text."""
    heads = node.attributes["kv_num_heads"].as_int()
    pasts = node.inputs[4:6]
    if len(node.inputs) != 6 or None in pasts:
        return False
    for place, past, bias in ((4, pasts[0], key_bias), (5, pasts[1], value_bias)):
        spread = _float64(bias).reshape(heads, 1, -1)
        stored = _stored(graph, f"{bias.name}.{heads}_heads", spread, bias)
        difference = ir.node("Sub", [past, stored])
        graph.insert_before(node, difference)
        node.replace_input_with(place, difference.outputs[0])
    return True


def _biased_product(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """What a constant bias (width,) is added to, for this attention alone, and the bias."""
    addition = None if value is None else value.producer()
    if value is None or addition is None or addition.op_type != "Add" or len(value.uses()) != 1:
        return None
    for product, bias in (addition.inputs, addition.inputs[::-1]):
        maker = None if product is None else product.producer()
        if product is not None and maker is not None and maker.op_type == "MatMul" and _flat(bias):
            return (product, bias) if bias is not None else None
    return None


def _next_bias(node: ir.Node) -> tuple[ir.Node, ir.Value, ir.Node, int] | None:
    """The product with a constant matrix that alone reads an attention, and the bias added to it.

    Returns:
        The product, the bias (width,), the addition, and which of its inputs the bias is.
    """
    product = _only_reader(node.outputs[0])
    if product is None or product.op_type != "MatMul" or product.inputs[0] is not node.outputs[0]:
        return None
    weights, addition = product.inputs[1], _only_reader(product.outputs[0])
    if weights is None or weights.const_value is None or weights.is_graph_input():
        return None
    if addition is None or addition.op_type != "Add":
        return None
    place = 1 if addition.inputs[0] is product.outputs[0] else 0
    bias = addition.inputs[place]
    return (product, bias, addition, place) if bias is not None and _flat(bias) else None


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = value.uses()
    return None if value.is_graph_output() or len(uses) != 1 else next(iter(uses)).node


def _flat(value: ir.Value | None) -> bool:
    """Whether a value is a constant vector."""
    constant = None if value is None or value.is_graph_input() else value.const_value
    return constant is not None and len(constant.shape) == 1


def _float64(value: ir.Value) -> np.ndarray:
    if value.const_value is None:
        raise AssertionError("checked by the caller")
    return np.asarray(value.const_value.numpy(), np.float64)


def _stored(graph: ir.Graph, name: str, array: np.ndarray, like: ir.Value) -> ir.Value:
    if like.const_value is None:
        raise AssertionError("checked by the caller")
    tensor = ir.tensor(array.astype(like.const_value.dtype.numpy()), name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value
