"""The command `edgept tune`: one task, a file of tasks, and what it prints."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import edgept
from edgept.cli.tune import tune
from edgept.errors import EdgeptError, InvalidFileError, UsageError

pytest.importorskip("torch", reason="needs the workstation's extra")

QUICK = [
    *("--steps", "4", "--batch-size", "4", "--virtual-tokens", "3"),
    *("--eval-every", "2", "--eval-split", "0.25"),
]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(tune, [str(argument) for argument in arguments])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    rows = [f"where is parcel {i},{['come', 'when'][i % 2]}" for i in range(16)]
    path.write_text("\n".join(["question,intent", *rows]) + "\n")
    return path


NAMED = ["--text-column", "question", "--label-column", "intent"]


def test_json_is_the_record_beside_the_prompt(
    tmp_path: Path, data: Path, model_folder: Callable[[str], Path], bundle_of: Callable[..., Path]
) -> None:
    output = tmp_path / "intent.safetensors"
    shown = invoke(
        *(model_folder("llama"), data, "-o", output, "-b", bundle_of("llama"), "--json"),
        *(*QUICK, *NAMED),
    )
    assert shown.exit_code == 0, shown.output
    record = json.loads(shown.stdout)
    assert record == json.loads((tmp_path / "intent.tune.json").read_text())
    assert set(record["best"]["metric"]) == {"accuracy", "macro_f1"}
    assert set(record["bundle"]["gap"]) == {"loss", "accuracy", "macro_f1"}
    assert edgept.read_prompt(output).name == "intent"


def test_what_is_shown(tmp_path: Path, data: Path, model_folder: Callable[[str], Path]) -> None:
    output = tmp_path / "intent.safetensors"
    shown = invoke(model_folder("llama"), data, "-o", output, *QUICK, *NAMED)
    assert shown.exit_code == 0, shown.output
    first, second, last = shown.stdout.splitlines()
    assert first.startswith(f"{output}: 3 virtual tokens, ")
    assert second.startswith("validation: loss ")
    assert "accuracy" in second
    assert last == f'next: edgept run --prompt {output} "your text"'
    again = invoke(model_folder("llama"), data, "-o", output, *QUICK, *NAMED)
    assert isinstance(again.exception, UsageError)
    assert "--force" in str(again.exception)


def test_malformed_rows_end_it_before_the_model_is_looked_for(tmp_path: Path) -> None:
    data = tmp_path / "bad.jsonl"
    data.write_text('{"input": "a"}\nnot json\n')
    shown = invoke("no/such-model", data, "-o", tmp_path / "p.safetensors")
    assert isinstance(shown.exception, InvalidFileError)
    assert "line 1 has no 'output'" in str(shown.exception)
    assert "line 2 is not JSON" in str(shown.exception)


def test_a_task_that_fails_does_not_stop_the_others(
    tmp_path: Path, data: Path, model_folder: Callable[[str], Path]
) -> None:
    tasks = tmp_path / "tasks.yaml"
    tasks.write_text(
        "defaults: {steps: 4, batch_size: 4, virtual_tokens: 3, train: train.csv,\n"
        "           columns: {text: question, label: intent}, eval_split: 0.25}\n"
        "tasks:\n"
        "  first: {train: absent.csv}\n"
        "  second: {method: prefix-tuning}\n"
        "  third: {stepz: 3}\n"
        "  fourth: {description: where is my parcel}\n"
    )
    output = tmp_path / "prompts"
    shown = invoke(model_folder("gpt2"), tasks, "-o", output)
    assert shown.exit_code == 1
    assert [line.split()[0] for line in shown.stdout.splitlines()] == [
        *("task", "first", "second", "third", "fourth")
    ]
    assert "first: cannot read" in shown.stderr
    assert "third: unknown setting 'stepz'" in shown.stderr
    assert {path.name for path in output.glob("*.safetensors")} == {
        "second.safetensors",
        "fourth.safetensors",
    }
    assert edgept.read_prompt(output / "second.safetensors").method == "prefix_tuning"
    # what is finished is left; what failed is tried again
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    tasks.write_text(tasks.read_text().replace("absent", "train").replace("stepz", "steps"))
    shown = invoke(model_folder("gpt2"), tasks, "-o", output, "--resume", "--json")
    assert shown.exit_code == 0, shown.output
    assert set(json.loads(shown.stdout)) == {"first", "second", "third", "fourth"}
    assert (
        before.items() <= {path.name: path.stat().st_mtime_ns for path in output.iterdir()}.items()
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tasks: [", "not YAML"),
        ("- a", "expected a mapping"),
        ("tasks: {}", "at least one task"),
        ("tasks: {../a: {train: b}}", "a file's name"),
        ("tasks: {a: {}}", "needs 'train'"),
        ("tasks: {a: {train: b}}\nmore: 1", "expected a mapping"),
    ],
)
def test_files_of_tasks_that_cannot_be(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "tasks.yaml").write_text(text)
    shown = invoke("no/such-model", tmp_path / "tasks.yaml", "-o", tmp_path / "out")
    assert isinstance(shown.exception, EdgeptError)
    assert words in str(shown.exception)


def test_options_of_a_task_stand_in_the_file(tmp_path: Path) -> None:
    shown = invoke("m", tmp_path / "tasks.yaml", "-o", tmp_path, "--steps", 3)
    assert shown.exit_code == 2
    assert "--steps stands in the file of tasks" in shown.output


def test_the_command_loads_torch_only_when_it_runs() -> None:
    code = (
        "import sys\nfrom edgept.cli.tune import tune\n"
        "tune(['--help'], standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers', 'peft', 'rich', 'yaml', 'numpy'} & {*sys.modules}))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert shown.stdout.splitlines()[-1] == "[]"
