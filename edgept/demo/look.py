"""`edgept demo vision`: one small image model classifies, segments and detects, by swapping prompt files."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from edgept.atomic import atomic_folder
from edgept.demo.views import TASKS, make_view
from edgept.manifest import Manifest

if TYPE_CHECKING:
    from PIL import Image

    from edgept.runtime.seeing import Sighting

__all__ = ["HEADS", "MODEL", "PROMPTS", "VisionAnswer", "VisionDemo", "run_vision_demo"]

HERE = Path(__file__).parent / "vision"
MODEL = HERE / "model"
PROMPTS = HERE / "prompts"
HEADS = HERE / "heads"  # for comparison: what a task gets from the model as it is

_MARKER = "demo.txt"
_SEED = 4003  # of the pictures that are shown; no training and no evaluation has it
_PICTURES = 4
_SIDE = 256  # pixels, to be looked at
_SWAPS = 700  # as in show.py


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
class VisionDemo:
    """What the demo did and measured.

    Attributes:
        folder: where bundle, prompt files and pictures are.
        sheet: the pictures under all prompts in one.
        manifest: of the bundle, parity figures included.
        bundle_bytes: size of the bundle.
        load_ms: bundle to a session that is ready.
        threads: that computed.
        swaps: measured swaps over all prompts.
        swap_p99_us: their 99th percentile, in microseconds.
        answers: one a prompt.
        mixed: how many requests, each under a prompt of its own, ran as one batch.
        mixed_ms: what that took, pixels to results.
        seconds: that the whole demo took.
    """

    folder: str
    sheet: str
    manifest: Manifest
    bundle_bytes: int
    load_ms: float
    threads: int
    swaps: int
    swap_p99_us: float
    answers: list[VisionAnswer]
    mixed: int
    mixed_ms: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON takes them."""
        return asdict(self)


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
    import numpy as np
    from PIL import Image

    from edgept.export import export_model
    from edgept.prompt_file import write_prompt
    from edgept.prompt_source import bind, load_prompt_source
    from edgept.runtime.model import load

    started = time.perf_counter()
    with atomic_folder(folder, marker=_MARKER, overwrite=True) as work:
        (work / _MARKER).write_text("Made by 'edgept demo', which replaces it.\n", encoding="utf-8")
        manifest = export_model(
            str(MODEL), work / "bundle", precision="fp32", progress=progress
        ).manifest
        progress("packing the prompts")
        files = []
        for task in TASKS:
            files.append(work / f"{task}.safetensors")
            source = load_prompt_source(PROMPTS / files[-1].name, manifest)
            write_prompt(bind(source, manifest), files[-1])
        progress("drawing pictures")
        views = [make_view(_SEED, number, side=_SIDE).pixels for number in range(_PICTURES)]
        progress("looking")
        model = load(work / "bundle")
        prompts = [model.load_prompt(path) for path in files]
        requests = [(view, prompt) for view in views for prompt in prompts]
        sightings = model.see_batch(requests)
        drawn = _draw([Image.fromarray(view) for view in views], sightings)
        (work / "pictures").mkdir()
        for name, picture in drawn.items():
            picture.save(work / "pictures" / f"{name}.png")
        progress(f"swapping {_SWAPS} times")
        # In turn, so that every request swaps: none finds its prompt's tensors where the last one's were
        swaps: list[list[float]] = [[] for _ in prompts]
        totals: list[list[float]] = [[] for _ in prompts]
        for number in range(-(-_SWAPS // len(prompts))):
            for index, prompt in enumerate(prompts):
                latency = model.see(views[number % len(views)], prompt=prompt).latency
                swaps[index].append(latency.swap_ms)
                totals[index].append(latency.total_ms)
        mixed = [_timed(lambda: model.see_batch(requests)) for _ in range(5)]
        sheet = _sheet(drawn, len(views))
        sheet.save(work / "pictures.png")
        sizes = [path.stat().st_size for path in files]
    everything = np.sort([swap for row in swaps for swap in row])
    answers = [
        VisionAnswer(
            prompt=prompt.name,
            task=prompt.prompt.task,
            file_bytes=sizes[index],
            virtual_tokens=prompt.num_virtual_tokens,
            cold_ms=prompt.load_ms,
            swap_us=median(swaps[index]) * 1e3,
            picture_ms=median(totals[index]),
            found=[_say(found) for found in sightings[index :: len(prompts)]],
        )
        for index, prompt in enumerate(prompts)
    ]
    return VisionDemo(
        folder=str(folder),
        sheet=str(Path(folder) / "pictures.png"),
        manifest=manifest,
        bundle_bytes=sum(entry.size for entry in manifest.files.values()),
        load_ms=model.load_ms,
        threads=model.threads,
        swaps=len(everything),
        swap_p99_us=float(everything[int(len(everything) * 0.99)]) * 1e3,
        answers=answers,
        mixed=len(requests),
        mixed_ms=median(mixed),
        seconds=time.perf_counter() - started,
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
