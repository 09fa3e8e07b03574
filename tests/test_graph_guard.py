import os
import random
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from onnx import TensorProto, helper

from edgept.errors import EdgeptError, InvalidFileError, UntrustedError
from edgept.runtime.graph_guard import MAX_DEPTH, MESSAGES, check_graph

DATA = "model.onnx.data"


def external_tensor(location: str, name: str = "w") -> TensorProto:
    """A float tensor [2] whose 8 bytes are in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"offset": "0", "location": location, "length": "8"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph_of(nodes: list[onnx.NodeProto], name: str = "g") -> onnx.GraphProto:
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    return helper.make_graph(nodes, name, [], [y])


def valid_model() -> onnx.ModelProto:
    """If(c) {y = w} else {y = Gelu(v)}: w and v in external data, Gelu is com.microsoft's."""
    then = graph_of([helper.make_node("Identity", ["w"], ["y"])], "then")
    other = graph_of([helper.make_node("Gelu", ["v"], ["y"], domain="com.microsoft")], "else")
    other.initializer.append(external_tensor(DATA, "v"))
    graph = graph_of([helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)])
    graph.initializer.append(external_tensor(DATA))
    graph.initializer.append(helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def write(folder: Path, model: onnx.ModelProto | bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    (folder / DATA).write_bytes(bytes(8))
    return path


def check(path: Path) -> None:
    check_graph(path, {"model.onnx", DATA})


def varint(value: int) -> bytes:
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def test_valid_model_passes_and_runs(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = write(tmp_path, valid_model())
    check(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.run(None, {})[0].tolist() == [0.0, 0.0]


def test_field_numbers_are_those_of_the_onnx_package() -> None:
    for message, contents in MESSAGES.items():
        fields = getattr(onnx, message, None) or getattr(onnx.onnx_ml_pb2, message)
        by_number = fields.DESCRIPTOR.fields_by_number
        for number, content in contents.items():
            declared = by_number[number]
            if content.startswith("<"):
                assert declared.name == content.strip("<>"), (message, number)
            else:
                assert declared.message_type.name == content, (message, number)


def test_every_field_that_can_hold_an_operator_or_a_tensor_is_walked() -> None:
    for message, contents in MESSAGES.items():
        fields = getattr(onnx, message, None) or getattr(onnx.onnx_ml_pb2, message)
        for declared in fields.DESCRIPTOR.fields:
            child = declared.message_type.name if declared.message_type else None
            # Entries are walked in external_data only; the other lists of entries name no file.
            if child in MESSAGES and child != "StringStringEntryProto":
                assert contents.get(declared.number) == child, (message, declared.name)


@pytest.mark.parametrize(
    "location",
    [
        "../x",
        "/etc/passwd",
        "a/b",
        "./" + DATA,
        DATA + "/",
        DATA + "\0",
        "",
        ".",
        "..",
        "unlisted.data",
        "*/_ORT_MEM_ADDR_/*",
        "x" * 100_000,
        "\u2215etc",
    ],
)
def test_external_data_elsewhere_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "unlisted.data").write_bytes(bytes(8))
    model = valid_model()
    model.graph.initializer.append(external_tensor(location, "evil"))
    with pytest.raises(UntrustedError, match="weights in") as caught:
        check(write(tmp_path, model))
    assert len(str(caught.value)) < 500


def test_a_listed_name_that_is_no_plain_name_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(bytes(8))
    (tmp_path / "bundle").mkdir()
    for location in ("../outside", str(outside)):
        model = valid_model()
        model.graph.initializer.append(external_tensor(location, "evil"))
        with pytest.raises(UntrustedError, match="weights in"):
            check_graph(write(tmp_path / "bundle", model), [DATA, location])


def test_every_location_of_a_tensor_is_checked(tmp_path: Path) -> None:
    for first, second in (("../x", DATA), (DATA, "../x")):
        tensor = external_tensor(first, "evil")
        tensor.external_data.add(key="location", value=second)
        model = valid_model()
        model.graph.initializer.append(tensor)
        with pytest.raises(UntrustedError):
            check(write(tmp_path, model))


def test_an_entry_whose_value_comes_first_is_checked(tmp_path: Path) -> None:
    entry = field(2, b"../x") + field(1, b"location")
    model = field(7, field(5, field(13, entry)))
    with pytest.raises(UntrustedError):
        check(write(tmp_path, model))


def in_attribute(set_attribute: Callable[[onnx.AttributeProto], None]) -> onnx.ModelProto:
    model = valid_model()
    attribute = model.graph.node[0].attribute.add(name="extra")
    set_attribute(attribute)
    return model


def in_sparse_initializer() -> onnx.ModelProto:
    model = valid_model()
    model.graph.sparse_initializer.add().indices.CopyFrom(external_tensor("../x"))
    return model


def in_subgraph() -> onnx.ModelProto:
    model = valid_model()
    model.graph.node[0].attribute[0].g.initializer[0].external_data[1].value = "../x"
    return model


def in_function() -> onnx.ModelProto:
    model = valid_model()
    node = helper.make_node("Constant", [], ["y"], value=external_tensor("../x"))
    function = helper.make_function("", "F", [], ["y"], [node], [helper.make_opsetid("", 20)])
    model.functions.append(function)
    return model


def in_function_default() -> onnx.ModelProto:
    model = in_function()
    function = model.functions[0]
    function.attribute_proto.add(name="a").t.CopyFrom(external_tensor("../x"))
    del function.node[:]
    return model


def in_training_info() -> onnx.ModelProto:
    model = valid_model()
    model.training_info.add().algorithm.initializer.append(external_tensor("../x"))
    return model


def in_second_graph() -> bytes:
    # Protobuf merges a singular message that comes twice.
    second = onnx.GraphProto(initializer=[external_tensor("../x")])
    return bytes(valid_model().SerializeToString() + field(7, second.SerializeToString()))


@pytest.mark.parametrize(
    "model",
    [
        in_sparse_initializer(),
        in_subgraph(),
        in_function(),
        in_function_default(),
        in_training_info(),
        in_second_graph(),
        in_attribute(lambda a: a.t.CopyFrom(external_tensor("../x"))),
        in_attribute(lambda a: a.tensors.append(external_tensor("../x"))),
        in_attribute(lambda a: a.graphs.add().initializer.append(external_tensor("../x"))),
        in_attribute(lambda a: a.sparse_tensor.values.CopyFrom(external_tensor("../x"))),
        in_attribute(lambda a: a.sparse_tensors.add().values.CopyFrom(external_tensor("../x"))),
    ],
)
def test_external_data_is_found_wherever_a_tensor_may_be(
    tmp_path: Path, model: onnx.ModelProto | bytes
) -> None:
    with pytest.raises(UntrustedError, match=r"\.\./x"):
        check(write(tmp_path, model))


def test_links_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, valid_model())
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / DATA).rename(elsewhere)
    with pytest.raises(UntrustedError, match="cannot be read"):
        check(path)
    (tmp_path / DATA).symlink_to(elsewhere)
    with pytest.raises(UntrustedError, match="not a regular file"):
        check(path)
    (tmp_path / DATA).unlink()
    elsewhere.rename(tmp_path / DATA)
    check(path)
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(UntrustedError, match="is a link"):
        check(path)


def test_a_graph_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UntrustedError, match="No such file"):
        check(tmp_path / "model.onnx")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UntrustedError, match="not a regular file"):
        check(tmp_path / "pipe")
    with pytest.raises(UntrustedError, match="not a regular file"):
        check(tmp_path)


