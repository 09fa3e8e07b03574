"""The bundle's quantised weights in PyTorch: all of them, in their places, and the same logits."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgept
from edgept import Prompt
from edgept.bundle import MANIFEST_NAME, hash_file, read_manifest
from edgept.errors import ExportError, UntrustedError
from edgept.manifest import BundleFile

pytest.importorskip("torch", reason="needs the workstation's extra")

import onnx_ir as ir
import torch

from edgept.export.dequantize import QuantizedMatrix, is_quantized, read_quantized
from edgept.export.fingerprint import fingerprint
from edgept.export.source import find_model, load_frozen
from edgept.tune.bundle_weights import bundle_weights, put_weights
from tests.seq2seq_models import logits

IDS = [1, *range(40, 100, 3), 2]
# (model, precision, task, parameters that are quantised): fused and tied; transposed; an encoder
CASES = [
    ("llama", "int4", None, 3 * 7 + 2),
    ("gpt2", "int8", None, 2 * 4 + 1),
    ("bert", "int8-dynamic", "text-classification", 2 * 6 + 1),
]


def changed(bundle: Path, folder: Path, change: Callable[[ir.Graph], None]) -> Path:
    """A bundle with another graph in it, and its hashes."""
    shutil.copytree(bundle, folder)
    model = ir.load(folder / "model.onnx")
    ir.external_data.load_to_model(model)
    change(model.graph)
    ir.save(model, folder / "model.onnx", external_data="model.onnx.data")
    manifest = read_manifest(folder)
    files = {
        name: BundleFile((folder / name).stat().st_size, hash_file(folder / name))
        for name in manifest.files
    }
    (folder / MANIFEST_NAME).write_text(replace(manifest, files=files).to_json())
    return folder


def float_kernels(graph: ir.Graph) -> None:
    """Products with float activations, so that weights alone are rounded."""
    for node in graph:
        if "accuracy_level" in node.attributes:
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 1)


def head() -> dict[str, Any]:
    weight = np.random.default_rng(3).normal(size=(3, 64)).astype(np.float32)
    return {"head.weight": weight, "head.bias": np.zeros(3, np.float32)}


def run_bundle(bundle: Path) -> Any:
    """Logits (tokens, vocabulary) or (classes,) of a text."""
    model = edgept.load(bundle)
    if model.manifest.head_size is None:
        return model.logits(IDS)
    prompt = Prompt(head(), task=model.manifest.task, labels=("a", "b", "c"))
    return model.classify(IDS, prompt=model.load_prompt(prompt)).logits


def run_torch(model: Any) -> Any:
    """The same in PyTorch."""
    with torch.no_grad():
        if hasattr(model, "bert"):
            pooled = model.bert(torch.tensor([IDS])).pooler_output[0].numpy()
            return pooled @ head()["head.weight"].T
        return model(torch.tensor([IDS])).logits[0].numpy()


@pytest.mark.parametrize(("kind", "precision", "task", "parameters"), CASES)
def test_the_model_computes_what_the_bundle_does(
    kind: str,
    precision: str,
    task: str | None,
    parameters: int,
    tmp_path: Path,
    model_folder: Callable[[str], Path],
    bundle_of: Callable[..., Path],
) -> None:
    bundle = bundle_of(kind, precision, task)
    model = load_frozen(find_model(str(model_folder(kind)), task))
    identity = fingerprint(model)
    own = run_torch(model)
    with bundle_weights(model, bundle) as replaced:
        assert replaced is not None
        assert len(replaced.parameters) == parameters
        assert replaced.matrices == len(read_quantized(bundle))
        low, high = (0.05, 0.15) if precision == "int4" else (0.001, 0.02)
        assert low < replaced.relative_error <= replaced.largest_error < high
        assert fingerprint(model) != identity
        found = run_torch(model)
    if precision == "int8-dynamic":  # what comes in is quantised, too, and nothing turns that off
        device = run_bundle(bundle)
        assert np.abs(found - device).max() < 0.9 * np.abs(own - device).max()
    else:
        device = run_bundle(changed(bundle, tmp_path / "b", float_kernels))
        np.testing.assert_allclose(found, device, atol=2e-4 * np.abs(device).max())
        assert np.abs(own - device).max() > 20 * np.abs(found - device).max()
    # and the model is as it was
    assert fingerprint(model) == identity
    np.testing.assert_array_equal(run_torch(model), own)


def test_kernels_that_round_activations_are_still_nearer(
    model_folder: Callable[[str], Path], bundle_of: Callable[..., Path]
) -> None:
    """The bundle as it runs: int4 weights, and int8 activations inside the kernels."""
    device = edgept.load(bundle_of("llama", "int4")).logits(IDS)
    model = load_frozen(find_model(str(model_folder("llama"))))
    own = np.abs(run_torch(model) - device).mean()
    with bundle_weights(model, bundle_of("llama", "int4")):
        assert np.abs(run_torch(model) - device).mean() < own / 4


def test_both_graphs_of_an_encoder_decoder_are_read(
    model_folder: Callable[[str], Path], bundle_of: Callable[..., Path]
) -> None:
    folder, bundle = model_folder("t5"), bundle_of("t5", "int4")
    answer = [5, 9, 11, 30]
    device = edgept.load(bundle)
    expected = device._seq2seq("logits").logits(device._compose(IDS, None), answer)
    model = load_frozen(find_model(str(folder)))
    own = np.abs(logits(model, IDS, answer) - expected).mean()
    with bundle_weights(model, bundle) as replaced:
        # of 3 layers each: 6 and 10 matrices, and the projection to logits
        assert replaced is not None
        assert replaced.matrices == len(replaced.parameters) == 3 * 6 + 3 * 10 + 1
        assert np.abs(logits(model, IDS, answer) - expected).mean() < own / 4


def test_a_float_bundle_has_nothing_to_read(bundle_of: Callable[..., Path]) -> None:
    assert not is_quantized(bundle_of("llama"))
    assert is_quantized(bundle_of("llama", "int4"))
    assert read_quantized(bundle_of("llama")) == []


def test_another_models_weights_are_refused_and_nothing_is_replaced(
    model_folder: Callable[[str], Path], bundle_of: Callable[..., Path]
) -> None:
    model = load_frozen(find_model(str(model_folder("llama"))))
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[3].normal_()  # a single row
    before = fingerprint(model)
    with (
        pytest.raises(ExportError, match=r"layers\.2\.mlp\.down_proj.* resembles no weight"),
        bundle_weights(model, bundle_of("llama", "int4")),
    ):
        pytest.fail("was replaced")
    assert fingerprint(model) == before


def test_integers_that_nothing_reads_are_refused(
    tmp_path: Path, bundle_of: Callable[..., Path]
) -> None:
    def rename(graph: ir.Graph) -> None:
        next(node for node in graph if node.op_type == "MatMulNBits").op_type = "MatMulBnb4"

    folder = changed(bundle_of("llama", "int4"), tmp_path / "b", rename)
    with pytest.raises(ExportError, match="in uint8 for MatMulBnb4"):
        read_quantized(folder)


class Toy(torch.nn.Module):
    """Matrices that a graph may fuse, split, or hold twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed = torch.nn.Embedding(20, 24)
        self.q, self.k = torch.nn.Linear(24, 32), torch.nn.Linear(24, 8)
        self.gate_up = torch.nn.Linear(24, 48)
        self.head = torch.nn.Linear(24, 20, bias=False)
        self.head.weight = self.embed.weight


