import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgept.cli.prompt import prompt
from edgept.errors import IncompatibleError, InvalidFileError, UsageError
from edgept.manifest import KVGeometry, Manifest
from edgept.peft_folder import read_peft_folder
from edgept.peft_writer import write_peft_folder
from edgept.prompt import Prompt
from edgept.prompt_file import read_prompt

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)  # (P, hidden)


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        source="tiny-llama",
        architecture="LlamaForCausalLM",
        model_type="llama",
        task="text-generation",
        vocab_size=512,
        hidden_size=4,
        max_positions=512,
        max_virtual_tokens=256,
        kv=KVGeometry(num_layers=5, num_kv_heads=2, head_dim=8, shared_buffer=True),
        bos_token_id=1,
        eos_token_ids=[2],
        precision="fp32",
        float_type="float32",
        target="cpu",
        providers=["CPUExecutionProvider"],
        opset={"": 21},
        min_onnxruntime="1.23",
        fingerprint="ab" * 32,
        created_by="edgept test",
    )


@pytest.fixture
def bundle(manifest: Manifest, tmp_path: Path) -> Path:
    return make_bundle(manifest, tmp_path / "bundles" / "tiny")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    np.save(tmp_path / "spanish.npy", ROWS)
    return tmp_path / "spanish.npy"


def make_bundle(manifest: Manifest, folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "edgept.json").write_text(manifest.to_json())
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(prompt, [str(argument) for argument in arguments])


def test_pack_writes_a_bound_prompt(bundle: Path, source: Path, tmp_path: Path) -> None:
    result = run("pack", source, "-b", bundle, "-o", tmp_path / "s.safetensors")
    assert result.exit_code == 0, result.output
    assert "spanish, 3 virtual tokens" in result.stdout
    assert result.stderr == ""
    packed = read_prompt(tmp_path / "s.safetensors")
    np.testing.assert_array_equal(packed.tensors["prompt_embeds"], ROWS)
    assert (packed.name, packed.fingerprint) == ("spanish", "ab" * 32)