def foreign_opset() -> onnx.ModelProto:
    model = valid_model()
    model.opset_import.append(helper.make_opsetid("evil.ops", 1))
    return model


def foreign_node_in_a_branch() -> onnx.ModelProto:
    model = valid_model()
    model.graph.node[0].attribute[0].g.node[0].domain = "evil.ops"
    return model


def foreign_function() -> onnx.ModelProto:
    model = in_function()
    del model.functions[0].node[:]
    model.functions[0].domain = "evil.ops"
    return model


def foreign_node_in_a_function() -> onnx.ModelProto:
    model = foreign_function()
    model.functions[0].domain = ""
    model.functions[0].node.append(helper.make_node("X", [], ["y"], domain="evil.ops"))
    return model


def foreign_opset_of_a_function() -> onnx.ModelProto:
    model = foreign_function()
    model.functions[0].domain = ""
    model.functions[0].opset_import.append(helper.make_opsetid("evil.ops", 1))
    return model


@pytest.mark.parametrize(
    "model",
    [
        foreign_opset(),
        foreign_node_in_a_branch(),
        foreign_function(),
        foreign_node_in_a_function(),
        foreign_opset_of_a_function(),
    ],
)
def test_unknown_operator_domain_is_refused(tmp_path: Path, model: onnx.ModelProto) -> None:
    with pytest.raises(UntrustedError, match=r"evil\.ops"):
        check(write(tmp_path, model))


def test_a_domain_that_only_begins_like_an_allowed_one_is_refused(tmp_path: Path) -> None:
    for domain in ("com.microsoft.nchwc", "com.microsoft\0", "AI.ONNX", "ai.onnx.ml", "d" * 10**6):
        model = valid_model()
        model.opset_import.append(helper.make_opsetid(domain, 1))
        with pytest.raises(UntrustedError, match="operator domain"):
            check(write(tmp_path, model))


def test_a_compiled_engine_is_refused(tmp_path: Path) -> None:
    model = valid_model()
    context = helper.make_node("EPContext", [], [], "e", domain="com.microsoft", embed_mode=0)
    model.graph.node.append(context)
    with pytest.raises(UntrustedError, match="EPContext"):
        check(write(tmp_path, model))


