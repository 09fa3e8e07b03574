"""`edgept run` on taggers, question answerers and feature extractors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import edgept
from edgept import Model, Prompt
from edgept.bundle import read_manifest
from edgept.cli import main
from edgept.cli.session import converse
from edgept.prompt_file import write_prompt
from tests.encoder_bundles import TEXTS, with_tokenizer, word_pieces

pytest.importorskip("torch", reason="needs edgept[export]")

QUESTION = "where is Anna"
TAGS = ("O", "B-PER", "I-PER", "LOC")


def edgept_main(*arguments: object, stdin: str | None = None) -> Result:
    command = ["run", "--threads", "1", *map(str, arguments)]
    return CliRunner().invoke(main, command, input=stdin)


def said(result: Result) -> list[Any]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def bundle(
    bundle_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A function from a task to a bundle with a tokenizer of BERT's kind."""
    folders: dict[str, Path] = {}

    def folder(task: str) -> Path:
        if task not in folders:
            path = tmp_path_factory.mktemp("cli") / "bundle"
            folders[task] = with_tokenizer(bundle_of("bert", "fp32", task), word_pieces(), path)
        return folders[task]

    return folder


@pytest.fixture
def prompt(bundle: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A function from a task and its labels to a prompt file."""

    def write(task: str, labels: tuple[str, ...] = (), name: str = "p") -> Path:
        random = np.random.default_rng(3)
        tensors = {"prompt_embeds": random.normal(size=(4, 64)).astype(np.float32)}
        if task != "feature-extraction":
            head = random.normal(size=(max(len(labels), 2), 64)).astype(np.float32)
            tensors["head.weight"] = head
        path = tmp_path / f"{name}.safetensors"
        fingerprint = read_manifest(bundle(task)).fingerprint
        made = Prompt(tensors, name, fingerprint=fingerprint, task=task, labels=labels)
        write_prompt(made, path)
        return path

    return write


def load(folder: Path, file: Path) -> tuple[Model, Any]:
    model = edgept.load(folder, threads=1)
    return model, model.load_prompt(file)


def test_entities(
    bundle: Callable[[str], Path], prompt: Callable[..., Path], tmp_path: Path
) -> None:
    task = "token-classification"
    folder, file = bundle(task), prompt(task, TAGS)
    model, loaded = load(folder, file)
    expected = model.tag(TEXTS[0], prompt=loaded)
    assert expected.entities
    result = edgept_main("-b", folder, "--prompt", file, TEXTS[0])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"{item.label} {item.score:.4f} {item.start}:{item.end} {item.text}"
        for item in expected.entities
    ]
    assert "prefill" in result.stderr
    lines = tmp_path / "texts.txt"
    lines.write_text("\n".join(TEXTS))
    command = ["-b", folder, "--prompt", file, "--input", lines, "--json", "--aggregation", "none"]
    rows = said(edgept_main(*command))
    assert [row["input"] for row in rows] == TEXTS
    for row in rows:
        found = model.tag(row["input"], prompt=loaded, aggregation="none")
        assert [
            (item["label"], item["start"], item["end"], item["text"]) for item in row["entities"]
        ] == [(item.label, item.start, item.end, item.text) for item in found.entities]
        assert row["truncated"] == 0
        assert row["latency"]["virtual_tokens"] == 4


def test_answers_about_a_context(
    bundle: Callable[[str], Path], prompt: Callable[..., Path], tmp_path: Path
) -> None:
    task = "question-answering"
    folder, file = bundle(task), prompt(task)
    model, loaded = load(folder, file)
    context = tmp_path / "context.txt"
    context.write_text(TEXTS[0])
    command = ["-b", folder, "--prompt", file]
    expected = model.answer(QUESTION, TEXTS[0], prompt=loaded, top_k=2)
    result = edgept_main(*command, "--context", context, "--top-k", 2, QUESTION)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"{span.score:.4f} {span.start}:{span.end} {span.text}" for span in expected.spans
    ]
    piped = edgept_main(*command, "--context", "-", QUESTION, stdin=TEXTS[0])
    assert piped.stdout.splitlines() == result.stdout.splitlines()[:1]
    questions = tmp_path / "questions.txt"
    questions.write_text(f"{QUESTION}\nwho is Peter\n")
    rows = said(edgept_main(*command, "--context", context, "--input", questions, "--json"))
    assert [row["input"] for row in rows] == [QUESTION, "who is Peter"]
    assert rows[0]["text"] == expected.text
    assert rows[0]["spans"][0]["start"] == rows[0]["start"] == expected.start
    none = edgept_main(*command, "--context", context, "--no-answer", "--top-k", 99, QUESTION)
    assert sum(line.endswith(" (none)") for line in none.stdout.splitlines()) == 1


def test_answers_of_json_lines(
    bundle: Callable[[str], Path], prompt: Callable[..., Path], tmp_path: Path
) -> None:
    task = "question-answering"
    folder, file = bundle(task), prompt(task)
    model, loaded = load(folder, file)
    asked = tmp_path / "asked.jsonl"
    rows = [{"question": QUESTION, "context": text, "id": 7} for text in (TEXTS[0], TEXTS[3])]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["-b", folder, "--prompt", file]
    found = said(edgept_main(*command, "--input", asked, "--json"))
    for row, text in zip(found, (TEXTS[0], TEXTS[3]), strict=True):
        assert row["text"] == model.answer(QUESTION, text, prompt=loaded).text
    for text, why in (
        ("no json\n", "line 1 is not JSON"),
        ('["a"]\n', "is no JSON object"),
        ('{"question": "a"}\n', 'has question; expected "question" and "context"'),
        ('{"question": 1, "context": "b"}\n', "expected a text"),
    ):
        asked.write_text(text)
        result = edgept_main(*command, "--input", asked)
        assert (result.exit_code, result.stdout) == (2, "")
        assert why in result.stderr
    result = edgept_main(*command, QUESTION)
    assert result.exit_code == 2
    assert "--context FILE" in result.stderr


def test_vectors(
    bundle: Callable[[str], Path], prompt: Callable[..., Path], tmp_path: Path
) -> None:
    task = "feature-extraction"
    folder, file = bundle(task), prompt(task)
    model, loaded = load(folder, file)
    expected = np.array(model.embed_batch([(text, loaded) for text in TEXTS]))
    command = ["-b", folder, "--prompt", file]
    result = edgept_main(*command, TEXTS[0])
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(
        [float(value) for value in result.stdout.split()], expected[0], rtol=1e-5, atol=1e-6
    )
    texts, vectors = tmp_path / "texts.txt", tmp_path / "vectors.npy"
    texts.write_text("\n".join(TEXTS))
    result = edgept_main(*command, "--input", texts, "--npy", vectors)
    assert (result.exit_code, result.stdout) == (0, ""), result.output
    assert "5 x 64 float32" in result.stderr
    found = np.load(vectors)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    again = edgept_main(*command, "--input", texts, "--npy", vectors)
    assert again.exit_code == 2
    assert "--force" in again.stderr
    rows = said(edgept_main(*command, "--input", texts, "--npy", vectors, "--force", "--json"))
    np.testing.assert_allclose([row["vector"] for row in rows], expected, rtol=1e-5)
    two = ["--prompt", f"other={prompt(task, name='q')}"]
    result = edgept_main(*command, *two, "--input", texts, "--npy", vectors, "--force")
    assert np.load(vectors).shape == (10, 64)
    texts.write_text("\n")
    result = edgept_main(*command, "--input", texts, "--npy", vectors, "--force")
    assert result.exit_code == 2
    assert "no text" in result.stderr


def test_long_texts_are_cut_when_asked_and_that_is_said(
    bundle: Callable[[str], Path], prompt: Callable[..., Path]
) -> None:
    task = "feature-extraction"
    command = ["-b", bundle(task), "--prompt", prompt(task), "--json"]
    text = "where is Anna " * 100
    refused = edgept_main(*command, text)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "(--truncate)" in refused.stderr
    cut = edgept_main(*command, "--truncate", text)
    assert said(cut)[0]["truncated"] == 402 - (256 - 4)
    assert "150 tokens of this text were cut off" in cut.stderr


def test_pairs_of_texts_are_classified(
    bundle: Callable[[str], Path], prompt: Callable[..., Path], tmp_path: Path
) -> None:
    task = "text-classification"
    folder, file = bundle(task), prompt(task, ("no", "yes"))
    model, loaded = load(folder, file)
    rows = tmp_path / "rows.jsonl"
    lines = [{"text": TEXTS[0], "text_pair": TEXTS[1]}, {"text": TEXTS[2], "label": "no"}]
    rows.write_text("\n".join(map(json.dumps, lines)))
    pair, single = said(edgept_main("-b", folder, "--prompt", file, "--input", rows, "--json"))
    assert pair["input"] == [TEXTS[0], TEXTS[1]]
    assert single["input"] == TEXTS[2]
    expected = model.classify((TEXTS[0], TEXTS[1]), prompt=loaded)
    np.testing.assert_allclose(pair["logits"], expected.logits, rtol=1e-4)


@pytest.mark.parametrize(
    ("task", "option", "why"),
    [
        ("token-classification", ["--temperature", "0"], "tags texts; --temperature is for text-g"),
        ("token-classification", ["--npy", "x.npy"], "--npy is for feature-extraction"),
        ("question-answering", ["--truncate"], "answers questions about a text; --truncate is for"),
        ("question-answering", ["--chat"], "--chat is for text-generation"),
        (
            "feature-extraction",
            ["--top-k", "2"],
            "--top-k is for text-generation and text2text-generation and q",
        ),
        ("feature-extraction", ["--context", __file__], "makes vectors of texts; --context is for"),
        ("text-classification", ["--aggregation", "simple"], "--aggregation is for token-"),
    ],
)
def test_options_of_other_tasks_are_refused(
    task: str, option: list[str], why: str, bundle: Callable[[str], Path]
) -> None:
    result = edgept_main("-b", bundle(task), *option, "a text")
    assert (result.exit_code, result.stdout) == (2, "")
    assert why in result.stderr


def test_session(
    bundle: Callable[[str], Path],
    prompt: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = "question-answering"
    model, loaded = load(bundle(task), prompt(task))
    typed = iter([QUESTION, "/quit"])
    monkeypatch.setattr("builtins.input", lambda *_: next(typed))
    converse(model, {"p": loaded}, lambda text: (text, TEXTS[0]), {"top_k": 2})
    captured = capsys.readouterr()
    spans = model.answer(QUESTION, TEXTS[0], prompt=loaded, top_k=2).spans
    assert len(captured.out.splitlines()) == 2
    assert captured.out.splitlines()[0].endswith(spans[0].text)
    assert "prefill" in captured.err
