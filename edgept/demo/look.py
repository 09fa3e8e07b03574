"""`edgept demo vision`: one small image model classifies, segments and detects, by swapping prompt files."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from edgept.demo.stage import Shown, set_stage
from edgept.demo.views import TASKS, make_view

if TYPE_CHECKING:
    from PIL import Image

    from edgept.runtime.seeing import Sighting

__all__ = ["HEADS", "MODEL", "PROMPTS", "VisionAnswer", "VisionDemo", "run_vision_demo"]

HERE = Path(__file__).parent / "vision"
MODEL = HERE / "model"
PROMPTS = HERE / "prompts"
HEADS = HERE / "heads"  # for comparison: what a task gets from the model as it is

_SEED = 4003  # of the pictures that are shown; no training and no evaluation has it
_PICTURES = 4
_SIDE = 256  # pixels, to be looked at


@dataclass(frozen=True)
class VisionAnswer:
    """What the frozen model sees under one prompt.

    Attributes:
        prompt: the task's name.
        task: what the prompt file says it is for.
        file_bytes: size of the prompt file.
        virtual_tokens: of the prompt.
        cold_ms: file to resident prompt, every check included.
        swap_us: median time to make a resident prompt the request's own, in microseconds.
        picture_ms: median time of a request: pixels to result.
        found: what is found in each picture, in words.
    """

    prompt: str
    task: str
    file_bytes: int
    virtual_tokens: int
    cold_ms: float
    swap_us: float
    picture_ms: float
    found: list[str]


@dataclass(frozen=True)
class VisionDemo(Shown):
    """What the demo did and measured; see `edgept.demo.stage.Shown`.

    Attributes:
        sheet: the pictures under all prompts in one.
        answers: one a prompt.
        mixed: how many requests, each under a prompt of its own, ran as one batch.
        mixed_ms: what that took, pixels to results.
    """

    sheet: str
    answers: list[VisionAnswer]
    mixed: int
    mixed_ms: float


def run_vision_demo(
    folder: str | os.PathLike[str], *, progress: Callable[[str], object] = lambda _: None
) -> VisionDemo:
    """Do the main job for real, on the small image model that comes with the package.

    Args:
        folder: for the bundle, the prompt files and the pictures; an earlier demo's is replaced, nothing
            else.
        progress: called with what is being done.

    Raises:
        UsageError: the folder holds something else.
        ExportError: the export failed.
    """
    from PIL import Image

    sources = {task: PROMPTS / f"{task}.safetensors" for task in TASKS}
    with set_stage(folder, MODEL, sources, progress) as stage:
        model = stage.model
        progress("drawing pictures")
        views = [make_view(_SEED, number, side=_SIDE).pixels for number in range(_PICTURES)]
        progress("looking")
        requests = [(view, prompt.loaded) for view in views for prompt in stage.prompts]
        sightings = model.see_batch(requests)
        drawn = _draw([Image.fromarray(view) for view in views], sightings)
        (stage.folder / "pictures").mkdir()
        for name, picture in drawn.items():
            picture.save(stage.folder / "pictures" / f"{name}.png")
        _sheet(drawn, len(views)).save(stage.folder / "pictures.png")
        stage.swap(
            lambda number, prompt: model.see(views[number % len(views)], prompt=prompt).latency
        )
        mixed = [_timed(lambda: model.see_batch(requests)) for _ in range(5)]
    answers = [
        VisionAnswer(
            prompt=prompt.loaded.name,
            task=prompt.loaded.prompt.task,
            file_bytes=prompt.file_bytes,
            virtual_tokens=prompt.loaded.num_virtual_tokens,
            cold_ms=prompt.loaded.load_ms,
            swap_us=prompt.swap_us,
            picture_ms=median(latency.total_ms for latency in prompt.latencies),
            found=[_say(found) for found in sightings[index :: len(stage.prompts)]],
        )
        for index, prompt in enumerate(stage.prompts)
    ]
    return VisionDemo(
        **vars(stage.shown(folder)),
        sheet=str(Path(folder) / "pictures.png"),
        answers=answers,
        mixed=len(requests),
        mixed_ms=median(mixed),
    )


def _timed(run: Callable[[], object]) -> float:
    """Milliseconds of a call."""
    begin = time.perf_counter()
    run()
    return (time.perf_counter() - begin) * 1e3


def _say(found: "Sighting") -> str:
    """A result in a few words."""
    from edgept.runtime.detector import Detections
    from edgept.runtime.image_classifier import ImageClassification
    from edgept.runtime.segmenter import Segmentation

    if isinstance(found, ImageClassification):
        return f"{found.label} {found.probability:.0%}"
    if isinstance(found, Segmentation):
        shares = sorted(zip(found.shares, found.labels, strict=True), reverse=True)
        return ", ".join(f"{label} {share:.0%}" for share, label in shares if share >= 0.005)
    if isinstance(found, Detections):
        return ", ".join(f"{item.label} {item.score:.2f}" for item in found.found) or "nothing"
    raise AssertionError("each prompt has one of the three tasks")


def _draw(
    views: "Sequence[Image.Image]", sightings: "Sequence[Sighting]"
) -> "dict[str, Image.Image]":
    """Each picture, and what is found in it under each prompt drawn on it, by file name."""
    from edgept.pictures import drawing
    from edgept.runtime.detector import Detections
    from edgept.runtime.image_classifier import ImageClassification
    from edgept.runtime.segmenter import Segmentation

    drawn: dict[str, Image.Image] = {}
    rest = iter(sightings)
    for number, view in enumerate(views, 1):
        drawn[f"{number}"] = view
        for task in TASKS:
            found, name = next(rest), f"{number}.{task}"
            if isinstance(found, ImageClassification):
                text = f"{found.label} {found.probability:.2f}"
                drawn[name] = drawing.draw_caption(view, text, found.labels.index(found.label))
            elif isinstance(found, Segmentation):
                drawn[name] = drawing.draw_areas(view, found.classes, found.labels)
            elif isinstance(found, Detections):
                boxes = [
                    (one.box, f"{one.label} {one.score:.2f}", found.labels.index(one.label))
                    for one in found.found
                ]
                drawn[name] = drawing.draw_boxes(view, boxes)
    return drawn


def _sheet(drawn: "dict[str, Image.Image]", count: int) -> "Image.Image":
    """All of them in one: a row a picture, a column a task."""
    from PIL import Image

    gap = 8
    columns = ["", *(f".{task}" for task in TASKS)]
    sheet = Image.new(
        "RGB", (len(columns) * (_SIDE + gap) - gap, count * (_SIDE + gap) - gap), "white"
    )
    for row in range(count):
        for column, ending in enumerate(columns):
            place = (column * (_SIDE + gap), row * (_SIDE + gap))
            sheet.paste(drawn[f"{row + 1}{ending}"], place)
    return sheet
