"""Quantisation of graphs from torch.onnx, by onnxruntime's own quantizers.

Every product with a constant matrix becomes MatMulNBits: blocks along the input dimension, symmetric,
with activations quantised to int8 inside the kernel (accuracy level 4) on the CPU. With int8-dynamic it
becomes MatMulInteger between a DynamicQuantizeLinear and a rescaling, which onnxruntime fuses when it
loads the graph. Embedding tables keep their precision, and so do the modules that a user excludes.
"""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgept.export.kept_modules import head_module, match_modules, products_of_modules
from edgept.export.weights import WeightFormat

__all__ = ["quantize_weights"]


def quantize_weights(model: ir.Model, weights: WeightFormat, traced: Any) -> ir.Model:
    """Quantise the constant matrices of a graph.

    Args:
        model: a graph of `tracing.trace`, with float weights in memory.
        weights: of integers.
        traced: the PyTorch model that it is of, whole or in parts.

    Returns:
        The quantised model.

    Raises:
        UsageError: a pattern of modules to exclude names none.
    """
    _products_with_constants(model.graph)
    kept, head = _exceptions(model, weights, traced)
    if weights.dynamic:
        return _quantize_dynamically(model, kept)
    quantized = _quantize(ir.to_proto(model), weights, weights.bits, [*kept, *head])
    if head:
        quantized = _quantize(quantized, weights, 8, kept)  # what is left of the float products
    result: ir.Model = ir.from_proto(quantized)
    return result


def _exceptions(model: ir.Model, weights: WeightFormat, traced: Any) -> tuple[list[str], list[str]]:
    """Names of the products that stay in float, and of the head's where it has a precision of its own."""
    products = products_of_modules(model, traced)
    named = match_modules(traced, weights.exclude_modules).values()
    excluded = {module for modules in named for module in modules}
    kept = [node for node, module in products.items() if module in excluded]
    if weights.head_precision is None:
        return kept, []
    head = head_module(traced)
    return kept, [node for node, module in products.items() if module == head]


def _quantize(proto: Any, weights: WeightFormat, bits: int | None, exclude: Sequence[str]) -> Any:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        proto,
        bits=bits,
        block_size=weights.block_size,
        is_symmetric=True,
        accuracy_level=weights.accuracy_level or None,
        nodes_to_exclude=exclude,
        op_types_to_quantize=("MatMul",),
    )
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.ERROR)
    quantizer.process()
    return quantizer.model.model


def _quantize_dynamically(model: ir.Model, kept: Sequence[str]) -> ir.Model:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(prefix="edgept-work-") as work:
        path = Path(work) / "quantized.onnx"
        quantize_dynamic(
            ir.to_proto(model),
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=list(kept),
            per_channel=True,
            weight_type=QuantType.QInt8,
            # products of two activations (attention) stay in float
            extra_options={"MatMulConstBOnly": True},
        )
        quantized = ir.load(path)
        ir.external_data.load_to_model(quantized)
        return quantized


def _products_with_constants(graph: ir.Graph) -> None:
    """Write Gemm(x, W, b) and MatMul(x, Transpose(W)) as MatMul(x, W') with a constant W'."""
    for node in list(graph):
        if node.op_type == "Gemm" and _plain_gemm(node):
            activation, weight, *bias = node.inputs
            transposed = _int_attribute(node, "transB") == 1
            constant = _stored(graph, weight, transposed=transposed)
            product = ir.node("MatMul", [activation, constant], name=f"{node.name}/MatMul")
            product.metadata_props.update(node.metadata_props)  # says which module's it is
            replacement = [product]
            if bias and bias[0] is not None:
                replacement.append(
                    ir.node("Add", [product.outputs[0], bias[0]], name=f"{node.name}/Add")
                )
            _replace(graph, node, replacement)
        elif node.op_type == "MatMul" and node.inputs[1] is not None:
            source = node.inputs[1].producer()
            if (
                source is not None
                and source.op_type == "Transpose"
                and source.inputs[0] is not None
                and source.inputs[0].is_initializer()
                and source.inputs[0].const_value is not None
                and len(source.inputs[0].const_value.shape) == 2
            ):
                constant = _stored(graph, source.inputs[0], transposed=True)
                node.replace_input_with(1, constant)


def _plain_gemm(node: ir.Node) -> bool:
    weight = node.inputs[1]
    return (
        weight is not None
        and weight.is_initializer()
        and weight.const_value is not None
        and _int_attribute(node, "transA") == 0
        and all(
            node.attributes[name].as_float() == 1.0
            for name in ("alpha", "beta")
            if name in node.attributes
        )
    )


def _int_attribute(node: ir.Node, name: str) -> int:
    return node.attributes[name].as_int() if name in node.attributes else 0


def _stored(graph: ir.Graph, weight: ir.Value | None, *, transposed: bool) -> ir.Value:
    """The weight as an initializer of the orientation that MatMul takes, (inputs, outputs)."""
    if weight is None or weight.const_value is None:
        raise AssertionError("checked by the caller")
    if not transposed:
        return weight
    name = f"{weight.name}.transposed"
    if name in graph.initializers:
        return graph.initializers[name]
    array = np.ascontiguousarray(weight.const_value.numpy().T)
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _replace(graph: ir.Graph, node: ir.Node, replacement: list[ir.Node]) -> None:
    old, new = node.outputs[0], replacement[-1].outputs[0]
    new.name, new.shape, new.type = old.name, old.shape, old.type
    graph.insert_before(node, replacement)
    ir.convenience.replace_all_uses_with(old, new)
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = new
    graph.remove(node, safe=True)