MODEL = valid_model().SerializeToString()


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (b"", "empty"),
        (b"\x08\x08", "no graph"),
        (b"\x00", "out of range"),
        (b"\x3a", "does not end"),
        (MODEL[:-1], "past what holds it"),
        (MODEL + b"\x0b", "wire type 3"),
        (MODEL + b"\x0c", "wire type 4"),
        (MODEL + b"\x0f", "wire type 7"),
        (MODEL + b"\x08" + b"\xff" * 10 + b"\x01", "does not end"),
        (MODEL + b"\xff" * 9 + b"\x01", "out of range"),
        (MODEL + b"\x09" + bytes(7), "past what holds it"),
        (MODEL + b"\x0d" + bytes(3), "past what holds it"),
        (b"\x3a" + varint(1 << 62), "past what holds it"),
        (b"\x3a" + varint((1 << 64) - 1), "past what holds it"),
        # A node one byte longer than its graph.
        (field(7, b"\x0a\x05" + bytes(4)) + bytes(8), "past what holds it"),
    ],
)
def test_malformed(tmp_path: Path, model: bytes, found: str) -> None:
    with pytest.raises(InvalidFileError, match=found) as caught:
        check(write(tmp_path, model))
    assert caught.value.reason == "graph-malformed"


def test_nesting_is_limited(tmp_path: Path) -> None:
    def nested(levels: int) -> bytes:
        graph = b""
        for _ in range(levels):
            graph = field(1, field(5, field(6, graph)))
        return field(7, graph)

    check(write(tmp_path, nested((MAX_DEPTH - 1) // 3)))
    with pytest.raises(InvalidFileError, match="nested deeper"):
        check(write(tmp_path, nested((MAX_DEPTH - 1) // 3 + 1)))
    with pytest.raises(InvalidFileError, match="nested deeper"):
        check(write(tmp_path, nested(2000)))


def test_weights_are_stepped_over(tmp_path: Path) -> None:
    # Were the 64 MiB walked as a message, zero bytes would be refused as a field number.
    model = valid_model()
    weights = TensorProto(name="big", data_type=TensorProto.UINT8, dims=[1 << 26])
    weights.raw_data = bytes(1 << 26)
    model.graph.initializer.append(weights)
    check(write(tmp_path, model))


def test_mutants_raise_our_errors_only(tmp_path: Path) -> None:
    generator = random.Random(20)
    passed = 0
    for _ in range(2000):
        mutant = bytearray(MODEL)
        for _ in range(generator.randint(1, 4)):
            at = generator.randrange(len(mutant))
            kind = generator.randrange(4)
            if kind == 0:
                mutant[at] = generator.randrange(256)
            elif kind == 1:
                del mutant[at : at + generator.randint(1, 8)]
            elif kind == 2:
                mutant[at:at] = generator.randbytes(generator.randint(1, 8))
            else:
                mutant[at:] = mutant[at : generator.randrange(at, len(mutant)) + 1]
            if not mutant:
                break
        try:
            check(write(tmp_path, bytes(mutant)))
        except EdgeptError:
            continue
        passed += 1
    # Names and numbers may change without harm; a guard that refuses everything is broken too.
    assert 0 < passed < 1000


def test_a_mutant_that_passes_holds_nothing_that_onnx_would_read_otherwise(tmp_path: Path) -> None:
    """What this reader lets through is checked again with protobuf's own reader."""
    generator = random.Random(21)
    for _ in range(1000):
        mutant = bytearray(MODEL)
        mutant[generator.randrange(len(mutant))] = generator.randrange(256)
        try:
            check(write(tmp_path, bytes(mutant)))
        except EdgeptError:
            continue
        try:
            model = onnx.load_from_string(bytes(mutant))
        except DecodeError:
            continue  # bad UTF-8 and the like: onnxruntime refuses the model as well
        assert {opset.domain for opset in model.opset_import} <= {"", "ai.onnx", "com.microsoft"}
        tensors = list(model.graph.initializer)
        for node in model.graph.node:
            assert node.domain in ("", "ai.onnx", "com.microsoft")
            for attribute in node.attribute:
                tensors += attribute.g.initializer
                for inner in attribute.g.node:
                    assert inner.domain in ("", "ai.onnx", "com.microsoft")
        locations = {e.value for t in tensors for e in t.external_data if e.key == "location"}
        assert locations <= {DATA}


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    generator = random.Random(22)
    for size in (1, 2, 16, 1000):
        for _ in range(50):
            try:
                check(write(tmp_path, generator.randbytes(size)))
            except (InvalidFileError, UntrustedError):
                continue
            # A few random bytes can be an empty graph.
            assert size <= 16
