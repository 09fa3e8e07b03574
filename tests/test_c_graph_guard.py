"""The C library's look at a graph, before onnxruntime's, against the Python one: the same judgements."""

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from onnx import helper

from edgept.errors import EdgeptError, UntrustedError
from edgept.runtime.graph_guard import check_graph
from tests import test_graph_guard as guard
from tests.c_library import BUILD, make
from tests.test_graph_guard import DATA, MODEL, external_tensor, field, valid_model, varint

Hostile = onnx.ModelProto | bytes


@pytest.fixture(scope="module")
def judge() -> Callable[[list[Path]], list[str]]:
    make("build/guard")

    def judged(folders: list[Path]) -> list[str]:
        lines = "".join(f"{folder}\n" for folder in folders)
        done = subprocess.run(
            [BUILD / "guard"], input=lines, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    return judged


def in_python(folder: Path) -> str:
    try:
        check_graph(folder / "model.onnx", {"model.onnx.data"})
    except UntrustedError:
        return "5 "
    except EdgeptError as error:
        return f"3 {error.reason}"  # type: ignore[attr-defined]
    return "0 "


def hostile() -> Iterator[Hostile]:
    yield valid_model()
    for location in (
        "../x",
        "/etc/passwd",
        DATA + "/",
        DATA + "\0",
        "",
        "model.onnx",
        "x" * 100_000,
    ):
        model = valid_model()
        model.graph.initializer.append(external_tensor(location, "evil"))
        yield model
        tensor = external_tensor(DATA, "evil")
        tensor.external_data.add(key="location", value=location)
        model = valid_model()
        model.graph.initializer.append(tensor)
        yield model
    yield field(7, field(5, field(13, field(2, b"../x") + field(1, b"location"))))
    yield field(7, field(5, field(13, field(1, b"location"))))
    yield from (
        guard.in_sparse_initializer(),
        guard.in_subgraph(),
        guard.in_function(),
        guard.in_function_default(),
        guard.in_training_info(),
        guard.in_second_graph(),
        guard.in_attribute(lambda a: a.t.CopyFrom(external_tensor("../x"))),
        guard.in_attribute(lambda a: a.tensors.append(external_tensor("../x"))),
        guard.in_attribute(lambda a: a.graphs.add().initializer.append(external_tensor("../x"))),
        guard.in_attribute(lambda a: a.sparse_tensor.values.CopyFrom(external_tensor("../x"))),
        guard.in_attribute(
            lambda a: a.sparse_tensors.add().values.CopyFrom(external_tensor("../x"))
        ),
        guard.foreign_opset(),
        guard.foreign_node_in_a_branch(),
        guard.foreign_function(),
        guard.foreign_node_in_a_function(),
        guard.foreign_opset_of_a_function(),
    )
    for domain in ("ai.onnx", "com.microsoft.nchwc", "com.microsoft\0", "AI.ONNX", "d" * 10**6):
        model = valid_model()
        model.opset_import.append(helper.make_opsetid(domain, 1))
        yield model
    model = valid_model()
    model.graph.node.append(helper.make_node("EPContext", [], [], "e", domain="com.microsoft"))
    yield model
    for tail in (
        b"\x0b",
        b"\x0c",
        b"\x0f",
        b"\x08" + b"\xff" * 10,
        b"\xff" * 9 + b"\x01",
        b"\x09",
        b"\x0d",
    ):
        yield MODEL + tail
    yield MODEL + b"\x08" + b"\xff" * 9 + b"\x7f"  # a number of 70 bits, stepped over
    yield MODEL + b"\xba" + b"\x80" * 8 + b"\x02"  # a field's number of 65
    yield from (
        b"",
        b"\x00",
        b"\x3a",
        b"\x08\x08",
        b"\x3a" + varint(1 << 62),
        b"\x3a" + varint(2**64 - 1),
    )
    yield MODEL[:-1]
    for levels in (20, 21, 22, 40):
        graph = b""
        for _ in range(levels):  # graph, node, attribute
            graph = field(1, field(5, field(6, graph)))
        yield field(7, graph)


def mutants() -> Iterator[bytes]:
    chosen = random.Random(21)
    while True:
        mutant = bytearray(MODEL)
        for _ in range(chosen.randint(1, 4)):
            at = chosen.randrange(len(mutant))
            kind = chosen.randrange(4)
            if kind == 0:
                mutant[at] = chosen.randrange(256)
            elif kind == 1:
                del mutant[at : at + chosen.randint(1, 8)]
            elif kind == 2:
                mutant[at:at] = chosen.randbytes(chosen.randint(1, 8))
            else:
                mutant[at:] = mutant[at : chosen.randrange(at, len(mutant)) + 1]
            if not mutant:
                break
        yield bytes(mutant)


def test_graphs_are_judged_alike(tmp_path: Path, judge: Callable[[list[Path]], list[str]]) -> None:
    folders = []
    models = [*hostile(), *(model for _, model in zip(range(1500), mutants(), strict=False))]
    for number, model in enumerate(models):
        folder = tmp_path / str(number)
        folder.mkdir()
        raw = model if isinstance(model, bytes) else model.SerializeToString()
        (folder / "model.onnx").write_bytes(raw)
        (folder / "model.onnx.data").write_bytes(bytes(8))
        folders.append(folder)
    expected = [in_python(folder) for folder in folders]
    assert {*expected} == {"0 ", "3 graph-malformed", "5 "}
    for folder, ours, theirs in zip(folders, judge(folders), expected, strict=True):
        assert ours == theirs, (folder / "model.onnx").read_bytes().hex()[:2000]


def test_files_that_are_none(tmp_path: Path, judge: Callable[[list[Path]], list[str]]) -> None:
    linked, without, link, pipe, missing = (tmp_path / name for name in "abcde")
    for folder in (linked, without, link, pipe):
        folder.mkdir()
        (folder / "model.onnx").write_bytes(MODEL)
        (folder / "model.onnx.data").write_bytes(bytes(8))
    (linked / "model.onnx.data").rename(tmp_path / "elsewhere")
    (linked / "model.onnx.data").symlink_to(tmp_path / "elsewhere")
    (without / "model.onnx.data").unlink()
    (link / "model.onnx").rename(tmp_path / "graph")
    (link / "model.onnx").symlink_to(tmp_path / "graph")
    (pipe / "model.onnx").unlink()
    os.mkfifo(pipe / "model.onnx")
    folders = [linked, without, link, pipe, missing]
    assert judge(folders) == [in_python(folder) for folder in folders] == ["5 "] * 5
