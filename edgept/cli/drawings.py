"""`edgept run --save DIR`: pictures with what was found drawn on them, as files."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgept.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from edgept.runtime.seeing import Sighting

__all__ = ["Drawings"]


class Drawings:
    """A folder of pictures that are drawn on.

    The pictures that are looked at are never replaced, and no file of a run replaces another of it.
    """

    def __init__(self, folder: Path, looked_at: Iterable[Path], *, force: bool) -> None:
        """Get ready.

        Args:
            folder: which need not exist yet.
            looked_at: all pictures of the run; some may not exist.
            force: whether existing files may be replaced.
        """
        self._folder, self._force = folder, force
        self._looked_at = {place: path for path in looked_at if (place := _place(path)) is not None}
        self._names: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, path: Path, prompt: str | None, found: "Sighting") -> list[str]:
        """Write the picture with what was found on it; of segments also the class of every pixel.

        Args:
            path: of the picture.
            prompt: to name the files after, beside the picture; None where there is but one.
            found: in the picture.

        Returns:
            The files.

        Raises:
            UsageError: a file exists already, or is a picture that is looked at; or there is nothing to
                draw.
        """
        from edgept.atomic import write_bytes
        from edgept.pictures import drawing

        images = _draw(path, found)  # by the end of the file's name
        stem = path.stem if prompt is None else f"{path.stem}.{_as_file_name(prompt)}"
        files = {self._folder / name: image for name, image in self._named(stem, images).items()}
        for file in files:
            self._refuse_looked_at(file)
        for file, image in files.items():
            write_bytes(file, drawing.to_png(image), overwrite=self._force)
        return [click.format_filename(file) for file in files]

    def _named(self, stem: str, images: "dict[str, Image.Image]") -> "dict[str, Image.Image]":
        """Names that no other files of this run have."""
        name, number = stem, 1
        while any(name + end in self._names for end in images):
            number += 1
            name = f"{stem}-{number}"
        named = {name + end: image for end, image in images.items()}
        self._names |= named.keys()
        return named

    def _refuse_looked_at(self, file: Path) -> None:
        place = _place(file)
        if place is not None and place in self._looked_at:
            picture = click.format_filename(self._looked_at[place])
            raise UsageError(
                f"--save would replace {picture}, a picture that is looked at. Save in another folder."
            )


def _place(path: Path) -> tuple[int, int] | None:
    """What two names of one file have in common; None of no file."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _draw(path: Path, found: "Sighting") -> "dict[str, Image.Image]":
    from edgept.pictures import drawing, read_picture
    from edgept.runtime.detector import Detections
    from edgept.runtime.image_classifier import ImageClassification
    from edgept.runtime.segmenter import Segmentation

    if isinstance(found, Segmentation):
        return {
            ".png": drawing.draw_areas(read_picture(path), found.classes, found.labels),
            ".classes.png": drawing.to_mask(found.classes),
        }
    if isinstance(found, Detections):
        index = {label: number for number, label in enumerate(found.labels)}
        boxes = [
            (item.box, f"{item.label} {item.score:.2f}", index[item.label]) for item in found.found
        ]
        return {".png": drawing.draw_boxes(read_picture(path), boxes)}
    if isinstance(found, ImageClassification):
        text = f"{found.label} {found.probability:.2f}"
        index_of = found.labels.index(found.label)
        return {".png": drawing.draw_caption(read_picture(path), text, index_of)}
    raise UsageError(
        "--save draws classes, segments or boxes, and without a prompt this bundle makes vectors. Give "
        "a prompt, or write them with --npy."
    )


def _as_file_name(prompt: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in prompt)
