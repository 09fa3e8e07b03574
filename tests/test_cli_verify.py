"""`edgept verify`: a bundle against PyTorch, and against peft itself."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from edgept.bundle import MANIFEST_NAME, hash_file, read_manifest
from edgept.cli import main
from edgept.manifest import BundleFile
from tests.conftest import shared
from tests.peft_adapters import TASK_INDEX, make_adapter


@pytest.fixture(scope="module")
def bundle(bundle_of: Callable[..., Path]) -> Path:
    return bundle_of("llama")


@pytest.fixture(scope="module")
def base(model_folder: Callable[[str], Path]) -> Path:
    return model_folder("llama")


def verify(bundle: Path, *arguments: object) -> Result:
    command = ["verify", "-b", bundle, *arguments]
    return CliRunner().invoke(main, [str(argument) for argument in command])


def figures(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.output
    said: dict[str, object] = json.loads(result.stdout)
    assert said["passed"] is True
    assert isinstance(said["max_rel"], float)
    assert said["max_rel"] <= 1e-4
    assert said["greedy_equal"] == said["greedy_total"]
    return said


def test_under_random_prompts(bundle: Path, base: Path, tmp_path: Path) -> None:
    text = tmp_path / "ours.txt"
    text.write_text("where is my parcel and when will it come")
    result = verify(bundle, "--model", base, "--verify-text", text)
    assert result.exit_code == 0, result.output
    reference, parity, verdict = result.stdout.splitlines()
    assert reference.startswith("reference: LlamaForCausalLM in float32, PyTorch ")
    assert "top-1 100.0%" in parity
    assert "perplexity" in parity
    assert verdict == "verdict: equal (tolerance 0.0001 relative)"


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning", "multitask"])
def test_against_peft(method: str, bundle: Path, base: Path, tmp_path: Path) -> None:
    folder = make_adapter(method, base, tmp_path / method)
    task = ["--task-index", TASK_INDEX[method]] if method in TASK_INDEX else []
    said = figures(verify(bundle, "--model", base, "--prompt", folder, *task, "--json"))
    assert str(said["reference"]).startswith("peft ")
    assert isinstance(said["greedy_total"], int)
    assert 200 < said["greedy_total"] <= 4 * 64  # a row may end with the text


def test_real_model_against_peft(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    stories = shared("stories260K")
    folder = make_adapter("prompt_tuning", stories, tmp_path / "sad")
    result = verify(bundle_of("stories260K"), "--model", stories, "--prompt", folder, "--json")
    assert str(figures(result)["reference"]).startswith("peft ")


def test_other_forms_go_in_as_peft_puts_them_in(bundle: Path, base: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.random.default_rng(1).normal(size=(5, 64)).astype("f4"))
    packed = tmp_path / "rows.safetensors"
    pack = ["prompt", "pack", tmp_path / "rows.npy", "-b", bundle, "-o", packed]
    assert CliRunner().invoke(main, [str(argument) for argument in pack]).exit_code == 0
    for prompt in (tmp_path / "rows.npy", packed):
        said = figures(verify(bundle, "--model", base, "--prompt", prompt, "--json"))
        assert "peft" not in str(said["reference"])
        assert said["positions"] == 1 + 5 + 17 + 33


def test_another_model_is_refused(bundle: Path, model_folder: Callable[[str], Path]) -> None:
    result = verify(bundle, "--model", model_folder("qwen2"))
    assert (result.exit_code, result.stdout) == (4, "")
    assert "is not the model of" in result.stderr


def test_prompt_that_does_not_fit(bundle: Path, base: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.ones((4, 65), np.float32))
    assert verify(bundle, "--model", base, "--prompt", tmp_path / "wide.npy").exit_code == 4
    adapter = shared("bloomz-560m-prompt-adapter")
    assert verify(bundle, "--model", base, "--prompt", adapter).exit_code == 4
    nothing = verify(bundle, "--model", base, "--prompt", tmp_path / "nothing")
    assert (nothing.exit_code, nothing.stdout) == (2, "")
    (tmp_path / "noise.pt").write_bytes(b"noise" * 20)
    assert verify(bundle, "--model", base, "--prompt", tmp_path / "noise.pt").exit_code == 3


def test_bundle_that_computes_something_else(bundle: Path, base: Path, tmp_path: Path) -> None:
    """With hashes that fit: only the comparison can tell."""
    folder = Path(shutil.copytree(bundle, tmp_path / "b"))
    graph = onnx.load(folder / "model.onnx")
    largest = max(graph.graph.initializer, key=lambda item: len(item.raw_data))
    array = onnx.numpy_helper.to_array(largest) * np.float32(1.02)
    largest.CopyFrom(onnx.numpy_helper.from_array(array, largest.name))
    (folder / "model.onnx.data").unlink()
    onnx.save(graph, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    manifest = read_manifest(folder)
    for name in ("model.onnx", "model.onnx.data"):
        path = folder / name
        manifest.files[name] = BundleFile(path.stat().st_size, hash_file(path))
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    result = verify(folder, "--model", base)
    assert result.exit_code == 1
    assert "verdict: DIFFERENT" in result.stdout
    as_json = verify(folder, "--model", base, "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["passed"] is False


def test_what_is_missing(bundle: Path, base: Path, tmp_path: Path) -> None:
    for result in (
        verify(tmp_path / "nothing", "--model", base),
        verify(bundle, "--model", tmp_path),
        verify(bundle, "--model", tmp_path / "nothing" / "at" / "all"),
        verify(bundle),
    ):
        assert (result.exit_code, result.stdout) == (2, "")
