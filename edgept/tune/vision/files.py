"""The files of a data set of pictures: which are pictures, and what identifies them all."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from edgept.errors import UsageError
from edgept.pictures.finding import ENDINGS

__all__ = ["digest", "is_picture", "pictures_under"]


def is_picture(path: Path) -> bool:
    """Whether a file's name says that it is a picture; hidden files are none."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def pictures_under(folder: Path) -> list[Path]:
    """All pictures in a folder and in those below it, in the order of their names."""
    found = [
        Path(parent) / name
        for parent, _, names in os.walk(folder)
        for name in names
        if is_picture(Path(name))
    ]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def digest(paths: Iterable[Path], root: Path, *more: bytes) -> str:
    """SHA-256 of files, their names below a folder included, in the order given.

    Args:
        paths: the files.
        root: the folder that names are relative to, so that a copy of the data counts as the same.
        more: what else decides.

    Raises:
        UsageError: a file cannot be read.
    """
    whole = hashlib.sha256()
    for part in more:
        whole.update(hashlib.sha256(part).digest())
    for path in paths:
        whole.update(os.path.relpath(path, root).replace(os.sep, "/").encode("utf-8", "replace"))
        try:
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}. Check the path.") from error
    return whole.hexdigest()
