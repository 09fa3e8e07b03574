"""Pictures with a class each in one `.npz`, as MedMNIST stores them."""

import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from edgept.errors import InvalidFileError, UsageError
from edgept.tune.vision.rows import PictureData, PictureRow, malformed

__all__ = ["has_split", "read_npz"]


def read_npz(path: Path, split: str, labels: tuple[str, ...] = ()) -> PictureData:
    """Read `train_images` and `train_labels`, or another split's.

    Args:
        path: the file; images are (rows, height, width) or (rows, height, width, 3) uint8, labels (rows,)
            or (rows, 1) whole numbers from 0 on.
        split: train, val or test.
        labels: names of the classes; none takes "0", "1", ….

    Raises:
        InvalidFileError: the file is no such archive, or its arrays do not match.
        UsageError: it has no such split.
    """
    content = _load(path)
    images, classes = content.get(f"{split}_images"), content.get(f"{split}_labels")
    if images is None or classes is None:
        there = ", ".join(sorted(content)[:8]) or "nothing"
        raise UsageError(
            f"{path} has no {split}_images and {split}_labels (it has {there}). Name a split that is there: "
            f"{path.name}:val, for example."
        )
    is_grey_or_rgb = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 3)
    if not is_grey_or_rgb or images.dtype != np.uint8 or 0 in images.shape[1:3]:
        raise InvalidFileError(
            "training-data",
            f"{path}: {split}_images is {images.dtype} of the shape {images.shape}; expected uint8 of (rows, "
            "height, width), or of (rows, height, width, 3). Convert it.",
        )
    if classes.ndim == 2 and classes.shape[1] == 1:
        classes = classes[:, 0]
    if classes.ndim != 1 or classes.dtype.kind not in "ui":
        raise InvalidFileError(
            "training-data",
            f"{path}: {split}_labels is {classes.dtype} of the shape {classes.shape}; expected one whole number "
            "for each picture. Several classes of one picture are not learnt by this version.",
        )
    if len(classes) != len(images) or not len(images):
        raise InvalidFileError(
            "training-data",
            f"{path} has {len(images)} {split}_images and {len(classes)} {split}_labels; expected one label for "
            "each picture. Correct it.",
        )
    highest = len(labels) - 1 if labels else int(classes.max())
    wrong = [
        f"{split}_images[{at}] has the label {value}"
        for at, value in enumerate(classes.tolist())
        if not 0 <= value <= highest
    ]
    if wrong:
        raise malformed(
            str(path), wrong, f"Labels from 0 to {highest} are expected, as --labels names them."
        )
    names = labels or tuple(str(index) for index in range(highest + 1))
    rows = tuple(
        PictureRow(f"{split}_images[{at}]", image, names[label])
        for at, (image, label) in enumerate(zip(images, classes.tolist(), strict=True))
    )
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return PictureData("classes", rows, f"{sha256}:{split}", f"{path}:{split}", names)


def has_split(path: Path, split: str) -> bool:
    """Whether the file has pictures of a split."""
    return f"{split}_images" in _load(path)


def _load(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        if error.strerror:
            raise UsageError(f"cannot read {path}: {error.strerror}. Check the path.") from error
        raise _no_archive(path, error) from error
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise _no_archive(path, error) from error


def _no_archive(path: Path, error: Exception) -> InvalidFileError:
    return InvalidFileError(
        "training-data",
        f"{path} is no .npz of plain arrays: {error}. Save it with numpy.savez, without objects.",
    )
