"""Attention with its heads side by side: the same values, and untouched where a graph needs them apart."""

from collections.abc import Callable

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs edgept[export]")
pytest.importorskip("torch", reason="needs edgept[export]")
import onnx_ir as ir  # noqa: E402
import onnxruntime  # noqa: E402

from edgept.export.attention_layout import join_heads  # noqa: E402

HEADS, SIZE = 4, 8


def attention_graph(
    change: Callable[[list[str]], list[str]] = lambda lines: lines, prefix: int = 0
) -> ir.Model:
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
    past = "".join(f", float[b, 4, {prefix}, 8] past{name}" for name in "kv") if prefix else ""
    text = f"""
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[b, n, 32] xq, float[b, n, 32] xk, float[b, n, 32] xv, float[b, 1, n, m] mask{past}) => (float[b, n, 32] y)
        {{ {" ".join(change(lines))} }}
    """
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
    model: ir.Model = ir.from_proto(proto)
    for name in "qkv":  # torch's graphs say it; inference does not see through the constant
        value = next(node.outputs[0] for node in model.graph if node.outputs[0].name == f"{name}4")
        value.shape = ir.Shape(["b", HEADS, "n", SIZE])
    return model


def run(model: ir.Model, prefix: int = 0) -> np.ndarray:
    random = np.random.default_rng(0)
    feeds = {f"x{name}": random.normal(size=(2, 5, 32)).astype(np.float32) for name in "qkv"}
    scores = (2, 1, 5, prefix + 5)
    feeds["mask"] = np.where(random.random(scores) < 0.3, -1e9, 0).astype(np.float32)
    if prefix:
        shape = (2, HEADS, prefix, SIZE)
        feeds |= {f"past{name}": random.normal(size=shape).astype(np.float32) for name in "kv"}
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    found: np.ndarray = session.run(None, feeds)[0]
    return found


def test_values_stay() -> None:
    apart, joined = attention_graph(), attention_graph()
    assert join_heads(joined) == 1
    assert [node.op_type for node in joined.graph] == ["Attention", "Neg"]
    np.testing.assert_allclose(run(joined), run(apart), atol=1e-6)


def with_prefix(lines: list[str]) -> list[str]:
    """Three positions of keys and values in front of the text's."""
    new = "a = Attention <scale = 0.5> (q4, kc, vc, mask)"
    past = [f"{name}c = Concat <axis = -2> (past{name}, {name}4)" for name in "kv"]
    return [item for line in lines for item in ([*past, new] if "Attention" in line else [line])]


def test_a_prefix_stays_in_front() -> None:
    apart, joined = attention_graph(with_prefix, prefix=3), attention_graph(with_prefix, prefix=3)
    assert join_heads(joined) == 1
    assert [node.op_type for node in joined.graph] == ["Attention", "Neg"]
    np.testing.assert_allclose(run(joined, prefix=3), run(apart, prefix=3), atol=1e-6)


def test_a_reshape_to_the_same_shape_is_passed_over() -> None:
    model = attention_graph()
    attended = next(node for node in model.graph if node.op_type == "Attention").outputs[0]
    attended.shape = ir.Shape(["b", HEADS, "n", SIZE])
    same = ir.node("Reshape", [attended, ir.Value(name="anything")])
    same.outputs[0].shape = ir.Shape(["b", HEADS, "n", SIZE])
    transpose = attended.consumers()[0]
    transpose.replace_input_with(0, same.outputs[0])
    model.graph.insert_before(transpose, same)
    assert join_heads(model) == 1
    assert [node.op_type for node in model.graph] == ["Attention", "Neg"]
    np.testing.assert_allclose(run(model), run(attention_graph()), atol=1e-6)


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
