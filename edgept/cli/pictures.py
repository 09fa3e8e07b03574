"""`edgept run` on a bundle that looks at pictures: what is found in each, said, drawn or saved as vectors."""

import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from edgept.cli.drawings import Drawings
from edgept.cli.findings import lines, to_json
from edgept.errors import EdgeptError, UsageError

if TYPE_CHECKING:
    from edgept.runtime.content import LoadedPrompt
    from edgept.runtime.model import Model
    from edgept.runtime.seeing import Sighting

__all__ = ["Output", "list_pictures", "look"]

_BATCH = 16  # pictures that are asked about at once
_MAX_PIXELS = 1 << 26  # whose classes are found at once, two bytes a pixel
_SEGMENTS = "image-segmentation"

_Request: TypeAlias = "tuple[Path, str, LoadedPrompt | None]"


@dataclass
class Output:
    """Where results go.

    Attributes:
        as_json: an object a line on stdout, instead of text.
        drawings: where pictures with what was found drawn on them go; None saves none.
        vectors: whether pictures are made vectors, whatever their prompts are for; they are kept and not
            printed.
        several: whether the prompt's name is said, too.
        kept: the vectors, None where there is none.
        failed: pictures that could not be read, and why.
    """

    as_json: bool
    drawings: Drawings | None
    vectors: bool
    several: bool
    kept: list[Any] = field(default_factory=list)
    failed: dict[Path, EdgeptError] = field(default_factory=dict)


def list_pictures(inputs: Sequence[str], input_file: str | None) -> list[Path]:
    """The pictures that are asked about: the arguments', or those that a file or stdin names, one a line.

    Raises:
        UsageError: there is none, or a folder or pattern has none.
    """
    from edgept.pictures.finding import find_pictures

    given: Iterable[str] = inputs
    if not inputs:
        if input_file is None and sys.stdin is None:
            raise UsageError("no PICTURE, no --input, and stdin is closed. Name a picture.")
        with click.open_file(input_file or "-", encoding="utf-8", errors="surrogateescape") as file:
            given = [line.rstrip("\r\n") for line in file if line.strip()]
    found = [*find_pictures(given)]
    if not found:
        raise UsageError("no picture is named. Give files, folders or patterns (scans/*.png).")
    return found


def look(
    model: "Model",
    paths: Sequence[Path],
    prompts: "Sequence[tuple[str, LoadedPrompt | None]]",
    options: Mapping[str, Any],
    output: Output,
) -> None:
    """Say what is found in pictures under each prompt; one that cannot be read harms no other.

    Args:
        model: of a bundle that looks.
        paths: of the pictures.
        prompts: names and prompts.
        options: of `Model.see`.
        output: where results go. Its `kept` and `failed` are filled.
    """
    with warnings.catch_warnings():
        # of odd metadata in a picture that is read all the same
        warnings.filterwarnings("ignore", module=r"PIL\.")
        _look(model, paths, prompts, options, output)


def _look(
    model: "Model",
    paths: Sequence[Path],
    prompts: "Sequence[tuple[str, LoadedPrompt | None]]",
    options: Mapping[str, Any],
    output: Output,
) -> None:
    for path, name, found in _found(model, paths, prompts, options, vectors=output.vectors):
        if isinstance(found, EdgeptError):
            # under each prompt, but it is said once
            is_said = name != prompts[0][0] and str(found) == str(output.failed.get(path))
            _fail(path, found, output, is_said=is_said)
            continue
        saved: list[str] = []
        if output.drawings is not None:
            try:
                saved = output.drawings.save(path, name if output.several else None, found)
            except EdgeptError as error:
                _fail(path, error, output)
                continue
        if output.vectors:
            output.kept.append(found)
        if output.as_json:
            click.echo(_to_json(path, found, saved))
        elif not output.vectors:
            for line in lines(found):
                click.secho(f"{_shown(path)}: ", dim=True, nl=False)
                if output.several:
                    click.secho(f"{name}: ", bold=True, nl=False)
                click.echo(line)
            click.secho(f"[{found.latency}]", dim=True, err=True)


def _found(
    model: "Model",
    paths: Sequence[Path],
    prompts: "Sequence[tuple[str, LoadedPrompt | None]]",
    options: Mapping[str, Any],
    *,
    vectors: bool,
) -> "Iterator[tuple[Path, str, Sighting | EdgeptError]]":
    """What is found, picture by picture under each prompt, or why nothing is."""

    def ask(requests: "Sequence[_Request]") -> "Sequence[Sighting]":
        asked = [(path, prompt) for path, _, prompt in requests]
        return model.embed_image_batch(asked) if vectors else model.see_batch(asked, **options)

    for batch in _batches(paths, prompts, vectors=vectors):
        try:
            answers = ask(batch)
        except EdgeptError:
            # one cannot be read; each is asked for itself
            for path, some in groupby(batch, key=itemgetter(0)):
                requests = [*some]
                alone: Sequence[Sighting | EdgeptError]
                try:
                    alone = ask(requests)
                except EdgeptError as error:
                    alone = [error] * len(requests)
                for (_, name, _), found in zip(requests, alone, strict=True):
                    yield path, name, found
            continue
        for (path, name, _), found in zip(batch, answers, strict=True):
            yield path, name, found


def _batches(
    paths: Sequence[Path], prompts: "Sequence[tuple[str, LoadedPrompt | None]]", *, vectors: bool
) -> "Iterator[list[_Request]]":
    """What is asked at once: of few pictures, and with classes of few pixels as results."""
    batch: list[_Request] = []
    held = 0
    for number, path in enumerate(paths, 1):
        pixels = None
        for name, prompt in prompts:
            if not vectors and prompt is not None and prompt.prompt.task == _SEGMENTS:
                pixels = _pixels(path) if pixels is None else pixels
                if batch and held + pixels > _MAX_PIXELS:
                    yield batch
                    batch, held = [], 0
                held += pixels
            batch.append((path, name, prompt))
        if batch and number % _BATCH == 0:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _pixels(path: Path) -> int:
    from edgept.pictures.reading import read_size

    try:
        width, height = read_size(path)
    except EdgeptError:
        return 0  # which is told when it is looked at
    return width * height


def _fail(path: Path, error: EdgeptError, output: Output, *, is_said: bool = False) -> None:
    output.failed.setdefault(path, error)
    if output.vectors:
        output.kept.append(None)
    if is_said:
        return
    if output.as_json:
        click.echo(json.dumps({"input": _shown(path), "error": str(error)}, ensure_ascii=False))
    click.echo(f"error: {error}", err=True)


def _to_json(path: Path, found: "Sighting", saved: Sequence[str]) -> str:
    """As of a text; of a segmentation its shares, since --save writes the class of every pixel."""
    from edgept.runtime.segmenter import Segmentation

    more: dict[str, Any] = {"saved": saved} if saved else {}
    if isinstance(found, Segmentation):
        height, width = found.classes.shape
        more["size"] = [width, height]
        return to_json(_shown(path), found, without=("classes", "probabilities"), **more)
    return to_json(_shown(path), found, **more)


def _shown(path: Path) -> str:
    return click.format_filename(path)
