"""Pictures with a class each in one `.npz`, as MedMNIST stores them."""

from pathlib import Path

import numpy as np

from edgept.errors import InvalidFileError, UsageError
from edgept.prompt_file import MAX_VALUE_BYTES
from edgept.tune.vision.archive import array_names, read_array
from edgept.tune.vision.files import sha256_of
from edgept.tune.vision.rows import PictureData, PictureRow, malformed

__all__ = ["has_split", "read_npz"]

_MOST_CLASSES = MAX_VALUE_BYTES["labels"] // len('"0",')  # that a prompt file can name


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
    there = array_names(path)
    wanted = f"{split}_images", f"{split}_labels"
    if not set(wanted) <= set(there):
        raise UsageError(
            f"{path} has no {split}_images and {split}_labels (it has {', '.join(there[:8])[:200] or 'nothing'}). "
            f"Name a split that is there: {path.name}:val, for example."
        )
    images, classes = (read_array(path, name) for name in wanted)
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
    highest = (len(labels) if labels else min(int(classes.max()) + 1, _MOST_CLASSES)) - 1
    wrong = [
        f"{split}_images[{at}] has the label {value}"
        for at, value in enumerate(classes.tolist())
        if not 0 <= value <= highest
    ]
    if wrong:
        source = "as --labels names them" if labels else "the most that a prompt file names"
        raise malformed(str(path), wrong, f"Labels from 0 to {highest} are expected, {source}.")
    names = labels or tuple(str(index) for index in range(highest + 1))
    rows = tuple(
        PictureRow(f"{split}_images[{at}]", image, names[label])
        for at, (image, label) in enumerate(zip(images, classes.tolist(), strict=True))
    )
    sha256 = sha256_of(path).hex()
    return PictureData("classes", rows, f"{sha256}:{split}", f"{path}:{split}", names)


def has_split(path: Path, split: str) -> bool:
    """Whether the file has pictures of a split."""
    return f"{split}_images" in array_names(path)
