"""The demo's files, and `edgept demo` as a newcomer runs it."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgept.cli import main
from edgept.demo.corpus import DESKS, INTENTS, LANGUAGES, MODES, make_question, make_reply
from edgept.demo.judge import mode_of, reply_matches
from edgept.demo.show import MODEL, PROMPTS, QUESTION


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("demo") / "edgept-demo"
    result = CliRunner().invoke(main, ["demo", "-o", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


def test_what_is_shipped_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 6e6
    assert {path.name for path in PROMPTS.iterdir()} == set(MODES)
    for folder in PROMPTS.iterdir():
        assert sum(path.stat().st_size for path in folder.iterdir()) < 8e3


def test_each_prompt_gives_its_language_and_copies_the_number(
    shown: tuple[Path, dict[str, Any]],
) -> None:
    answers = {answer["prompt"]: answer["text"] for answer in shown[1]["answers"]}
    assert set(answers) == {None, *MODES}
    assert answers["intent"] in INTENTS
    for mode in (*LANGUAGES, *DESKS):
        assert "58213" in answers[mode]
    assert len({answers[mode] for mode in LANGUAGES}) == len(LANGUAGES)
    assert any("぀" <= letter <= "ヿ" for letter in answers["japanese"])
    assert {"Bestellung", "pedido"} & set(answers["german"].split())
    assert "pedido" in answers["spanish"]


def test_it_measures_and_keeps_its_files(shown: tuple[Path, dict[str, Any]]) -> None:
    folder, figures = shown
    assert figures["question"] == QUESTION
    assert figures["swaps"] >= 662
    assert figures["manifest"]["parity"]["passed"]
    for answer in figures["answers"][1:]:
        assert 0 < answer["swap_us"] < answer["ttft_ms"] * 1e3
        file = folder / f"{answer['prompt']}.safetensors"
        assert file.stat().st_size == answer["file_bytes"] < 10_000
    command = ["run", "-b", folder / "bundle", "--chat", "--json", QUESTION]
    command += ["--prompt", folder / "german.safetensors"]
    result = CliRunner().invoke(main, [str(word) for word in command])
    assert json.loads(result.stdout)["text"] == next(
        answer["text"] for answer in figures["answers"] if answer["prompt"] == "german"
    )


def test_the_script_that_made_the_prompts_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the demo packs it: a peft folder, better than none after a few steps."""
    from edgept.demo import tune_prompts
    from edgept.prompt_source import load_prompt_source

    monkeypatch.setattr(tune_prompts, "VALIDATION_ROWS", 8)
    arguments = ["intent", "--model", str(MODEL), "--out", str(tmp_path), "--steps", "3"]
    monkeypatch.setattr("sys.argv", ["tune_prompts", *arguments])
    tune_prompts.main()
    figures = json.loads(capsys.readouterr().out)
    assert figures["loss"] < figures["without"]
    prompt = load_prompt_source(tmp_path / "intent")
    assert prompt.tensors["prompt_embeds"].shape == (8, 192)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    result = CliRunner().invoke(main, ["demo", "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("mode", MODES)
def test_the_judge_knows_the_corpus_own_replies(mode: str) -> None:
    rng = random.Random(mode)
    for held_out in (False, True) * 30:
        question = make_question(rng, held_out=held_out)
        reply = make_reply(rng, question, mode)
        assert reply_matches(reply, question, mode, copied=True)
        if mode not in LANGUAGES or question.language != mode:
            assert mode_of(reply, question) == mode
