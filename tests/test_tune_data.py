"""What `edgept tune` reads, and what it makes of it before anything is trained."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgept.errors import InvalidFileError, UsageError

pytest.importorskip("torch", reason="needs the workstation's extra")

from edgept.tune.data import read_data
from edgept.tune.encode import encode
from edgept.tune.health import judge
from edgept.tune.learning_rates import LEARNING_RATES
from edgept.tune.metrics import score
from edgept.tune.settings import Columns, Settings
from tests.conftest import tiny_tokenizer

EOS = 2
CHAT = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("record", "kind", "text", "answer"),
    [
        ({"input": "Where?", "output": "Here."}, "io", "Where?", "Here."),
        ({"text": "Where?", "label": "place"}, "label", "Where?", "place"),
        ({"text": "Where?", "label": 3}, "label", "Where?", "3"),
        ({"text": "A story."}, "text", "A story.", None),
    ],
)
def test_jsonl(
    tmp_path: Path, record: dict[str, object], kind: str, text: str, answer: str | None
) -> None:
    data = read_data(write(tmp_path / "d.jsonl", record))
    assert data.kind == kind
    assert [(row.line, row.text, row.answer) for row in data.rows] == [(1, text, answer)]


def test_csv_with_named_columns_and_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text('\ufeffq,a\n"Where\nis it?",Here.\nWho?,Me.\n', encoding="utf-8")
    data = read_data(path, Columns(input="q", output="a"))
    assert [(row.line, row.text, row.answer) for row in data.rows] == [
        (2, "Where\nis it?", "Here."),
        (4, "Who?", "Me."),
    ]


def test_malformed_rows_are_named_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(
        b'{"input": "a", "output": "b"}\n'
        b"not json\n"
        b"\n"
        b'{"input": "a"}\n'
        b'{"input": "a", "output": ""}\n'
        b'{"input": "a", "output": 1.5}\n'
        b'["a", "b"]\n'
        b'{"input": "\xff", "output": "b"}\n'
    )
    with pytest.raises(InvalidFileError, match="6 malformed rows") as caught:
        read_data(path)
    lines = str(caught.value).splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [["line", str(n)] for n in (2, 4, 5, 6, 7, 8)]
    for line, words in zip(
        lines, ["JSON", "no 'output'", "empty", "no text", "object", "UTF-8"], strict=True
    ):
        assert words in line


def test_malformed_csv(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("input,output\na,b\na\na,b,c\n")
    with pytest.raises(InvalidFileError, match="2 malformed rows") as caught:
        read_data(path)
    assert "line 3 has 1 fields" in str(caught.value)
    assert "line 4 has 3 fields" in str(caught.value)


@pytest.mark.parametrize(
    "messages",
    [
        "hello",
        [],
        [{"role": "user"}],
        [{"role": "user", "content": "a"}],
        [{"role": "assistant", "content": "a"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}],
    ],
)
def test_malformed_messages(tmp_path: Path, messages: object) -> None:
    with pytest.raises(InvalidFileError, match="line 1 'messages'"):
        read_data(write(tmp_path / "d.jsonl", {"messages": messages}))


def test_files_that_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InvalidFileError, match="no row"):
        read_data(tmp_path / "empty.jsonl")
    with pytest.raises(UsageError, match="cannot read"):
        read_data(tmp_path / "absent.jsonl")
    (tmp_path / "d.xlsx").write_bytes(b"PK")
    with pytest.raises(UsageError, match="jsonl"):
        read_data(tmp_path / "d.xlsx")


def test_a_request_is_encoded_as_the_device_encodes_it(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    data = read_data(write(tmp_path / "d.jsonl", {"input": "where is", "output": "my parcel"}))
    (example,) = encode(data, tokenizer, eos_token_ids=[EOS], max_length=64)
    assert list(example.ids[: example.start]) == tokenizer("where is").input_ids
    assert example.ids[-1] == EOS
    assert tokenizer.decode(example.ids[example.start : -1]) == "my parcel"


def test_every_answer_of_a_conversation_is_learnt_and_nothing_else(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    messages = [
        {"role": "user", "content": "where"},
        {"role": "assistant", "content": "here"},
        {"role": "user", "content": "when"},
        {"role": "assistant", "content": "now"},
    ]
    data = read_data(write(tmp_path / "d.jsonl", {"messages": messages}))
    first, second = encode(data, tokenizer, eos_token_ids=[EOS], max_length=256)
    learnt = [tokenizer.decode(example.ids[example.start :]) for example in (first, second)]
    assert learnt == ["here</s>", "now</s>"]
    request = tokenizer.apply_chat_template(
        messages[:3], tokenize=False, add_generation_prompt=True
    )
    assert (
        list(second.ids[: second.start]) == tokenizer(request, add_special_tokens=False).input_ids
    )


def test_a_template_that_cannot_be_learnt_from_is_named(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    data = read_data(write(tmp_path / "d.jsonl", {"messages": messages}))
    with pytest.raises(UsageError, match="no chat template"):
        encode(data, tokenizer, eos_token_ids=[EOS], max_length=64)
    for template, words in [
        ("{{ raise_exception('no') }}", "refused"),
        ("{{ messages | length }}{{ add_generation_prompt }}", "rendered otherwise"),
    ]:
        tokenizer.chat_template = template
        with pytest.raises(InvalidFileError, match=words):
            encode(data, tokenizer, eos_token_ids=[EOS], max_length=64)


def test_long_rows_are_refused_or_dropped_and_texts_cut(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    long, short = {"input": "where " * 50, "output": "a"}, {"input": "where", "output": "a"}
    data = read_data(write(tmp_path / "d.jsonl", short, long))
    with pytest.raises(InvalidFileError, match=r"line 2 has 1?[0-9]{2} tokens, room is 20"):
        encode(data, tokenizer, eos_token_ids=[EOS], max_length=20)
    kept = encode(data, tokenizer, eos_token_ids=[EOS], max_length=20, drop_long=True)
    assert len(kept) == 1
    text = read_data(write(tmp_path / "t.jsonl", {"text": "where is my parcel " * 9}))
    pieces = encode(text, tokenizer, eos_token_ids=[EOS], max_length=10)
    whole = [token for piece in pieces for token in piece.ids]
    ids = [*tokenizer("where is my parcel " * 9).input_ids, EOS]
    assert whole == ids[: len(whole)]
    assert len(ids) - len(whole) <= 1  # a last piece of one token predicts nothing
    assert {len(piece.ids) for piece in pieces[:-1]} == {10}


def test_metrics() -> None:
    assert score("io", [" Here. ", "there"], ["Here.", "There"]) == {"exact_match": 0.5}
    found = score("label", ["a", "a", "b", "x"], ["a", "b", "b", "c"])
    assert found["accuracy"] == 0.5
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


@pytest.mark.parametrize(
    ("losses", "norms", "words"),
    [
        ([3.0] * 50, [1.0] * 50, "does not move"),
        ([3.0] * 25 + [4.0] * 25, [1.0] * 50, "rises"),
        ([3.0 - 0.01 * i for i in range(50)], [0.0] * 50, "vanished"),
        ([3.0 - 0.01 * i for i in range(50)], [1.0] * 49 + [1e3], "exploded"),
    ],
)
def test_trouble_is_named_with_a_remedy(
    losses: list[float], norms: list[float], words: str
) -> None:
    (warning,) = judge(losses, norms, 0.1, "cpt")
    assert words in warning
    assert "--" in warning


def test_a_healthy_run_has_no_warning() -> None:
    losses = [3.0 - 0.02 * i for i in range(80)]
    assert judge(losses, [1.0 + 0.1 * i for i in range(80)], 1, "p-tuning") == []
    # multitask prompts start near zero, where gradients are large
    assert judge(losses, [1e4] * 10 + [1.0] * 70, 1, "multitask") == []


@pytest.mark.parametrize("method", LEARNING_RATES)
def test_no_method_starts_at_random_unless_it_must(method: str) -> None:
    kind, _ = Settings(method=method).initial()
    assert (kind == "random") == (method == "p-tuning")
    described = Settings(method=method, description="Answer in Spanish:").initial()
    if method != "p-tuning":
        assert described[0] in ("text", "kv")
        assert described[1] == "Answer in Spanish:"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "lora"}, "unknown method"),
        ({"virtual_tokens": 0}, "virtual_tokens"),
        ({"init": "kv:text"}, "not for prompt-tuning"),
        ({"init": "text:"}, "a text belongs"),
        ({"init": "vocab:x"}, "a text belongs"),
        ({"method": "p-tuning", "init": "vocab"}, "expected one of random"),
        ({"steps": 3, "epochs": 1}, "give one"),
        ({"eval_split": 1.0}, "below 1"),
        ({"learning_rate": 0}, "above 0"),
        ({"warmup": 1.0}, "warmup"),
        ({"precision": "fp8"}, "precision"),
        ({"method": "prefix-tuning", "checkpoint_activations": True}, "twice"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Settings(**options)


def test_settings_from_a_file() -> None:
    settings = Settings.from_mapping({"steps": 7, "columns": {"input": "q"}})
    assert (settings.steps, settings.columns.input) == (7, "q")
    with pytest.raises(UsageError, match="unknown setting 'stepz'"):
        Settings.from_mapping({"stepz": 7})
    with pytest.raises(UsageError, match="wrong kind"):
        Settings.from_mapping({"columns": {"inputs": "q"}})


def test_epochs_count_updates() -> None:
    assert Settings(epochs=3, batch_size=4, accumulate=2).total_steps(80) == 30
    assert Settings().total_steps(80) == 500
