"""Pictures with a class each: a folder with a sub-folder for every class, or a CSV that names both."""

# ruff: noqa: PTH113  # os.path's answers False for a path that cannot be examined

import csv
import io
import os
from pathlib import Path

from edgept.errors import InvalidFileError
from edgept.tune.settings import Columns
from edgept.tune.vision.files import digest, is_picture, pictures_under
from edgept.tune.vision.rows import PictureData, PictureRow, malformed

__all__ = ["read_csv", "read_folder"]


def read_folder(folder: Path) -> PictureData:
    """Read a folder whose sub-folders are the classes; pictures below them count, too.

    Raises:
        InvalidFileError: there is no sub-folder, one has no picture, or pictures lie beside them.
    """
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    loose = [path for path in entries if path.is_file() and is_picture(path)]
    classes = [path for path in entries if path.is_dir()]
    if not classes:
        found = f"{len(loose)} pictures and no sub-folder" if loose else "nothing to learn from"
        raise InvalidFileError(
            "training-data",
            f"{folder} holds {found}; expected a sub-folder with pictures for each class (or the folders "
            "images and masks). Sort the pictures into such folders, or list them in a CSV.",
        )
    if loose:
        raise malformed(
            str(folder),
            [f"{path.name} lies in no class's folder" for path in loose],
            "Move them into the folders of their classes.",
        )
    rows = []
    for label in classes:
        found_here = pictures_under(label)
        if not found_here:
            raise InvalidFileError(
                "training-data",
                f"{label} holds no picture, so its class cannot be learnt. Give it pictures, or remove it.",
            )
        rows += [
            PictureRow(path.relative_to(folder).as_posix(), path, label.name) for path in found_here
        ]
    paths = [row.picture for row in rows if isinstance(row.picture, Path)]
    return PictureData("classes", tuple(rows), digest(paths, folder), str(folder))


def read_csv(path: Path, columns: Columns) -> PictureData:
    """Read a CSV with a picture's path and its class in each row; paths are relative to the CSV, or absolute.

    Raises:
        InvalidFileError: the file is no such CSV, or rows of it are wrong; each is named.
    """
    raw = path.read_bytes()
    try:
        reader = csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True)
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidFileError(
            "training-data", f"{path} is no CSV in UTF-8: {error}. Convert it."
        ) from error
    names = lines[0][1] if lines else []
    if columns.image not in names or columns.label not in names:
        raise InvalidFileError(
            "training-data",
            f"{path}: the first line names {', '.join(map(repr, names[:6])) or 'nothing'}; expected "
            f"{columns.image!r}, a picture's path, and {columns.label!r}, its class. Correct it, or name the "
            "columns with --image-column and --label-column.",
        )
    at, label_at = names.index(columns.image), names.index(columns.label)
    rows, problems = [], []
    listed: dict[str, tuple[int, str]] = {}  # a picture's line and its class
    for line, cells in lines[1:]:
        if len(cells) != len(names):
            problems.append(f"line {line} has {len(cells)} fields, the first line {len(names)}")
            continue
        picture, label = cells[at].strip(), cells[label_at].strip()
        if not picture or not label:
            problems.append(f"line {line} has no {'path' if label else 'class'}")
        elif not os.path.isfile(path.parent / picture):
            problems.append(f"line {line}: there is no file {picture[:80]}")
        elif listed.setdefault(picture, (line, label))[1] != label:
            problems.append(
                f"line {line}: {picture[:80]} is {label!r:.40}, and {listed[picture][1]!r:.40} in line "
                f"{listed[picture][0]}"
            )
        else:
            rows.append(PictureRow(f"line {line}, {picture}", path.parent / picture, label))
    if problems:
        raise malformed(str(path), problems, "Correct or remove the rows.")
    if not rows:
        raise InvalidFileError("training-data", f"{path} holds no row. Give it a picture a line.")
    paths = [row.picture for row in rows if isinstance(row.picture, Path)]
    return PictureData("classes", tuple(rows), digest(paths, path.parent, raw), str(path))
