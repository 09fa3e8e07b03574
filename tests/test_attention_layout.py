"""Attention with its heads side by side and one bias: the same values, and untouched where that matters."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs edgept[export]")
pytest.importorskip("torch", reason="needs edgept[export]")
import onnx_ir as ir  # noqa: E402
import onnxruntime  # noqa: E402

from edgept.export.attention_biases import drop_biases  # noqa: E402
from edgept.export.attention_layout import join_heads  # noqa: E402

HEADS, SIZE = 4, 8


def attention_graph(change: Callable[[list[str]], list[str]] = lambda lines: lines) -> ir.Model:
    """Queries, keys and values (batch, sequence, 32), split into heads, attended, merged."""
    lines = [
        "s = Constant <value = int64[4] {0, 0, 4, 8}> ()",
        "m = Constant <value = int64[3] {0, 0, 32}> ()",
        *(f"{name}3 = Reshape (x{name}, s)" for name in "qkv"),
        *(f"{name}4 = Transpose <perm = [0, 2, 1, 3]> ({name}3)" for name in "qkv"),
        "a = Attention <scale = 0.5> (q4, k4, v4, mask)",
        "t = Transpose <perm = [0, 2, 1, 3]> (a)",
        "r = Reshape (t, m)",
        "y = Neg (r)",
    ]
    text = f"""
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[b, n, 32] xq, float[b, n, 32] xk, float[b, n, 32] xv, float[b, 1, n, n] mask) => (float[b, n, 32] y)
        {{ {" ".join(change(lines))} }}
    """
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
    model: ir.Model = ir.from_proto(proto)
    for name in "qkv":  # torch's graphs say it; inference does not see through the constant
        value = next(node.outputs[0] for node in model.graph if node.outputs[0].name == f"{name}4")
        value.shape = ir.Shape(["b", HEADS, "n", SIZE])
    return model


def run(model: ir.Model) -> np.ndarray:
    random = np.random.default_rng(0)
    feeds = {f"x{name}": random.normal(size=(2, 5, 32)).astype(np.float32) for name in "qkv"}
    feeds["mask"] = np.where(random.random((2, 1, 5, 5)) < 0.3, -1e9, 0).astype(np.float32)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    found: np.ndarray = session.run(None, feeds)[0]
    return found


def test_values_stay() -> None:
    apart, joined = attention_graph(), attention_graph()
    assert join_heads(joined) == 1
    assert [node.op_type for node in joined.graph] == ["Attention", "Neg"]
    np.testing.assert_allclose(run(joined), run(apart), atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # heads are not moved to the front
        ("q4 = Transpose <perm = [0, 2, 1, 3]> (q3)", "q4 = Transpose <perm = [0, 2, 3, 1]> (q3)"),
        # keys come from something else than a Reshape
        ("k3 = Reshape (xk, s)", "kk = Reshape (xk, s) k3 = Neg (kk)"),
        # what attention gives is read elsewhere, too
        ("y = Neg (r)", "z = ReduceSum <keepdims = 0> (a) n = Neg (r) y = Add (n, z)"),
        # it is merged in another order
        ("t = Transpose <perm = [0, 2, 1, 3]> (a)", "t = Transpose <perm = [0, 1, 2, 3]> (a)"),
    ],
)
def test_other_attention_stays_as_it_is(old: str, new: str) -> None:
    model = attention_graph(lambda lines: [new if line == old else line for line in lines])
    before = [node.op_type for node in model.graph]
    assert join_heads(model) == 0
    assert [node.op_type for node in model.graph] == before


def layer_graph(softcap: float = 0.0, bias: str = "bv") -> ir.Model:
    """One attention between products with biases."""
    width = HEADS * SIZE
    text = f"""
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[b, n, 32] x, float[b, 1, n, n] mask, float[n, 32] given) => (float[b, n, 32] y) {{
            mq = MatMul (x, wq) q = Add (mq, bq)
            mk = MatMul (x, wk) k = Add (bk, mk)
            mv = MatMul (x, wv) v = Add (mv, {bias})
            a = Attention <q_num_heads = 4, kv_num_heads = 4, softcap = {softcap}> (q, k, v, mask)
            mo = MatMul (a, wo) y = Add (mo, bo)
        }}
    """
    model: ir.Model = ir.from_proto(onnx.parser.parse_model(text))
    random = np.random.default_rng(1)
    for name in "qkvo":
        for kind, shape in (("w", (width, width)), ("b", (width,))):
            tensor = ir.tensor(random.normal(0, 0.5, shape).astype(np.float32), name=kind + name)
            value = next(
                (
                    item
                    for node in model.graph
                    for item in node.inputs
                    if item is not None and item.name == tensor.name
                ),
                None,
            )
            if value is None:
                continue
            value.const_value, value.shape = tensor, ir.Shape(shape)
            value.type = ir.TensorType(ir.DataType.FLOAT)
            model.graph.register_initializer(value)
    return model


def run_layer(model: ir.Model) -> np.ndarray:
    random = np.random.default_rng(0)
    mask = np.where(random.random((2, 1, 5, 5)) < 0.3, np.finfo(np.float32).min, 0)
    feeds = {
        "x": random.normal(size=(2, 5, 32)).astype(np.float32),
        "mask": mask.astype(np.float32),
        "given": random.normal(size=(5, 32)).astype(np.float32),
    }
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    found: np.ndarray = session.run(None, feeds)[0]
    return found


def test_biases_of_keys_and_values_are_not_missed() -> None:
    full, fewer = layer_graph(), layer_graph()
    assert drop_biases(fewer) == 1
    assert [node.op_type for node in fewer.graph].count("Add") == 2
    assert not {"bk", "bv", "bo"} & set(fewer.graph.initializers)
    np.testing.assert_allclose(run_layer(fewer), run_layer(full), atol=2e-5)


@pytest.mark.parametrize("change", [{"softcap": 5.0}, {"bias": "given"}])
def test_biases_that_count_stay(change: dict[str, Any]) -> None:
    model = layer_graph(**change)
    assert drop_biases(model) == 0
    assert [node.op_type for node in model.graph].count("Add") == 4
