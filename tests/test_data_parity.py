"""`--verify-data`: the task's own metric over rows of the user's, in PyTorch and in the bundle."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgept.bundle import read_manifest
from edgept.cli import main
from tests.peft_adapters import load_adapter, make_adapter, other_peoples_warnings, token_ids

pytest.importorskip("peft", reason="needs edgept[tune]")

TASK = "text-classification"
LABELS = ("card", "parcel", "refund")
TEXTS = ["where is my parcel", "my card", "when will it come", "is it my card", "where", "come"]


@pytest.fixture(scope="module")
def classifier(
    model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[int]]:
    """A peft folder with a head of three classes, and the classes that peft finds in `TEXTS`."""
    import peft
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("adapters") / "intents"
    kind: Any = AutoModelForSequenceClassification
    with other_peoples_warnings(), torch.no_grad():
        base = kind.from_pretrained(model_folder("bert"), num_labels=len(LABELS))
        config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=5)
        adapted: Any = peft.get_peft_model(base, config).eval()
        for name, parameter in adapted.named_parameters():
            if "prompt_encoder" in name:
                parameter.normal_(std=0.05)
            elif "modules_to_save" in name:
                parameter.normal_(std=0.5 if parameter.dim() > 1 else 0.0)
        adapted.save_pretrained(str(folder))
        found = [
            int(adapted(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits.argmax())
            for text in TEXTS
            for tokens in [torch.tensor([token_ids(model_folder("bert"), text)])]
        ]
    assert len(set(found)) > 1
    return folder, found


def write_rows(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def verify(bundle: Path, *arguments: object) -> Result:
    command = ["verify", "-b", bundle, *arguments]
    return CliRunner().invoke(main, [str(argument) for argument in command])


def test_accuracy_of_a_peft_classifier(
    classifier: tuple[Path, list[int]],
    bundle_of: Callable[..., Path],
    model_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    adapter, found = classifier
    # the first four labels are what peft finds, the others are not
    wrong = [(index + 1) % 3 for index in found[4:]]
    labels = [LABELS[index] for index in [*found[:4], *wrong]]
    rows = write_rows(
        tmp_path / "test.csv", ("text", "category"), list(zip(TEXTS, labels, strict=True))
    )
    command = ["--model", model_folder("bert"), "--prompt", adapter, "--verify-data", rows]
    command += ["--label-column", "category", "--labels", ",".join(LABELS)]
    bundle = bundle_of("bert", "fp32", TASK)
    said = verify(bundle, *command, "--json")
    assert said.exit_code == 0, said.output
    assert said.stdout.startswith("{")
    on_rows = json.loads(said.stdout)["on_rows"]
    assert len(on_rows.pop("sha256")) == 64
    assert on_rows == {
        "metric": "accuracy",
        "rows": 6,
        "reference": pytest.approx(4 / 6),
        "bundle": pytest.approx(4 / 6),
        "predictions": 6,
        "equal": 6,
        "change_points": 0.0,
    }
    shown = verify(bundle, *command)
    assert "accuracy 66.67% → 66.67% (+0.00 points), 6 of 6 predictions equal" in shown.stdout


def test_classes_that_nobody_named_go_by_number(
    classifier: tuple[Path, list[int]],
    bundle_of: Callable[..., Path],
    model_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    adapter, found = classifier
    path = tmp_path / "test.jsonl"
    lines = [
        {"text": text, "label": index or "LABEL_0"}
        for text, index in zip(TEXTS, found, strict=True)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    command = ["--model", model_folder("bert"), "--prompt", adapter, "--verify-data", path]
    bundle = bundle_of("bert", "fp32", TASK)
    said = verify(bundle, *command, "--json")
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["on_rows"]["bundle"] == 1
    path.write_text(json.dumps({"text": "my card", "label": "card"}))
    refused = verify(bundle, *command)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "line 1: the label 'card' is none of the head's 3 (LABEL_0, " in refused.stderr
    assert "--labels" in refused.stderr


def test_perplexity_of_answers_under_a_prompt(
    bundle_of: Callable[..., Path], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    import torch

    base = model_folder("llama")
    folder = make_adapter("prompt_tuning", base, tmp_path / "adapter")
    pairs = [("where is my", " parcel"), ("when will", " it come")]
    rows = write_rows(tmp_path / "test.csv", ("question", "answer"), list(pairs))
    columns = ["--input-column", "question", "--output-column", "answer"]
    said = verify(
        bundle_of("llama"),
        *("--model", base, "--prompt", folder, "--verify-data", rows, *columns, "--json"),
    )
    assert said.exit_code == 0, said.output
    on_rows = json.loads(said.stdout)["on_rows"]
    adapted = load_adapter(base, folder)
    losses = []
    for question, answer in pairs:
        ids = token_ids(base, question)
        all_ids = [*ids, *token_ids(base, answer), 2]  # this tokenizer adds nothing; 2 ends a text
        tokens = torch.tensor([all_ids])
        with other_peoples_warnings(), torch.no_grad():
            logits = adapted(tokens, attention_mask=torch.ones_like(tokens)).logits[0]
        scores = logits[-len(all_ids) :].double().log_softmax(-1).numpy()
        losses += [-scores[at - 1, all_ids[at]] for at in range(len(ids), len(all_ids))]
    expected = math.exp(float(np.mean(losses)))
    assert on_rows["metric"] == "perplexity"
    assert on_rows["reference"] == pytest.approx(expected, rel=1e-5)
    assert on_rows["bundle"] == pytest.approx(expected, rel=1e-4)
    assert on_rows["predictions"] == on_rows["equal"] == len(losses)
    assert abs(on_rows["change_percent"]) < 0.01


def test_an_export_measures_a_quantised_model(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "ours.csv", ("text",), [("where is my parcel",), ("my card",)])
    command = ["export", model_folder("gpt2"), "-o", tmp_path / "b", "--precision", "int4"]
    command += ["--verify-data", rows]
    result = CliRunner().invoke(main, [str(argument) for argument in command])
    assert result.exit_code == 0, result.output
    assert "perplexity of 2 rows " in result.stdout
    on_rows = read_manifest(tmp_path / "b").parity["on_rows"]
    assert on_rows["rows"] == 2
    assert 0 < abs(on_rows["change_percent"]) < 50
    assert on_rows["equal"] <= on_rows["predictions"]


@pytest.mark.parametrize(
    ("metric", "reference", "bundle", "perplexity", "expected"),
    [
        ("accuracy", 0.90, 0.896, None, False),
        ("accuracy", 0.90, 0.894, None, True),
        ("accuracy", 0.90, 0.91, 6.0, True),
        ("perplexity", 2.0, 2.09, None, False),
        ("perplexity", 2.0, 2.11, 1.0, True),
    ],
)
def test_what_costs_too_much(
    metric: str, reference: float, bundle: float, perplexity: float | None, expected: bool
) -> None:
    from edgept.export.tally import OnRows, Tally

    tally = Tally(None)
    tally.add(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32))
    text = None if perplexity is None else {"change_percent": perplexity}
    rows = OnRows(metric, 10, reference, bundle, 10, 9, "")
    assert tally.parity("PyTorch", text, rows).is_costly is expected


@pytest.mark.parametrize(
    ("kind", "task", "rows", "options", "words"),
    [
        ("bert", TASK, "input,output\na,b\n", [], "rows of the kind io"),
        ("bert", TASK, "text,label\na,b\n", [], "brings a head"),
        ("bert", TASK, "text,label\na,\n", [], "'label' is empty"),
        ("bert", "feature-extraction", "text,label\na,b\n", [], "there is no metric here"),
        ("llama", None, 'messages\n"[]"\n', [], "no list of messages"),
        ("llama", None, f"text\n{'parcel ' * 400}\n", [], "line 2: "),
        ("llama", None, "text\nx\n", ["--label-column", "y", "--no-data"], "is missing"),
        ("llama", None, "text\nx\n", ["--labels", "a,b"], "give --prompt, too"),
    ],
)
def test_what_is_refused(
    kind: str,
    task: str | None,
    rows: str,
    options: list[str],
    words: str,
    bundle_of: Callable[..., Path],
    model_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(rows)
    data = [] if "--no-data" in options else ["--verify-data", path]
    given = [option for option in options if option != "--no-data"]
    result = verify(bundle_of(kind, "fp32", task), "--model", model_folder(kind), *data, *given)
    assert result.exit_code in (2, 3), result.output
    assert result.stdout == ""
    assert words in result.stderr


def test_nothing_is_measured_where_nothing_is_compared(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text\nx\n")
    command = ["export", model_folder("gpt2"), "-o", tmp_path / "b", "--no-verify"]
    result = CliRunner().invoke(main, [str(item) for item in [*command, "--verify-data", path]])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--verify-data measures in the comparison that --no-verify skips" in result.stderr
