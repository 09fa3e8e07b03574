"""`--exclude-modules` and `--head-precision`: what stays float, what becomes eight bits, on every way of export."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner

from edgept.bundle import MANIFEST_NAME, read_manifest
from edgept.cli import main
from edgept.errors import InvalidFileError, UsageError
from edgept.export import export_model
from tests.conftest import matrix

Folder = Callable[[str], Path]


def weights_of(bundle: Path) -> Counter[str]:
    """Products with a matrix of the bundle's: "float", or how many bits."""
    found: Counter[str] = Counter()
    for path in sorted(bundle.glob("*.onnx")):
        graph = onnx.load(path, load_external_data=False).graph
        stored = {item.name for item in graph.initializer}
        for node in graph.node:
            if node.op_type == "MatMulNBits":
                found[next(str(item.i) for item in node.attribute if item.name == "bits")] += 1
            elif node.op_type == "MatMulInteger":
                found["dynamic"] += 1
            elif node.op_type in ("MatMul", "Gemm") and node.input[1] in stored:
                found["float"] += 1
    return found


@pytest.mark.parametrize(("kind", "precision"), matrix([("gpt2", "int8")], [("llama", "int4")]))
def test_without_any_integers_it_is_pytorch(
    kind: str, precision: str, model_folder: Folder, tmp_path: Path
) -> None:
    """A star keeps all that there is, embeddings that are tied to a head among it."""
    made = export_model(
        str(model_folder(kind)), tmp_path / "b", precision=precision, exclude_modules=["*"]
    )
    assert made.parity is not None
    assert made.parity.max_rel < 1e-4
    found = weights_of(tmp_path / "b")
    assert set(found) == {"float"}
    assert found["float"] >= 9


@pytest.mark.parametrize(
    ("kind", "patterns", "expected"),
    matrix(
        [
            # tied, through onnxruntime-genai's builder, which packs q, k and v where none of them is kept
            (
                "llama",
                ["*.mlp.down_proj", "model.layers.0.self_attn.q_proj"],
                {"float": 3 + 1, "4": 3 * 7 - 4, "8": 1},
            ),
            ("gpt2", ["transformer.h.0.*", "*.c_proj"], {"float": 4 + 2, "4": 2, "8": 1}),
        ],
        [
            ("qwen2", ["model.layers.1"], {"float": 7, "4": 7, "8": 1}),  # not tied
            # keys and values of the cross-attention are in the encoder's graph
            ("t5", ["decoder.block.*.layer.1"], {"float": 3 * 4, "8": 1}),
        ],
    ),
)
def test_modules_and_head(
    kind: str, patterns: list[str], expected: dict[str, int], model_folder: Folder, tmp_path: Path
) -> None:
    bundle = tmp_path / "b"
    made = export_model(
        str(model_folder(kind)),
        bundle,
        precision="int4",
        block_size=16,
        exclude_modules=patterns,
        head_precision="int8",
    )
    found = weights_of(bundle)
    assert {bits: found[bits] for bits in expected} == expected
    assert set(found) == {"float", "4", "8"}
    manifest = read_manifest(bundle)
    assert (manifest.exclude_modules, manifest.head_precision) == (patterns, "int8")
    assert manifest == made.manifest
    assert made.parity is not None
    assert 1e-4 < made.parity.max_rel < 1


def test_dynamic_int8_keeps_modules_too(model_folder: Folder, tmp_path: Path) -> None:
    options: dict[str, Any] = {"task": "text-classification", "precision": "int8-dynamic"}
    export_model(
        str(model_folder("bert")),
        tmp_path / "b",
        **options,
        exclude_modules=["*.query", "bert.pooler"],
    )
    assert weights_of(tmp_path / "b") == {"float": 2 + 1, "dynamic": 2 * 5}


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("llama", {"exclude_modules": ["*.nothing"]}, r"none of the 22 linear layers of Llama"),
        (
            "llama",
            {"exclude_modules": ["*.nothing"]},
            r"model\.layers\.\*\.mlp\.down_proj, lm_head",
        ),
        ("llama", {"exclude_modules": ["*"], "precision": "fp32"}, "all are floats"),
        ("bert", {"exclude_modules": ["*"]}, "in fp32 all are floats"),  # an encoder's default
        (
            "bert",
            {"exclude_modules": ["classifier"], "precision": "int8"},
            "names the model's head",
        ),
        ("llama", {"head_precision": "int8", "precision": "int8"}, "whose other weights are int4"),
        ("llama", {"head_precision": "int2"}, "expected one of int8"),
        ("bert", {"head_precision": "int8", "precision": "int4"}, "a language model's head"),
        (
            "llama",
            {"head_precision": "int8", "exclude_modules": ["lm_head"]},
            "Leave one of the two out",
        ),
    ],
)
def test_what_makes_no_sense(
    kind: str, arguments: dict[str, Any], words: str, model_folder: Folder, tmp_path: Path
) -> None:
    task = "text-classification" if kind == "bert" else None
    with pytest.raises(UsageError, match=words):
        export_model(str(model_folder(kind)), tmp_path / "b", task=task, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_command_line(model_folder: Folder, tmp_path: Path) -> None:
    command = ["export", model_folder("gpt2"), "-o", tmp_path / "b", "--precision", "int4"]
    command += ["--exclude-modules", "*.c_proj", "--exclude-modules", "transformer.h.0"]
    command += ["--head-precision", "int8", "--no-verify", "--json"]
    result = CliRunner().invoke(main, [str(argument) for argument in command])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["exclude_modules"] == ["*.c_proj", "transformer.h.0"]
    assert said["head_precision"] == "int8"


@pytest.mark.parametrize("field", [{"exclude_modules": "*"}, {"head_precision": "int2"}])
def test_manifest_that_says_otherwise(
    field: dict[str, Any], bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    raw = json.loads((bundle_of("llama") / MANIFEST_NAME).read_text())
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({**raw, **field}))
    with pytest.raises(InvalidFileError, match="is not"):
        read_manifest(tmp_path)
