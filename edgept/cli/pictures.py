"""`edgept run` on a bundle that looks at pictures: what is found in each, said, drawn or saved as vectors."""

import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgept.cli.findings import lines, to_json
from edgept.errors import EdgeptError, UsageError

if TYPE_CHECKING:
    from PIL import Image

    from edgept.runtime.content import LoadedPrompt
    from edgept.runtime.model import Model
    from edgept.runtime.seeing import Sighting

__all__ = ["Output", "list_pictures", "look"]

_BATCH = 16  # pictures that are read ahead


@dataclass
class Output:
    """Where results go.

    Attributes:
        as_json: an object a line on stdout, instead of text.
        save: folder for pictures with what was found drawn on them; None saves none.
        vectors: whether pictures are made vectors, whatever their prompts are for; they are kept and not
            printed.
        force: whether existing files may be replaced.
        several: whether the prompt's name is said, too.
        kept: the vectors, None for a picture that could not be read.
        failed: pictures that could not be read, and why.
    """

    as_json: bool
    save: Path | None
    vectors: bool
    force: bool
    several: bool
    kept: list[Any] = field(default_factory=list)
    failed: dict[Path, EdgeptError] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def name(self, path: Path, prompt: str) -> str:
        """A file name that no other picture of this run has."""
        stem = f"{path.stem}.{_as_file_name(prompt)}" if self.several else path.stem
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem}-{number}"
        self._names.add(name)
        return name


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
    if output.save is not None:
        output.save.mkdir(parents=True, exist_ok=True)
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
            _fail(path, found, output, len(prompts))
            continue
        try:
            saved = [] if output.save is None else _save(path, name, found, output)
        except EdgeptError as error:
            _fail(path, error, output, 1)
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
    """What is found, picture by picture under each prompt; of one that cannot be read, why, once."""

    def ask(some: Sequence[Path]) -> "Sequence[Sighting]":
        requests = [(path, prompt) for path in some for _, prompt in prompts]
        return (
            model.embed_image_batch(requests) if vectors else model.see_batch(requests, **options)
        )

    for first in range(0, len(paths), _BATCH):
        batch = paths[first : first + _BATCH]
        try:
            answers = iter(ask(batch))
        except EdgeptError:
            # one cannot be read; each is asked for itself
            for path in batch:
                try:
                    alone = ask([path])
                except EdgeptError as error:
                    yield path, "", error
                    continue
                for (name, _), found in zip(prompts, alone, strict=True):
                    yield path, name, found
            continue
        for path in batch:
            for name, _ in prompts:
                yield path, name, next(answers)


def _fail(path: Path, error: EdgeptError, output: Output, prompts: int) -> None:
    output.failed.setdefault(path, error)
    if output.vectors:
        output.kept += [None] * prompts
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


def _save(path: Path, prompt: str, found: "Sighting", output: Output) -> list[str]:
    """Write the picture with what was found on it; of segments also the class of every pixel.

    Returns:
        The files.
    """
    from edgept.atomic import write_bytes
    from edgept.pictures import drawing, read_picture
    from edgept.runtime.detector import Detections
    from edgept.runtime.image_classifier import ImageClassification
    from edgept.runtime.segmenter import Segmentation

    folder = output.save
    if folder is None:
        raise AssertionError("there is a folder to save in")
    picture, name = read_picture(path), output.name(path, prompt)
    files: dict[str, Image.Image] = {}
    if isinstance(found, Segmentation):
        files[f"{name}.png"] = drawing.draw_areas(picture, found.classes, found.labels)
        files[f"{name}.classes.png"] = drawing.to_mask(found.classes)
    elif isinstance(found, Detections):
        index = {label: number for number, label in enumerate(found.labels)}
        boxes = [
            (item.box, f"{item.label} {item.score:.2f}", index[item.label]) for item in found.found
        ]
        files[f"{name}.png"] = drawing.draw_boxes(picture, boxes)
    elif isinstance(found, ImageClassification):
        text = f"{found.label} {found.probability:.2f}"
        files[f"{name}.png"] = drawing.draw_caption(picture, text, found.labels.index(found.label))
    else:
        raise UsageError(
            "--save draws classes, segments or boxes, and without a prompt this bundle makes vectors. Give "
            "a prompt, or write them with --npy."
        )
    for file, image in files.items():
        write_bytes(folder / file, drawing.to_png(image), overwrite=output.force)
    return [click.format_filename(folder / file) for file in files]


def _shown(path: Path) -> str:
    return click.format_filename(path)


def _as_file_name(prompt: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in prompt)
