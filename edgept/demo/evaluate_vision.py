"""How well the demo's image model does its three tasks, on generated pictures that training never saw.

    edgept demo vision && python -m edgept.demo.evaluate_vision edgept-demo-vision

Runs the exported bundle under each prompt file, as a device would, and prints a table.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgept.demo.look import HEADS
from edgept.demo.scenes import Scene
from edgept.demo.things import GROUPS
from edgept.demo.views import AREAS, TASKS, group_of, main_thing, make_view, to_classes
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model, load
from edgept.tune.vision.average_precision import Found, average_precision
from edgept.tune.vision.metrics import confusion, mean_iou

SEED = 3000  # of no training
BATCH = 16
_NOT_IGNORED = 255


def classify(model: Model, scenes: Sequence[Scene], prompt: LoadedPrompt) -> dict[str, float]:
    """Share of pictures whose largest thing is named right."""
    found = model.classify_image_batch((scene.pixels, prompt) for scene in scenes)
    right = [one.label == main_thing(scene) for one, scene in zip(found, scenes, strict=True)]
    return {"accuracy": sum(right) / len(right)}


def segment(model: Model, scenes: Sequence[Scene], prompt: LoadedPrompt) -> dict[str, float]:
    """Mean intersection over union of the background and the groups, and the share of right pixels."""
    table = np.zeros((len(AREAS), len(AREAS)), np.int64)
    for first in range(0, len(scenes), BATCH):
        some = scenes[first : first + BATCH]
        for scene, found in zip(
            some, model.segment_batch((scene.pixels, prompt) for scene in some), strict=True
        ):
            order = np.array([AREAS.index(label) for label in found.labels])
            table += confusion(order[found.classes], to_classes(scene), len(AREAS), _NOT_IGNORED)
    return mean_iou(table)


def detect(model: Model, scenes: Sequence[Scene], prompt: LoadedPrompt) -> dict[str, float]:
    """Average precision of the groups' boxes: over overlaps from 0.5 to 0.95, and at 0.5."""
    groups = list(GROUPS)
    found, there = [], []
    for one, scene in zip(
        model.detect_batch(((scene.pixels, prompt) for scene in scenes), threshold=0.0),
        scenes,
        strict=True,
    ):
        found.append(
            Found(
                np.array([item.box for item in one.found], float).reshape(-1, 4),
                np.array([groups.index(item.label) for item in one.found], int),
                np.array([item.score for item in one.found], float),
            )
        )
        there.append(
            Found(
                np.array([thing.box for thing in scene.things], float).reshape(-1, 4),
                np.array([groups.index(group_of(thing.kind)) for thing in scene.things], int),
            )
        )
    return average_precision(found, there, len(groups))


MEASURES = {"classify": classify, "segment": segment, "detect": detect}
_SHOWN = {
    "classify": ("names the largest of 1 to 3 things, 9 kinds", {"accuracy": "accuracy"}),
    "segment": (
        "animal, plant, vehicle or background, pixel by pixel",
        {"mean_iou": "mean IoU", "pixel_accuracy": "right pixels"},
    ),
    "detect": ("a box around each animal, plant, vehicle", {"ap50": "AP50", "ap": "AP"}),
}


def table(
    results: dict[str, dict[str, float]],
    alone: dict[str, dict[str, float]],
    sizes: dict[str, int],
) -> str:
    """The results as a Markdown table; those of a head alone in brackets."""
    lines = ["| Prompt | File | What it does | Held-out pictures |", "|---|---|---|---|"]
    for task, result in results.items():
        what, names = _SHOWN[task]
        figures = [
            f"{name} {result[key]:.1%}" + (f" ({alone[task][key]:.1%})" if task in alone else "")
            for key, name in names.items()
        ]
        shown = ", ".join(figures).replace("%", " %")
        lines.append(f"| {task} | {sizes[task] / 1e3:.1f} kB | {what} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("edgept-demo-vision"))
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    model = load(args.folder / "bundle")
    scenes = [make_view(SEED, number) for number in range(args.pictures)]
    results, alone, sizes = {}, {}, {}
    for task in TASKS:
        path = args.folder / f"{task}.safetensors"
        sizes[task] = path.stat().st_size
        results[task] = MEASURES[task](model, scenes, model.load_prompt(path))
        if (HEADS / path.name).exists():  # none of detection, which takes virtual tokens
            alone[task] = MEASURES[task](model, scenes, model.load_prompt(HEADS / path.name))
    print(table(results, alone, sizes))
    if args.json is not None:
        args.json.write_text(json.dumps({"prompts": results, "heads": alone}, indent=1), "utf-8")


if __name__ == "__main__":
    main()
