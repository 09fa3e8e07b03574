"""The classes of a task on pictures: named by the training data, and by nothing else."""

from pathlib import Path

from edgept.errors import InvalidFileError
from edgept.tune.labels import check_known, check_split, check_storable
from edgept.tune.vision.rows import BACKGROUND, IGNORED, PictureData, PictureRow

__all__ = ["picture_labels"]

_FEWEST = {"classes": 2, "masks": 2, "boxes": 1}


def picture_labels(training: PictureData, held_out: PictureData | None) -> tuple[str, ...]:
    """Names of the classes; their indices are those of the head's rows.

    They are in the order in which the data list them, else sorted.

    Raises:
        UsageError: a split leaves a class to the held-out pictures alone.
        InvalidFileError: there are too few or too many, a prompt file cannot hold one, or held-out
            pictures are of a class that no training row is of; each is named.
    """
    names = training.labels or tuple(sorted({row.label for row in training.rows}))
    if training.kind == "classes":
        check_split(names, training, held_out)
    if len(names) < _FEWEST[training.kind]:
        raise InvalidFileError(
            "training-data",
            f"{training.path} has one label only, {names[0]!r}; two are told apart at least. Give pictures of "
            "others.",
        )
    if training.kind == "masks" and len(names) > IGNORED:
        raise InvalidFileError(
            "training-data",
            f"{training.path} has {len(names)} classes; masks of 8 bits hold {IGNORED}. Join some.",
        )
    places = {row.label: row.place for row in reversed(training.rows)}
    check_storable(names, training.path, places)
    if held_out is not None:
        unknown = [
            f"{row.place} {label!r}"
            for row in held_out.rows
            for label in sorted(_labels_of(row))
            if label not in names
        ]
        check_known(names, held_out.path, unknown)
        _check_numbers(names, held_out)
    return names


def _check_numbers(names: tuple[str, ...], held_out: PictureData) -> None:
    """Refuse masks whose numbers are other classes than in the training data."""
    are_files = any(isinstance(row.mask, Path) for row in held_out.rows)
    numbers = tuple(map(str, range(len(held_out.labels))))  # that nobody named
    if are_files and held_out.labels not in (names, numbers):
        raise InvalidFileError(
            "training-data",
            f"{held_out.path} names its classes {', '.join(held_out.labels[:6])}, the training data "
            f"{', '.join(names[:6])}, in this order. Give both the same labels.txt.",
        )


def _labels_of(row: PictureRow) -> set[str]:
    """All classes that a row names; the numbers in a mask's file are looked at when it is read."""
    if isinstance(row.mask, tuple):
        return {BACKGROUND, *(shape.label for shape in row.mask)}
    return {row.label, *(box.label for box in (*row.boxes, *row.crowds))} - {""}
