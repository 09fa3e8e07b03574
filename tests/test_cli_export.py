"""`edgept export`: the shortest way to an answer, and models that are none."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgept.bundle import MANIFEST_NAME, check_files, read_manifest
from edgept.cli import main


def edgept_main(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def process(folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """The command in a process and a folder of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    environment.pop("EDGEPT_BUNDLE", None)
    return subprocess.run(
        [sys.executable, "-m", "edgept", *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_export_then_run_without_an_option(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """The README's three lines: what is made lies where it is looked for."""
    text = tmp_path / "ours.txt"
    text.write_text("where is my parcel and when will it come " * 5)
    exported = process(tmp_path, "export", model_folder("llama"), "--verify-text", text)
    assert exported.returncode == 0, exported.stderr
    lines = exported.stdout.splitlines()
    assert lines[0].startswith("bundle: llama, int4, ")
    assert lines[1].startswith("parity: logits max abs ")
    assert "perplexity" in lines[1]
    assert lines[2] == 'next: edgept run --prompt PROMPT "your text"'
    assert len(lines) == 3
    for step in ("reading the model", "building the int4 graph", "comparing with PyTorch"):
        assert step in exported.stderr
    assert "Traceback" not in exported.stderr
    assert len(exported.stderr.splitlines()) < 10  # the exporters' own messages are in their log
    manifest = read_manifest(tmp_path / "bundle")
    assert (manifest.precision, manifest.target) == ("int4", "cpu")
    assert manifest.parity["perplexity"]["reference"] > 1
    check_files(tmp_path / "bundle", manifest)
    np.save(tmp_path / "spanish.npy", np.ones((4, 64), np.float32))
    ran = process(
        tmp_path, "run", "--prompt", "spanish.npy", "-n", 5, "--json", "where is my parcel"
    )
    assert ran.returncode == 0, ran.stderr
    assert len(json.loads(ran.stdout)["token_ids"]) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "ours.txt", "spanish.npy"}


def test_json_is_the_manifest(
    model_folder: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing but the manifest on stdout, whatever the exporters say."""
    command = ["export", model_folder("llama"), "-o", tmp_path / "b", "--precision", "fp32"]
    options = ["--max-virtual-tokens", 20, "--no-verify", "--json"]
    main([str(argument) for argument in [*command, *options]], standalone_mode=False)
    shown = capfd.readouterr()
    assert shown.out == (tmp_path / "b" / MANIFEST_NAME).read_text()
    said = json.loads(shown.out)
    assert (said["precision"], said["max_virtual_tokens"], said["parity"]) == ("fp32", 20, {})
    again = edgept_main(*command)
    assert (again.exit_code, again.stdout) == (2, "")
    assert "--force" in again.stderr


def config(**fields: Any) -> str:
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "holds no config.json"),
        ({"config.json": "{"}, "no transformers model"),
        ({"config.json": "[]"}, "no transformers model"),
        ({"config.json": "{}"}, "no transformers model"),
        ({"config.json": config(model_type="no-such-thing")}, "no transformers model"),
        ({"config.json": config(model_type="llama")}, "task cannot be found"),
        ({"config.json": config(model_type="llama", architectures=["Nothing"])}, "--task"),
        (
            {"config.json": config(model_type="bert", architectures=["BertForMaskedLM"])},
            "does not export",
        ),
        (
            {
                "config.json": config(
                    model_type="led", architectures=["LEDForConditionalGeneration"]
                )
            },
            "is an encoder-decoder of a family that this version does",
        ),
        (
            {
                "config.json": config(
                    model_type="llama",
                    architectures=["LlamaForCausalLM"],
                    quantization_config={"quant_method": "gptq", "bits": 4},
                )
            },
            "already quantised",
        ),
        ({"adapter_config.json": config(peft_type="PROMPT_TUNING")}, "holds no config.json"),
        ({MANIFEST_NAME: "{}"}, "is a bundle"),
    ],
)
def test_what_is_no_model(files: dict[str, str], words: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    result = edgept_main("export", folder, "-o", tmp_path / "b")
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "b").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_weights_that_are_not_there(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text((model_folder("llama") / "config.json").read_text())
    for weights in (None, b"", b"noise" * 100):
        if weights is not None:
            (folder / "model.safetensors").write_bytes(weights)
        result = edgept_main("export", folder, "-o", tmp_path / "b")
        assert result.exit_code == 1, result.output
        assert "could not be loaded" in result.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--precision", "int3"], "int3"),
        (["--precision", "fp16"], "not exported for the target cpu"),
        (["--target", "toaster"], "toaster"),
        (["--max-virtual-tokens", "0"], "max-virtual-tokens"),
        (["--max-virtual-tokens", "many"], "max-virtual-tokens"),
        (["--verify-text", "/nowhere"], "/nowhere"),
        (["--task", "token-classification"], "is no encoder that this version knows"),
        (["--task", "fill-mask"], "does not export"),
        (["--task", "no-such-task"], "does not export"),
        (["--no-such-flag"], "no-such-flag"),
    ],
)
def test_arguments_that_cannot_be(
    arguments: list[str], words: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    result = edgept_main("export", model_folder("llama"), "-o", tmp_path / "b", *arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    for output in ("file", "folder", "file/below", "nowhere/b", "x" * 300, "/", "."):
        for force in ([], ["--force"]):
            target = tmp_path / output
            result = edgept_main("export", model_folder("llama"), "-o", target, *force)
            assert result.exit_code == 2, (output, result.output)
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "folder" / "thesis.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_model_is_required() -> None:
    assert edgept_main("export").exit_code == 2
