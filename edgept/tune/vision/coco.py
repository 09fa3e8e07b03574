"""Boxes and masks from a COCO annotation file: https://cocodataset.org/#format-data."""

# ruff: noqa: PTH113  # os.path's answers False for a path that cannot be examined

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgept.errors import InvalidFileError
from edgept.tune.vision.files import digest
from edgept.tune.vision.rows import BACKGROUND, Box, PictureData, PictureRow, Shape, malformed
from edgept.tune.vision.run_length import decode_counts

__all__ = ["read_coco"]

_SLACK = 1.0  # pixels that a box may reach over the picture's border: annotation tools round


def read_coco(path: Path, *, masks: bool) -> PictureData:
    """Read an annotation file: `images`, `annotations` and `categories`.

    Pictures are found beside the file, or in the folder `images` there; a name that leads out of it is
    refused, links are followed. Crowds, which COCO marks with
    `iscrowd`, are no single objects: their boxes are left out.

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
        images, annotations = content["images"], content["annotations"]
        names = {
            int(entry["id"]): str(entry["name"])
            for entry in sorted(content["categories"], key=lambda entry: int(entry["id"]))
        }
        entries = {int(entry["id"]): entry for entry in images}
        of_image: dict[int, list[dict[str, Any]]] = {image: [] for image in entries}
        strays = []
        for entry in annotations:
            at = int(entry["image_id"])
            if at in of_image:
                of_image[at].append(entry)
            else:
                strays.append(
                    f"annotation {entry.get('id')!r:.40} is of image {at}, which is not listed"
                )
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
    if len(entries) != len(images) or len(set(names.values())) != len(content["categories"]):
        raise InvalidFileError(
            "training-data",
            f"{path}: two images have one id, or two categories one id or name. Make them distinct.",
        )
    if not names or not entries:
        raise InvalidFileError(
            "training-data", f"{path} lists no image or no category. Give it some of both."
        )
    problems = strays
    rows = []
    for image, entry in entries.items():
        row = _row(path, entry, of_image[image], names, masks=masks)
        if isinstance(row, list):
            problems += row
        else:
            rows.append(row)
    if problems:
        raise malformed(str(path), problems, "Correct or remove them.")
    labels = tuple(names.values())
    if masks and BACKGROUND not in labels:
        labels = (BACKGROUND, *labels)
    files = [row.picture for row in rows if isinstance(row.picture, Path)]
    kind = "masks" if masks else "boxes"
    return PictureData(kind, tuple(rows), digest(files, path.parent, raw), str(path), labels)


def _row(
    path: Path,
    entry: dict[str, Any],
    annotations: Iterable[dict[str, Any]],
    names: dict[int, str],
    *,
    masks: bool,
) -> PictureRow | list[str]:
    """The row, or what is wrong with it."""
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        return [f"image {entry['id']!r:.40} has no file_name"]
    picture = _find(path.parent, name)
    if isinstance(picture, str):
        return [f"{name!r:.80} {picture}"]
    width, height = entry.get("width"), entry.get("height")
    if not all(type(side) is int and side > 0 for side in (width, height)):
        return [f"{name} has no width and height"]
    size = (int(width or 0), int(height or 0))
    boxes, shapes, problems = [], [], []
    for annotation in annotations:
        at = f"{name}, annotation {annotation.get('id')!r:.40}"
        label = names.get(_whole(annotation.get("category_id")))
        if label is None:
            problems.append(
                f"{at} is of the category {annotation.get('category_id')!r:.40}, not listed"
            )
        elif masks:
            shape = _shape(annotation.get("segmentation"), label, size)
            if isinstance(shape, str):
                problems.append(f"{at} {shape}")
            else:
                shapes.append(shape)
        elif not annotation.get("iscrowd"):
            box = _box(annotation.get("bbox"), label, size)
            if isinstance(box, str):
                problems.append(f"{at} {box}")
            else:
                boxes.append(box)
    if problems:
        return problems
    return PictureRow(
        name, picture, boxes=tuple(boxes), mask=tuple(shapes) if masks else None, size=size
    )


def _find(folder: Path, name: str) -> Path | str:
    """The picture of a name, or what is wrong with it."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return "leads out of the file's folder; expected a path below it"
    if name.encode("utf-8", "ignore").decode() != name:  # JSON may hold a surrogate
        return "is no text: half of a character stands alone in it"
    places = (folder / name, folder / "images" / name)
    found = next((place for place in places if os.path.isfile(place)), None)
    return found or "is neither beside the file nor in the folder images there"


def _whole(value: Any) -> int:
    return value if type(value) is int else -1


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
