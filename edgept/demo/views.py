"""The three tasks of the vision demo: the same generated views, seen as classes, areas and boxes."""

import itertools
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgept.demo.scenes import Scene, make_scene
from edgept.demo.shapes import THINGS
from edgept.demo.things import GROUPS

__all__ = ["AREAS", "TASKS", "group_of", "main_thing", "make_view", "to_classes", "write_data"]

TASKS = ("classify", "segment", "detect")
AREAS = ("background", *GROUPS)
SIDE = 128  # pixels of a picture to learn from; the model looks at 64

_CLEARLY = 1.5  # how many times as large as any other thing the main one is


def group_of(kind: str) -> str:
    """The group that a thing is of."""
    return next(group for group, kinds in GROUPS.items() if kind in kinds)


def make_view(seed: int, number: int, *, side: int = SIDE) -> Scene:
    """A picture of one to three things, of which one is clearly the largest.

    Args:
        seed: of a data set.
        number: of the picture in it.
        side: height and width in pixels. Which scene comes may depend on it where it is a close call.
    """
    for attempt in itertools.count():
        # of its own: how much a picture takes from a generator depends on its size
        rng = np.random.default_rng((seed, number, attempt))
        scene = make_scene(rng, THINGS, side=side)
        sizes = sorted(_sizes(scene), reverse=True)
        if sizes and (len(sizes) == 1 or sizes[0] >= _CLEARLY * sizes[1]):
            return scene
    raise AssertionError("there is always another attempt")


def main_thing(scene: Scene) -> str:
    """What the largest thing is."""
    return scene.things[int(np.argmax(_sizes(scene)))].kind


def to_classes(scene: Scene) -> npt.NDArray[np.uint8]:
    """The area that each pixel belongs to, (side, side), indices of `AREAS`."""
    table = [0, *(AREAS.index(group_of(thing.kind)) for thing in scene.things)]
    return np.array(table, np.uint8)[scene.owner]


def write_data(folder: Path, seed: int, count: int) -> dict[str, Path]:
    """Write pictures with what `edgept tune` learns from them, for all three tasks.

    Args:
        folder: to make.
        seed: of the pictures.
        count: how many.

    Returns:
        What to give to `edgept tune` for each of `TASKS`: a CSV of pictures and classes; the folder, with
        images and masks; a COCO annotation file.
    """
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    classes, listed, boxes = ["image,label"], [], []
    for number in range(count):
        scene, name = make_view(seed, number), f"{number:05}.png"
        Image.fromarray(scene.pixels).save(folder / "images" / name, compress_level=1)
        Image.fromarray(to_classes(scene)).save(folder / "masks" / name)
        classes.append(f"images/{name},{main_thing(scene)}")
        listed.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        boxes += [_annotation(number, thing.box, thing.kind) for thing in scene.things]
    (folder / "labels.txt").write_text("\n".join(AREAS) + "\n", encoding="utf-8")
    (folder / "classes.csv").write_text("\n".join(classes) + "\n", encoding="utf-8")
    content = {
        "images": listed,
        "annotations": [{"id": index, **box} for index, box in enumerate(boxes)],
        "categories": [{"id": index, "name": name} for index, name in enumerate(GROUPS)],
    }
    (folder / "boxes.json").write_text(json.dumps(content), encoding="utf-8")
    return dict(zip(TASKS, (folder / "classes.csv", folder, folder / "boxes.json"), strict=True))


def _sizes(scene: Scene) -> list[int]:
    """Pixels that are seen of each thing."""
    counts = np.bincount(scene.owner.ravel(), minlength=len(scene.things) + 1)
    return [int(count) for count in counts[1:]]


def _annotation(image: int, box: tuple[int, int, int, int], kind: str) -> dict[str, object]:
    left, top, right, bottom = box
    return {
        "image_id": image,
        "category_id": list(GROUPS).index(group_of(kind)),
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "iscrowd": 0,
    }
