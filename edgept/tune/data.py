"""Training data: rows from JSONL or CSV, with every malformed one named before anything is trained.

| Columns | A row is |
|---|---|
| input, output | a request and its answer |
| text, label | a text and its class: a head's, or words that the model answers |
| messages | a conversation; every turn of the assistant is an answer |
| text | a text in the language or style to learn |
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgept.errors import InvalidFileError, UsageError
from edgept.tune.settings import Columns

__all__ = ["Data", "Row", "read_data"]

_SHOWN = 20
_FORMATS = ("messages", "io", "label", "text")


@dataclass(frozen=True)
class Row:
    """One row of the data.

    Attributes:
        line: where it stands in its file, from 1.
        text: the request, or all of the text where there is no answer.
        answer: what the model is to say; None in a row of text alone, or of messages.
        messages: the conversation; empty in other rows.
        task: of multitask prompt tuning; "" where the data names none.
    """

    line: int
    text: str = ""
    answer: str | None = None
    messages: tuple[dict[str, Any], ...] = ()
    task: str = ""

    @property
    def label(self) -> str:
        """The answer as the name of a class: without white space around it."""
        return (self.answer or "").strip()


@dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        kind: io, label, messages or text, as in the table above.
        rows: in the file's order.
        sha256: of the file.
        path: where it was read.
    """

    kind: str
    rows: tuple[Row, ...]
    sha256: str
    path: str


def read_data(path: str | os.PathLike[str], columns: Columns | None = None) -> Data:
    """Read rows from .jsonl or .csv.

    Args:
        path: the file, UTF-8. CSV has its column names in the first line.
        columns: names of the columns.

    Raises:
        UsageError: there is no such file, or its ending is neither .jsonl nor .csv.
        InvalidFileError: rows are malformed; the message names each with its line.
    """
    source = Path(path)
    columns = columns or Columns()
    try:
        raw = source.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}. Check the path.") from error
    suffix = source.suffix.lower()
    if suffix in (".jsonl", ".json", ".ndjson"):
        records = _jsonl(raw)
    elif suffix == ".csv":
        records = _csv(raw, source)
    else:
        raise UsageError(
            f"{source}: training data is .jsonl (an object a line) or .csv (names in the first line). "
            "Convert it."
        )
    problems: list[tuple[int, str]] = []
    rows: list[Row] = []
    kind = ""
    for line, record in records:
        if isinstance(record, str):
            problems.append((line, record))
            continue
        kind = kind or _kind(record, columns)
        row = _row(line, record, kind, columns)
        if isinstance(row, str):
            problems.append((line, row))
        else:
            rows.append(row)
    if problems:
        raise _malformed(source, problems)
    if not rows:
        raise InvalidFileError(
            "training-data", f"{source} holds no row. Give it one example a line."
        )
    return Data(kind, tuple(rows), hashlib.sha256(raw).hexdigest(), str(source))


def _jsonl(raw: bytes) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Each line's object, or what is wrong with it."""
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            yield number, "is not UTF-8"
        except (ValueError, RecursionError) as error:
            yield number, f"is not JSON ({str(error)[:80]})"
        else:
            yield number, record if isinstance(record, dict) else "is no JSON object"


def _csv(raw: bytes, source: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _malformed(source, [(line, "is not UTF-8")]) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] | None = None
    while True:
        line = reader.line_num + 1  # a quoted field may go over several lines: where it begins
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield line, f"is not CSV ({error})"
            continue
        if cells is None:
            return
        if names is None:
            names = cells
        elif not cells:
            continue
        elif len(cells) != len(names):
            yield line, f"has {len(cells)} fields, the first line names {len(names)}"
        else:
            yield line, dict(zip(names, cells, strict=True))


def _kind(record: dict[str, Any], columns: Columns) -> str:
    if columns.messages in record:
        return "messages"
    if columns.input in record or columns.output in record:
        return "io"
    if columns.label in record:
        return "label"
    return "text"


def _row(line: int, record: dict[str, Any], kind: str, columns: Columns) -> Row | str:
    """The row, or what is wrong with it."""
    task = record.get(columns.task, "")
    if isinstance(task, int) and not isinstance(task, bool):
        task = str(task)
    if not isinstance(task, str):
        return f"{columns.task!r} is no text"
    if kind == "messages":
        found = _messages(record.get(columns.messages), columns)
        return found if isinstance(found, str) else Row(line, messages=found, task=task)
    wanted = {
        "io": (columns.input, columns.output),
        "label": (columns.text, columns.label),
        "text": (columns.text,),
    }[kind]
    texts: list[str] = []
    for name in wanted:
        value = record.get(name)
        if name not in record:
            there = ", ".join(map(repr, list(record)[:6])) or "nothing"
            return f"has no {name!r} (it has {there})"
        if name == columns.label and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            return f"{name!r} is no text"
        if not value.strip():
            return f"{name!r} is empty"
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return f"{name!r} holds half of a surrogate pair"
        texts.append(value)
    return Row(line, texts[0], texts[1] if len(texts) > 1 else None, task=task)


def _messages(value: Any, columns: Columns) -> tuple[dict[str, Any], ...] | str:
    name = columns.messages
    if isinstance(value, str):  # in a CSV
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return f"{name!r} is not JSON"
    if not isinstance(value, list) or not value:
        return f"{name!r} is no list of messages"
    for message in value:
        if (
            not isinstance(message, dict)
            or not isinstance(message.get("role"), str)
            or not isinstance(message.get("content"), str)
        ):
            return f'{name!r} holds something else than {{"role": "…", "content": "…"}}'
    answers = [message["content"] for message in value if message["role"] == "assistant"]
    if not answers:
        return f"{name!r} holds no message of the assistant"
    if not all(answer.strip() for answer in answers):
        return f"{name!r} holds an empty message of the assistant"
    if value[0]["role"] == "assistant":
        return f"{name!r} begins with the assistant"
    return tuple(value)


def _malformed(source: Path, problems: list[tuple[int, str]]) -> InvalidFileError:
    shown = "".join(f"\n  line {line} {problem}" for line, problem in problems[:_SHOWN])
    more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    rows = "1 malformed row" if len(problems) == 1 else f"{len(problems)} malformed rows"
    return InvalidFileError(
        "training-data",
        f"{source} has {rows}. Correct or remove them; expected are the columns input and output, "
        f"text and label, messages, or text alone (others can be named).{shown}{more}",
    )
