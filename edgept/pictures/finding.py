"""Which files a command's arguments stand for: pictures, folders of them, patterns."""

# ruff: noqa: PTH112, PTH113, PTH207  # os.path's answers False for a path that cannot be examined

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgept.errors import UsageError

__all__ = ["ENDINGS", "find_pictures"]

# Of the files that are taken from a folder.
ENDINGS = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".ppm", ".pgm", ".pbm")
)


def find_pictures(given: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """Files in the order in which they were given, those of a folder or a pattern by name.

    Args:
        given: files, which need not exist yet; folders, of which all pictures are taken, those of folders
            inside too, by their endings; patterns (`scans/**/*.png`).

    Raises:
        UsageError: a folder holds no picture, or nothing matches a pattern.
    """
    for item in given:
        text = os.fsdecode(item)
        if os.path.isdir(text):
            found = sorted(path for path in Path(text).rglob("*") if _is_picture(path, Path(text)))
            if not found:
                raise UsageError(
                    f"{text} holds no file that ends in {', '.join(sorted(ENDINGS))}. Name the folder that "
                    "holds the pictures."
                )
            yield from found
        elif os.path.lexists(text) or not glob.has_magic(text):
            yield Path(text)
        else:
            matches = sorted(
                path for path in glob.glob(text, recursive=True) if os.path.isfile(path)
            )
            if not matches:
                raise UsageError(f"nothing matches {text}. Check the pattern.")
            yield from map(Path, matches)


def _is_picture(path: Path, folder: Path) -> bool:
    is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in ENDINGS and not is_hidden and os.path.isfile(path)
