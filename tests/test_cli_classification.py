"""Text classification from the command line: export, pack with labels, run, verify against peft."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import edgept
from edgept.cli import main
from edgept.cli.session import converse
from tests.test_classifier import TASK, make_classifier, texts

TEXT = "where is my parcel"


def edgept_main(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


@pytest.fixture(scope="module")
def bundle(bundle_of: Callable[..., Path]) -> Path:
    return bundle_of("bert", "fp32", TASK)


@pytest.fixture(scope="module")
def adapter(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A peft folder with a head of two classes."""
    folder: Path = tmp_path_factory.mktemp("adapters") / "mood"
    make_classifier(model_folder("bert"), "prompt_tuning", 2, folder)
    return folder


@pytest.fixture(scope="module")
def packed(bundle: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = tmp_path_factory.mktemp("prompts") / "mood.safetensors"
    labels = ["--labels", "negative, positive"]
    result = edgept_main("prompt", "pack", adapter, "-b", bundle, "-o", file, *labels)
    assert result.exit_code == 0, result.output
    assert "7 virtual tokens, 2 classes" in result.stdout
    return file


def test_export_asks_for_the_task_of_an_encoder(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    masked = Path(shutil.copytree(model_folder("bert"), tmp_path / "masked"))
    config = json.loads((masked / "config.json").read_text())
    (masked / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    result = edgept_main("export", masked, "-o", tmp_path / "b")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--task text-classification" in result.stderr
    generate = ["--task", "text-generation"]
    result = edgept_main("export", model_folder("bert"), "-o", tmp_path / "b", *generate)
    assert result.exit_code == 2
    assert "is an encoder" in result.stderr
    text = tmp_path / "text.txt"
    text.write_text("a text")
    measured = ["--task", TASK, "--verify-text", text]
    result = edgept_main("export", model_folder("bert"), "-o", tmp_path / "b", *measured)
    assert result.exit_code == 2
    assert "perplexity" in result.stderr
    assert not (tmp_path / "b").exists()


def test_export_of_an_encoder_is_fp32_and_says_that_it_has_no_head(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    result = edgept_main("export", model_folder("bert"), "-o", tmp_path / "b", "--task", TASK)
    assert result.exit_code == 0, result.output
    assert ", fp32, " in result.stdout
    assert "top-1 100.0%" in result.stdout
    assert "head of its own: none" in result.stdout
    manifest = json.loads((tmp_path / "b" / "edgept.json").read_text())
    assert (manifest["task"], manifest["head_size"], manifest["labels"]) == (TASK, 64, [])
    assert manifest["kv"]["prefix_only"]  # it takes keys and values, and keeps none
    assert manifest["parity"]["max_rel"] < 1e-4
    assert not (tmp_path / "b" / "genai_config.json").exists()


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantised_weights(kind: str, precision: str, bundle_of: Callable[..., Path]) -> None:
    quantised, whole = bundle_of(kind, precision, TASK), bundle_of(kind, "fp32", TASK)
    sizes = [(folder / "model.onnx.data").stat().st_size for folder in (quantised, whole)]
    assert sizes[0] < 0.8 * sizes[1]
    parity = json.loads((quantised / "edgept.json").read_text())["parity"]
    assert parity["max_rel"] > 1e-5  # measured on the quantised weights
    if precision == "int8":
        assert parity["max_rel"] < 0.1


def test_pack_takes_labels_from_a_file(bundle: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("sí, claro\nno\n")
    file = tmp_path / "p.safetensors"
    labels = ["--labels", f"@{tmp_path / 'names.txt'}"]
    result = edgept_main("prompt", "pack", adapter, "-b", bundle, "-o", file, *labels)
    assert result.exit_code == 0, result.output
    assert edgept.read_prompt(file).labels == ("sí, claro", "no")


@pytest.mark.parametrize(
    ("labels", "exit_code", "why"),
    [
        ("a,b,c", 4, "head.weight has 2 classes, labels has 3"),
        ("a,a", 2, "twice"),
        ("a,", 2, "empty"),
        ("", 2, "empty"),
        ("@", 2, "No such file"),
        ("@nowhere", 2, "No such file"),
    ],
)
def test_pack_refuses_labels(
    labels: str, exit_code: int, why: str, bundle: Path, adapter: Path, tmp_path: Path
) -> None:
    file = tmp_path / "p.safetensors"
    result = edgept_main("prompt", "pack", adapter, "-b", bundle, "-o", file, "--labels", labels)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert why in result.stderr
    assert not file.exists()


def test_pack_refuses_labels_without_a_head(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.ones((3, 64), np.float32))
    command = ["prompt", "pack", tmp_path / "rows.npy", "-b", bundle_of("gpt2")]
    result = edgept_main(*command, "-o", tmp_path / "p.safetensors", "--labels", "a,b")
    assert result.exit_code == 2
    assert "has none" in result.stderr


def test_run_prints_label_and_probability(bundle: Path, packed: Path, adapter: Path) -> None:
    model = edgept.load(bundle, threads=1)
    expected = model.classify(TEXT, prompt=model.load_prompt(packed))
    result = edgept_main("run", "-b", bundle, "--threads", 1, "--prompt", packed, TEXT)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{expected.label} {expected.probability:.4f}\n"
    assert expected.label in ("negative", "positive")
    assert "prefill" in result.stderr
    two = ["--prompt", f"packed={packed}", "--prompt", f"folder={adapter}"]
    result = edgept_main("run", "-b", bundle, "--threads", 1, *two, TEXT)
    named, unnamed = result.stdout.splitlines()
    assert named == f"packed: {expected.label} {expected.probability:.4f}"
    assert unnamed.startswith("folder: LABEL_")


def test_run_as_json(bundle: Path, packed: Path) -> None:
    lines = f"{TEXT}\nand when\n"
    command = ["run", "-b", bundle, "--threads", 1, "--prompt", packed, "--input", "-", "--json"]
    result = edgept_main(*command, stdin=lines)
    assert result.exit_code == 0, result.output
    said = [json.loads(line) for line in result.stdout.splitlines()]
    assert [item["input"] for item in said] == lines.splitlines()
    for item in said:
        assert item["labels"] == ["negative", "positive"]
        assert item["label"] == item["labels"][int(np.argmax(item["logits"]))]
        assert item["probability"] == max(item["probabilities"])
        assert item["latency"]["virtual_tokens"] == 7


@pytest.mark.parametrize(
    "option", [["-n", "5"], ["--temperature", "0"], ["--stop", "x"], ["--chat"]]
)
def test_run_refuses_options_of_a_generation(option: list[str], bundle: Path, packed: Path) -> None:
    result = edgept_main("run", "-b", bundle, "--prompt", packed, *option, TEXT)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "this bundle classifies" in result.stderr


def test_run_without_a_head_says_what_is_missing(bundle: Path) -> None:
    result = edgept_main("run", "-b", bundle, TEXT)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no classification head" in result.stderr


def test_session_classifies(
    bundle: Path,
    packed: Path,
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = edgept.load(bundle, threads=1)
    typed = iter([TEXT, f"/prompt {packed}", TEXT, "/quit"])
    monkeypatch.setattr("builtins.input", lambda *_: next(typed))
    converse(model, {"folder": model.load_prompt(adapter)}, lambda text: text, {})
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("LABEL_")
    assert second.split()[0] in ("negative", "positive")
    assert first.split()[1] == second.split()[1]


@pytest.mark.parametrize(
    ("kind", "method"),
    [("bert", "p_tuning"), ("llama", "prompt_tuning"), ("llama", "prefix_tuning")],
)
def test_verify_against_peft(
    kind: str,
    method: str,
    bundle_of: Callable[..., Path],
    model_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    bundle, base = bundle_of(kind, "fp32", TASK), model_folder(kind)
    make_classifier(base, method, 5, tmp_path / "adapter")
    command = ["verify", "-b", bundle, "--model", base, "--json"]
    result = edgept_main(*command, "--prompt", tmp_path / "adapter")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["reference"].startswith("peft ")
    assert said["positions"] == 8  # four texts, alone and in a batch
    assert 0 < said["max_rel"] < 1e-4
    assert said["top1_agreement"] == 1.0


def test_verify_in_other_forms(
    bundle: Path, packed: Path, model_folder: Callable[[str], Path]
) -> None:
    command = ["verify", "-b", bundle, "--model", model_folder("bert"), "--json"]
    for more in ([], ["--prompt", packed]):
        result = edgept_main(*command, *more)
        assert result.exit_code == 0, result.output
        said = json.loads(result.stdout)
        assert said["reference"].startswith("BertForSequenceClassification in float32")
        assert said["max_rel"] < 1e-4


def test_a_packed_prompt_classifies_as_its_folder(
    bundle: Path, packed: Path, adapter: Path
) -> None:
    model = edgept.load(bundle, threads=1)
    from_file, from_folder = model.load_prompt(packed), model.load_prompt(adapter)
    for ids in texts():
        left, right = model.classify(ids, prompt=from_file), model.classify(ids, prompt=from_folder)
        np.testing.assert_array_equal(left.logits, right.logits)