def rounded(weight: Any, seed: int) -> Any:
    noise = np.random.default_rng(seed).normal(scale=0.08, size=tuple(weight.shape))
    array = weight.detach().numpy()
    return (array * (1 + noise)).astype(np.float32)


def matrix(name: str, *weights: Any, is_embedding: bool = False) -> QuantizedMatrix:
    return QuantizedMatrix(name, np.concatenate(weights), is_embedding, 4)


def test_fused_split_and_tied_matrices_find_their_places() -> None:
    toy = Toy()
    q, k, both = rounded(toy.q.weight, 1), rounded(toy.k.weight, 2), rounded(toy.gate_up.weight, 3)
    head, table = rounded(toy.head.weight, 4), rounded(toy.embed.weight, 5)
    padded = np.pad(table, ((0, 0), (0, 8)))  # whole blocks of 16
    replaced = put_weights(
        toy,
        [
            matrix("qk", q, k),
            matrix("up", both[20:]),
            matrix("gate", both[:20]),
            matrix("head", head),
            matrix("rows", padded, is_embedding=True),
        ],
    )
    assert replaced.matrices == 5
    assert replaced.parameters == (
        *("embed.weight", "gate_up.weight", "head.weight", "k.weight", "q.weight"),
    )
    for module, expected in (
        *((toy.q, q), (toy.k, k), (toy.gate_up, both)),
        *((toy.head, head), (toy.embed, table)),
    ):
        np.testing.assert_array_equal(module.weight.detach().numpy(), expected)


def test_equal_weights_are_all_replaced_and_contradictions_refused() -> None:
    toy = Toy()
    toy.gate_up = torch.nn.Linear(24, 32)
    with torch.no_grad():
        toy.gate_up.weight.copy_(toy.q.weight)
    q = rounded(toy.q.weight, 1)
    with pytest.raises(ExportError, match="differ"):
        put_weights(toy, [matrix("a", q), matrix("b", rounded(toy.q.weight, 2))])
    put_weights(toy, [matrix("a", q)])
    np.testing.assert_array_equal(toy.q.weight.detach().numpy(), q)
    np.testing.assert_array_equal(toy.gate_up.weight.detach().numpy(), q)


def test_a_table_with_equal_rows_keeps_its_order() -> None:
    """Tokens that were never trained have equal rows, or rows of zeros."""
    toy = Toy()
    with torch.no_grad():
        toy.embed.weight[3:9] = toy.embed.weight[0]
        toy.embed.weight[:2] = 0
    table = rounded(toy.embed.weight, 1)
    put_weights(toy, [matrix("rows", table, is_embedding=True)])
    np.testing.assert_array_equal(toy.embed.weight.detach().numpy(), table)


def test_a_bundle_that_nobody_exported_is_not_read(
    tmp_path: Path, bundle_of: Callable[..., Path]
) -> None:
    folder = Path(shutil.copytree(bundle_of("llama", "int4"), tmp_path / "b"))
    with (folder / "model.onnx.data").open("r+b") as file:
        file.write(b"0000")
    with pytest.raises(UntrustedError, match=r"model\.onnx\.data"):
        read_quantized(folder)
