"""A data set of pictures in any of the forms that `edgept tune` reads.

| DATA | A picture has |
|---|---|
| folder/cats/1.png | a class, the sub-folder's name |
| list.csv with image and label | a class |
| archive.npz with train_images and train_labels | a class |
| annotations.json as COCO has it | boxes, or the class of each pixel |
| folder/images/1.jpg and folder/masks/1.png | the class of each pixel |
"""

import os
from dataclasses import replace
from pathlib import Path

from edgept.errors import InvalidFileError, UsageError
from edgept.tune.held_out import split_rows
from edgept.tune.settings import Settings
from edgept.tune.vision.arrays import has_split, read_npz
from edgept.tune.vision.coco import read_coco
from edgept.tune.vision.image_folder import read_csv, read_folder
from edgept.tune.vision.mask_folder import is_mask_folder, read_mask_folder
from edgept.tune.vision.rows import PictureData

__all__ = ["TASK_OF_KIND", "read_picture_data", "read_picture_training"]

TASK_OF_KIND = {
    "classes": "image-classification",
    "masks": "image-segmentation",
    "boxes": "object-detection",
}


def read_picture_training(
    data: str | os.PathLike[str], evaluation: str | os.PathLike[str] | None, settings: Settings
) -> tuple[PictureData, PictureData | None]:
    """Pictures to learn from, and held-out ones; None where there are none.

    Of an .npz with a split "val", that is held out where nothing else is asked for.

    Raises:
        UsageError: a file is not there, the two differ in kind, or the split leaves nothing.
        InvalidFileError: rows are malformed; each is named.
    """
    training = read_picture_data(data, settings, "train")
    path, split = _parts(data)
    if evaluation is None and settings.eval_split is None and path.suffix == ".npz" and not split:
        held_out = read_picture_data(f"{path}:val", settings) if has_split(path, "val") else None
        return training, held_out
    if evaluation is None:
        return split_rows(training, settings)
    held_out = read_picture_data(evaluation, settings, "val")
    if held_out.kind != training.kind:
        raise UsageError(
            f"{data} has {training.kind}, {evaluation} has {held_out.kind}. Give both in one form."
        )
    return training, held_out


def read_picture_data(
    data: str | os.PathLike[str], settings: Settings, split: str = "train"
) -> PictureData:
    """Read a data set.

    Args:
        data: a folder or a file, see the table above; of an .npz, "archive.npz:test" names the split.
        settings: the task, where a file has more than one, and the names of columns and classes.
        split: of an .npz, where the name says none.

    Raises:
        UsageError: there is nothing of such a form, or it is for another task.
        InvalidFileError: rows are malformed; each is named.
    """
    path, named = _parts(data)
    if not path.exists():
        raise UsageError(f"there is no file or folder {path}. Check the path.")
    task = settings.task
    suffix = path.suffix.lower()
    if path.is_dir():
        found = read_mask_folder(path) if is_mask_folder(path) else read_folder(path)
    elif suffix == ".csv":
        found = read_csv(path, settings.columns)
    elif suffix == ".npz":
        found = read_npz(path, named or split, settings.labels)
    elif suffix == ".json":
        found = read_coco(path, masks=task == TASK_OF_KIND["masks"])
    else:
        raise UsageError(
            f"{path}: pictures to learn from are a folder with a sub-folder for each class, a .csv with image "
            "and label, an .npz, a COCO .json, or a folder with images and masks. Convert it."
        )
    meant = TASK_OF_KIND[found.kind]
    if task not in (None, "auto", meant):
        raise UsageError(
            f"{path} has {found.kind}, which {meant} learns from, and the task is {task}. Give other data, "
            "or leave --task out."
        )
    return _with_labels(found, settings.labels)


def _with_labels(data: PictureData, labels: tuple[str, ...]) -> PictureData:
    """With the names of classes that the settings give, which is for data that only number them."""
    if not labels or data.labels == labels:
        return data
    if data.kind == "masks" and data.labels == tuple(map(str, range(len(data.labels)))):
        return replace(data, labels=labels)  # masks with more classes are named when they are read
    names = data.labels or tuple(sorted({row.label for row in data.rows}))
    if set(names) <= set(labels) and data.kind == "classes":
        return replace(data, labels=labels)  # in this order
    raise InvalidFileError(
        "training-data",
        f"{data.path} names its classes {', '.join(map(repr, names[:6]))}, and --labels names "
        f"{', '.join(map(repr, labels[:6]))}. Leave --labels out, or rename them there.",
    )


def _parts(data: str | os.PathLike[str]) -> tuple[Path, str]:
    """The path, and the split that stands behind an .npz."""
    text = os.fspath(data)
    before, colon, split = text.rpartition(":")
    if colon and before.lower().endswith(".npz") and not os.path.lexists(text):
        return Path(before), split
    return Path(text), ""
