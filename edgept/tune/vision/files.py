"""The files of a data set of pictures: which are pictures, and what identifies them all."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from edgept.formats.regular_file import open_regular
from edgept.pictures.finding import ENDINGS

__all__ = ["digest", "is_picture", "pictures_under", "sha256_of"]


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
        InvalidFileError: it is a pipe or the like, which nobody may ever write to.
    """
    whole = hashlib.sha256()
    for part in more:
        whole.update(hashlib.sha256(part).digest())
    for path in paths:
        whole.update(os.path.relpath(path, root).replace(os.sep, "/").encode("utf-8", "replace"))
        whole.update(sha256_of(path))
    return whole.hexdigest()


def sha256_of(path: Path) -> bytes:
    """SHA-256 of a file's bytes; raises as `digest` does."""
    with open_regular(path, max_bytes=1 << 62, follow_links=True) as (stream, _):
        return hashlib.file_digest(stream, "sha256").digest()
