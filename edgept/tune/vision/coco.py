"""Boxes and masks from a COCO annotation file: https://cocodataset.org/#format-data."""

# ruff: noqa: PTH113  # os.path's answers False for a path that cannot be examined

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgept.errors import InvalidFileError
from edgept.tune.vision.files import digest
from edgept.tune.vision.rows import BACKGROUND, Box, PictureData, PictureRow, Shape, malformed
from edgept.tune.vision.run_length import decode_counts

__all__ = ["read_coco"]

_MISSING = "is neither beside the file nor in the folder images there"
_SLACK = 1.0  # pixels that a box may reach over the picture's border: annotation tools round


def read_coco(path: Path, *, masks: bool) -> PictureData:
    """Read an annotation file: `images`, `annotations` and `categories`.

    Pictures are found beside the file, or in the folder `images` there; a name that leads out of it is
    refused, links are followed. A picture without annotations is learnt as one with nothing in it. Classes
    are in the order of the categories' ids, which need not be 1, 2, ….

    Crowds, which COCO marks with `iscrowd`, are no single objects: their boxes are not learnt, and what
    is found in them is not judged. Their pixels are of their class all the same, beneath those of
    single objects; of these, later ones cover earlier ones.

    Args:
        path: the file.
        masks: whether the segmentations are learnt, and not the boxes. What they leave uncovered is of
            the class "background", which comes first where no category is called so.

    Raises:
        InvalidFileError: the file is of another form, or pictures of it cannot be learnt from; each is
            named.
    """
    raw = path.read_bytes()
    try:
        content = json.loads(raw)
        names = sorted((_id(entry["id"]), str(entry["name"])) for entry in content["categories"])
        images = [(_id(entry["id"]), entry) for entry in content["images"]]
        annotations = [(_id(entry["image_id"]), entry) for entry in content["annotations"]]
    except (
        ValueError,
        ArithmeticError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise InvalidFileError(
            "training-data",
            f"{path} is no COCO annotation file ({type(error).__name__}: {str(error)[:80]}); expected an "
            "object with images, annotations and categories. Convert it.",
        ) from error
    if not names or not images:
        raise InvalidFileError(
            "training-data", f"{path} lists no image or no category. Give it some of both."
        )
    _check_distinct(path, "images have the id", [image for image, _ in images])
    _check_distinct(path, "categories have the id", [category for category, _ in names])
    _check_distinct(path, "categories have the name", [name for _, name in names])
    of_image: dict[int, list[dict[str, Any]]] = {image: [] for image, _ in images}
    problems = []
    for image, annotation in annotations:
        if image in of_image:
            of_image[image].append(annotation)
        else:
            problems.append(
                f"annotation {annotation.get('id')!r:.40} is of image {image}, which is not listed"
            )
    pictures = [_find(path.parent, entry) for _, entry in images]
    if all(picture == _MISSING for picture in pictures):
        raise InvalidFileError(
            "training-data",
            f"{path}: none of its {len(images)} pictures is there; {images[0][1]['file_name']!r:.80} {_MISSING}. "
            "Put them there, or a link called images to their folder.",
        )
    _check_distinct(
        path, "images have the file", [picture for picture in pictures if isinstance(picture, Path)]
    )
    by_id, rows = dict(names), []
    for (image, entry), picture in zip(images, pictures, strict=True):
        row = _row(entry, picture, of_image[image], by_id, masks=masks)
        if isinstance(row, list):
            problems += row
        else:
            rows.append(row)
    if problems:
        raise malformed(str(path), problems, "Correct or remove them.")
    labels = tuple(name for _, name in names)
    if masks and BACKGROUND not in labels:
        labels = (BACKGROUND, *labels)
    files = [row.picture for row in rows if isinstance(row.picture, Path)]
    kind = "masks" if masks else "boxes"
    return PictureData(kind, tuple(rows), digest(files, path.parent, raw), str(path), labels)


def _id(value: Any) -> int:
    """An id: a whole number, or one that a tool wrote as a text or with .0 behind it."""
    is_text = isinstance(value, str) and value.isdecimal()
    if type(value) is int or is_text or (type(value) is float and value.is_integer()):
        return int(value)
    raise ValueError(f"an id is {value!r:.40}, expected a whole number")


def _check_distinct(path: Path, what: str, values: Sequence[Any]) -> None:
    """Refuse a value that two entries have: of a file, since each would have half of its annotations."""
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise InvalidFileError(
            "training-data", f"{path}: two {what} {str(twice[0])[-80:]!r}. Make them distinct."
        )


def _row(
    entry: dict[str, Any],
    picture: Path | str,
    annotations: Iterable[dict[str, Any]],
    names: dict[int, str],
    *,
    masks: bool,
) -> PictureRow | list[str]:
    """The row, or what is wrong with it."""
    name = entry.get("file_name")
    if isinstance(picture, str):
        return [f"image {entry['id']!r:.40}: {name!r:.80} {picture}"]
    width, height = entry.get("width"), entry.get("height")
    if not all(type(side) is int and side > 0 for side in (width, height)):
        return [f"{name} has no width and height"]
    size = (int(width or 0), int(height or 0))
    key, read = ("segmentation", _shape) if masks else ("bbox", _box)
    single: list[Any] = []  # boxes, or shapes
    crowds: list[Any] = []
    problems: list[str] = []
    for annotation in annotations:
        at = f"{name}, annotation {annotation.get('id')!r:.40}"
        category, is_crowd = annotation.get("category_id"), annotation.get("iscrowd", 0)
        label = _label(names, category)
        if label is None:
            problems.append(f"{at} is of the category {category!r:.40}, not listed")
            continue
        found: Any = read(annotation.get(key), label, size)
        if isinstance(found, str):
            problems.append(f"{at} {found}")
        elif is_crowd not in (0, 1):
            problems.append(f"{at} has iscrowd {is_crowd!r:.40}; expected 0 or 1")
        else:
            (crowds if is_crowd else single).append(found)
    if problems:
        return problems
    if masks:
        return PictureRow(str(name), picture, mask=(*crowds, *single), size=size)
    return PictureRow(str(name), picture, boxes=tuple(single), crowds=tuple(crowds), size=size)


def _find(folder: Path, entry: dict[str, Any]) -> Path | str:
    """The picture of an image, or what is wrong with its name."""
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        return "is no file_name"
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return "leads out of the file's folder; expected a path below it"
    if name.encode("utf-8", "ignore").decode() != name:  # JSON may hold a surrogate
        return "is no text: half of a character stands alone in it"
    places = (folder / name, folder / "images" / name)
    return next((place for place in places if os.path.isfile(place)), _MISSING)


def _label(names: dict[int, str], category: Any) -> str | None:
    """The name of a category; None where it is not listed."""
    try:
        return names.get(_id(category))
    except ValueError:
        return None


def _box(value: Any, label: str, size: tuple[int, int]) -> Box | str:
    """The box x, y, width, height as corners, or what is wrong with it."""
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        return f"has the bbox {str(value)[:60]}; expected x, y, width, height"
    x, y, width, height = map(float, value)
    if width <= 0 or height <= 0:
        return f"has a box of {width:g} x {height:g} pixels"
    right, bottom = x + width, y + height
    is_near = min(x, y) >= -_SLACK and right <= size[0] + _SLACK and bottom <= size[1] + _SLACK
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(right, size[0]), min(bottom, size[1])
    if not is_near or left >= right or top >= bottom:
        return (
            f"has the box {x:g}, {y:g}, {width:g}, {height:g}, outside of the picture's "
            f"{size[0]} x {size[1]} pixels"
        )
    return Box(label, (left, top, right, bottom))


def _shape(value: Any, label: str, size: tuple[int, int]) -> Shape | str:
    """The area, from polygons or from runs, or what is wrong with it."""
    if isinstance(value, list) and value:
        for polygon in value:
            if (
                not isinstance(polygon, list)
                or len(polygon) < 6
                or len(polygon) % 2
                or not all(map(_is_number, polygon))
            ):
                return "has a polygon that is not three points or more, each x and y"
            if (
                min(polygon) < -_SLACK
                or max(polygon[::2]) > size[0] + _SLACK
                or max(polygon[1::2]) > size[1] + _SLACK
            ):
                return f"has a polygon outside of the picture's {size[0]} x {size[1]} pixels"
        return Shape(label, tuple(tuple(map(float, polygon)) for polygon in value))
    if isinstance(value, dict):
        counts, shape = value.get("counts"), value.get("size")
        if shape != [size[1], size[0]]:
            return f"has runs for {shape!r:.40}, the picture has {size[1]} rows of {size[0]} pixels"
        runs = decode_counts(counts) if isinstance(counts, str) else counts
        if (
            not isinstance(runs, list)
            or not all(type(run) is int and run >= 0 for run in runs)
            or sum(runs) != size[0] * size[1]
        ):
            return "has runs whose lengths are not the number of pixels"
        return Shape(label, counts=tuple(runs), size=(size[1], size[0]))
    return "has no segmentation of polygons or runs"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9  # NaN is not below either
