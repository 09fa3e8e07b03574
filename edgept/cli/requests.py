"""The requests of `edgept run`: an argument, a file's lines as text or as JSON, or stdin."""

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["read_requests", "read_text"]

_MAX_REQUEST = 16 << 20  # characters; no model takes as many


def read_requests(
    text: str | None,
    input_file: str | None,
    content: "Callable[[str], Any]",
    *,
    asks_context: bool,
) -> Iterator[tuple[object, Any]]:
    """What to run: as the user gave it, and as the model takes it.

    Args:
        text: the argument, if any.
        input_file: of --input, "-" for stdin. Its lines are texts; of a name that ends in .jsonl,
            objects: {"text": …}, with "text_pair" for a pair, or {"question": …, "context": …}.
        content: from a text to a request.
        asks_context: whether each request is a question with a context of its own, so that it can only
            come as JSON.

    Raises:
        click.UsageError: there is nothing to run, or a line is not what it should be.
    """
    is_json = input_file is not None and (asks_context or input_file.endswith(".jsonl"))
    if asks_context and not is_json:
        raise click.UsageError(
            "this bundle answers questions about a text: give it with --context FILE, or lines of "
            '{"question": …, "context": …} with --input FILE.'
        )
    if text is not None:
        yield text, content(text)
        return
    for number, line in enumerate(_lines(input_file), 1):
        if not is_json:
            yield line, content(line)
            continue
        row = _row(line, f"{input_file}, line {number}")
        if "question" in row and "context" in row:
            yield row["question"], (row["question"], row["context"])
        elif "text" not in row or asks_context:
            keys = '"question" and "context"' if asks_context else '"text"'
            raise click.UsageError(
                f"{input_file}, line {number} has {', '.join(row) or 'no keys'}; expected {keys}."
            )
        elif "text_pair" in row:
            yield [row["text"], row["text_pair"]], (row["text"], row["text_pair"])
        else:
            yield row["text"], content(row["text"])


def read_text(path: str) -> str:
    """A file's text; "-" is stdin."""
    with click.open_file(path, encoding="utf-8", errors="replace") as file:
        text: str = file.read(_MAX_REQUEST)
    _check_size(text)
    return text


def _lines(input_file: str | None) -> Iterator[str]:
    if input_file is not None:
        with click.open_file(input_file, encoding="utf-8", errors="replace") as lines:
            while line := lines.readline(_MAX_REQUEST):
                _check_size(line)
                if line.strip():
                    yield line.rstrip("\r\n")
    elif sys.stdin is None:
        raise click.UsageError("no TEXT, no --input, and stdin is closed.")
    else:
        request = sys.stdin.buffer.read(_MAX_REQUEST).decode("utf-8", errors="replace")
        _check_size(request)
        if not request.strip():
            raise click.UsageError("no TEXT, no --input, and stdin is empty.")
        yield request.rstrip("\r\n")


def _row(line: str, place: str) -> dict[str, str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{place} is not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise click.UsageError(f"{place} is no JSON object, but {line[:40]!r}.")
    for name in ("text", "text_pair", "question", "context"):
        if name in row and not isinstance(row[name], str):
            raise click.UsageError(f"{place}: {name!r} is {row[name]!r}, expected a text.")
    return row


def _check_size(request: str) -> None:
    if len(request) >= _MAX_REQUEST:
        raise click.UsageError(
            f"a request of {_MAX_REQUEST >> 20} million characters or more. Is it a text?"
        )