def test_pack_names_the_task_and_prints_json(bundle: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    result = run("pack", source, "-b", bundle, "-o", out, "--name", "tweets", "--json")
    said = json.loads(result.stdout)
    assert said["file"] == str(out)
    assert (said["name"], said["virtual_tokens"], said["bytes"]) == ("tweets", 3, 48)


def test_pack_replaces_only_with_force(bundle: Path, source: Path, tmp_path: Path) -> None:
    arguments = ["pack", source, "-b", bundle, "-o", tmp_path / "s.safetensors"]
    assert run(*arguments).exit_code == 0
    assert isinstance(run(*arguments).exception, UsageError)
    assert run(*arguments, "--force").exit_code == 0


def test_pack_finds_the_bundle_of_the_environment(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGEPT_BUNDLE", raising=False)
    assert isinstance(run("pack", source, "-o", "s.safetensors").exception, UsageError)
    monkeypatch.setenv("EDGEPT_BUNDLE", str(bundle))
    assert run("pack", source, "-o", "s.safetensors").exit_code == 0


@pytest.mark.parametrize(
    ("base_model", "warns"),
    [("org/tiny-llama", False), ("tiny-llama/", False), ("org/bloomz", True), ("", False)],
)
def test_pack_warns_of_another_base_model(
    base_model: str, warns: bool, bundle: Path, tmp_path: Path
) -> None:
    write_peft_folder(Prompt({"prompt_embeds": ROWS}, base_model=base_model), None, tmp_path / "a")
    result = run("pack", tmp_path / "a", "-b", bundle, "-o", tmp_path / "a.safetensors")
    assert result.exit_code == 0
    assert ("trained for 'org/bloomz'" in result.stderr) == warns
    assert "trained for" not in result.stdout


def test_pack_refuses_what_does_not_fit(
    bundle: Path, source: Path, manifest: Manifest, tmp_path: Path
) -> None:
    other = make_bundle(dataclasses.replace(manifest, fingerprint="cd" * 32), tmp_path / "other")
    out = tmp_path / "s.safetensors"
    assert run("pack", source, "-b", bundle, "-o", out).exit_code == 0
    again = run("pack", out, "-b", other, "-o", tmp_path / "t.safetensors")
    assert isinstance(again.exception, IncompatibleError)
    out.write_bytes(out.read_bytes() + b"\n")
    broken = run("pack", out, "-b", bundle, "-o", tmp_path / "t.safetensors")
    assert isinstance(broken.exception, InvalidFileError)
    assert not (tmp_path / "t.safetensors").exists()


def test_inspect_describes_any_source(source: Path) -> None:
    said = json.loads(run("inspect", source, "--json").stdout)
    norms = np.linalg.norm(ROWS, axis=1)
    tensor = said["tensors"]["prompt_embeds"]
    assert tensor["shape"] == [3, 4]
    assert tensor["row_norm"] == pytest.approx(
        {"mean": norms.mean(), "min": norms.min(), "max": norms.max()}
    )
    assert (said["fingerprint"], said["method"]) == (None, "unknown")
    text = run("inspect", source).stdout
    assert "prompt_embeds" in text
    assert "3 × 4" in text


def test_inspect_says_which_bundles_it_fits(
    bundle: Path, source: Path, manifest: Manifest, tmp_path: Path
) -> None:
    wide = dataclasses.replace(manifest, hidden_size=5)
    other = dataclasses.replace(manifest, fingerprint="cd" * 32)
    make_bundle(wide, bundle.parent / "wide")
    make_bundle(other, bundle.parent / "other")
    (bundle.parent / "broken").mkdir()
    (bundle.parent / "broken" / "edgept.json").write_text("{")

    def fits(file: Path) -> dict[str, Any]:
        result = run("inspect", file, "--bundles", bundle.parent, "--json")
        rows = json.loads(result.stdout)["bundles"]
        return {Path(row["bundle"]).name: row["fits"] for row in rows}

    assert fits(source) == {"tiny": True, "other": True, "wide": False, "broken": False}
    out = tmp_path / "s.safetensors"
    run("pack", source, "-b", bundle, "-o", out)
    assert fits(out) == {"tiny": True, "other": False, "wide": False, "broken": False}
    assert "shape only" in run("inspect", source, "--bundles", bundle.parent).stdout
    nowhere = run("inspect", source, "--bundles", tmp_path / "nowhere")
    assert isinstance(nowhere.exception, UsageError)


def test_export_writes_both_forms(bundle: Path, source: Path, tmp_path: Path) -> None:
    adapter, folder = tmp_path / "s.onnx_adapter", tmp_path / "peft"
    # nothing in an adapter says what model it is for, so it is made for a bundle that it fits
    orphan = run("export", source, "--format", "onnx-adapter", "-o", adapter)
    assert isinstance(orphan.exception, UsageError)
    made = run("export", source, "--format", "onnx-adapter", "-o", adapter, "-b", bundle)
    assert made.exit_code == 0
    assert adapter.stat().st_size > ROWS.nbytes
    result = run("export", source, "--format", "peft", "-o", folder, "-b", bundle)
    assert result.exit_code == 0
    back = read_peft_folder(folder)
    np.testing.assert_array_equal(back.tensors["prompt_embeds"], ROWS)
    assert back.base_model == "tiny-llama"
    for form, out in [("onnx-adapter", adapter), ("peft", folder)]:
        arguments = ["export", source, "--format", form, "-o", out, "-b", bundle]
        assert isinstance(run(*arguments).exception, UsageError)
        assert run(*arguments, "--force").exit_code == 0


@pytest.mark.parametrize("arguments", [[], ["pack"], ["inspect"], ["export"]])
def test_help_is_short_for_h(arguments: list[str]) -> None:
    assert run(*arguments, "-h").output == run(*arguments, "--help").output
    assert run(*arguments, "-h").output.startswith("Usage:")


def test_importing_it_loads_no_numpy() -> None:
    code = "import sys, edgept.cli.prompt; print('numpy' in sys.modules, 'rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_reading_every_source_loads_no_torch() -> None:
    code = (
        "import sys, edgept.prompt_source, edgept.onnx_adapter; "
        "print({'torch', 'transformers', 'peft', 'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_paths_that_cannot_be_examined_are_usage_errors(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    long, inside_a_file = tmp_path / ("n" * 300), source / "below"
    for bad in (long, inside_a_file):
        for arguments in (
            ["inspect", bad],
            ["inspect", f"{bad}.safetensors"],
            ["pack", bad, "-b", bundle, "-o", tmp_path / "a"],
            ["pack", source, "-b", bundle, "-o", bad],
            ["export", source, "--format", "peft", "-o", bad],
            ["export", source, "--format", "onnx-adapter", "-o", bad],
            ["inspect", source, "--bundles", bad],
        ):
            assert isinstance(run(*arguments).exception, UsageError), arguments
