"""The benchmark of a bundle that looks at pictures: from a file in memory to what is found in it."""

import io
import json
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgept.bench.answers import Answers, Correctness
from edgept.bench.conditions import Conditions
from edgept.bench.loop import Request, Series, run_loop
from edgept.bench.once import load_sessions
from edgept.bench.phases import LOOP, TITLES, Samples, of_pictures
from edgept.bench.plan import Plan
from edgept.bench.power import Energy, energy_meter
from edgept.bench.prompts import PromptFile, copies, find_prompts
from edgept.bench.reference_kernel import Check, ReferenceKernel
from edgept.bench.report import (
    FORMAT_VERSION,
    BundleFacts,
    Phase,
    Settings,
    describe_bundle,
    describe_settings,
    make_phase,
)
from edgept.bench.steady import WarmUp
from edgept.bench.verdict import Verdict, judge_loop_phase, judge_series
from edgept.bundle import read_manifest
from edgept.errors import UsageError
from edgept.pictures import read_picture
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.device import Device, read_device
from edgept.runtime.model import Model

__all__ = ["FORMAT", "PictureFacts", "PictureReport", "measure_pictures"]

FORMAT = "edgept-bench-pictures"
_SIZE = (640, 480)  # of the picture that is made where none is given
_QUALITY = 90  # of its JPEG
_SHARE = 0.1  # of a time that was given, for loading prompts


@dataclass(frozen=True)
class PictureFacts:
    """The picture that is looked at, as a file in memory.

    Attributes:
        name: of its file; "" of one that was made here.
        width: in pixels.
        height: in pixels.
        nbytes: of the file.
    """

    name: str
    width: int
    height: int
    nbytes: int


@dataclass(frozen=True)
class PictureReport:
    """A whole benchmark; fields as in `edgept.bench.report.Report`.

    Attributes:
        created: UTC, ISO 8601.
        bundle: that was measured.
        prompts: that were swapped.
        picture: that was looked at.
        settings: how.
        device: hardware and versions.
        before: clock, temperature and load before anything was run.
        phases: by name, in the order in which a request meets them.
        at_s: when each request of the loop began.
        seconds: length of the loop.
        warm_up: before the loop.
        kernel_ms: the reference kernel at the start.
        checks: of the reference kernel.
        energy: of the loop.
        answers: whether what came out is right.
        verdict: on the run: that of its end to end.
        notes: what a reader should know and is no fault.
    """

    created: str
    bundle: BundleFacts
    prompts: list[PromptFile]
    picture: PictureFacts
    settings: Settings
    device: Device
    before: Conditions
    phases: dict[str, Phase]
    at_s: list[float]
    seconds: float
    warm_up: WarmUp
    kernel_ms: float
    checks: list[Check]
    energy: Energy
    answers: Correctness
    verdict: Verdict
    notes: list[str]

    def to_json(self) -> str:
        """The text of a report file, one object."""
        fields = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        return json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def measure_pictures(
    plan: Plan,
    picture: Path | None = None,
    *,
    progress: Callable[[str, float], None] = lambda *_: None,
) -> PictureReport:
    """Measure a bundle that looks at pictures, and its prompts in turns.

    Args:
        plan: what, and how long; its tokens are those of texts.
        picture: None makes one.
        progress: told what is being done, and how much of it is.

    Raises:
        EdgeptError: whatever is wrong with the bundle, its prompts, the picture or the plan.
    """
    manifest = read_manifest(plan.bundle)
    _refuse_texts(plan)
    data, shown = _picture(picture, plan.seed)
    with tempfile.TemporaryDirectory(prefix="edgept-bench-") as folder:
        found = find_prompts(plan.prompts, manifest, Path(folder), plan.seed)
        files, prompts = [file for file, _ in found], [prompt for _, prompt in found]
        progress("reading the device", 0)
        before, device, kernel = Conditions.read(), read_device(), ReferenceKernel()
        samples: Samples = {}
        samples["session_load"], model = load_sessions(
            plan, lambda share: progress("loading sessions", share)
        )
        samples["prompt_cold"] = _load_prompts(plan, model, files, data)
        pool = [model.load_prompt(prompt) for prompt in prompts]
    if len(pool) == 1:
        pool.append(model.load_prompt(next(copies(prompts))))  # a swap needs two
    answers = Answers()
    seen = [_look(model, data, pool[turn], answers) for turn in (0, 1, 0)]
    with energy_meter() if plan.power else nullcontext(Energy(reason="not asked for")) as energy:
        series = run_loop(
            _make_request(model, pool, data, answers, plan.batch),
            plan.length,
            kernel=kernel,
            rate=plan.rate,
            seed=plan.seed,
            progress=lambda count, seconds: progress(
                f"pictures: {count} in {seconds:.0f} s",
                min(1.0, max(count / plan.length.samples, seconds / (plan.length.limit_s or 1e9))),
            ),
        )
    samples |= {name: series.samples[name] for name in LOOP if name in series.samples}
    phases = _phases(samples, series)
    correctness = Correctness(
        swaps_back=seen[0] == seen[2],
        prompts_matter=seen[0] != seen[1],
        checked=answers.checked,
        different=answers.different,
        starts_equal=0,
        starts=0,
        batch_rows=0,
        batch_rows_equal=0,
    )
    return PictureReport(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        bundle=describe_bundle(plan.bundle, model.manifest),
        prompts=files,
        picture=shown,
        settings=describe_settings(plan, model, len(pool)),
        device=device,
        before=before,
        phases=phases,
        at_s=series.at_s,
        seconds=series.seconds,
        warm_up=series.warm_up,
        kernel_ms=series.kernel_ms,
        checks=series.checks,
        energy=energy,
        answers=correctness,
        verdict=phases["end_to_end"].verdict,
        notes=_notes(files, correctness, shown),
    )


def _refuse_texts(plan: Plan) -> None:
    given = {
        "--prompt-length": plan.prompt_length,
        "--new-tokens": plan.new_tokens,
        "--resident": plan.resident,
    }
    wrong = next((name for name, value in given.items() if value is not None), None)
    if wrong is not None:
        raise UsageError(
            f"{wrong} is for models that generate text; {plan.bundle} looks at pictures. Leave it out."
        )


def _picture(path: Path | None, seed: int) -> tuple[bytes, PictureFacts]:
    """A file's bytes, once it is known to be a picture; without one, a JPEG with edges and some noise."""
    if path is None:
        random = np.random.default_rng(seed)
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
        smooth = np.asarray(coarse.resize(_SIZE, Image.Resampling.BICUBIC), np.int16)
        noisy = (smooth + random.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=_QUALITY)
        data, name = buffer.getvalue(), ""
    else:
        read_picture(path)
        data, name = path.read_bytes(), str(path)
    width, height = read_picture(data, name=name or None).size
    return data, PictureFacts(name, width, height, len(data))


def _load_prompts(
    plan: Plan, model: Model, files: Sequence[PromptFile], data: bytes
) -> list[float]:
    """From a prompt file on disk to a picture that is seen under it, every check included."""
    samples: list[float] = []
    length = plan.length.part(plan.length.once, _SHARE)
    began = time.perf_counter()
    while not length.is_enough(len(samples), time.perf_counter() - began):
        file = files[len(samples) % len(files)]
        prompt = model.load_prompt(file.path, name=file.name)
        samples.append(prompt.load_ms + model.see(data, prompt=prompt).latency.swap_ms)
    return samples


def _make_request(
    model: Model, pool: Sequence[LoadedPrompt], data: bytes, answers: Answers, batch: int
) -> Request:
    """A function that looks at the picture under the next prompts, each row under one of its own."""
    turn = 0

    def request() -> Samples:
        nonlocal turn
        chosen = [pool[(turn + row) % len(pool)] for row in range(batch)]
        turn += batch
        # each row has bytes of its own, so that each is decoded
        rows = [(bytes(bytearray(data)) if batch > 1 else data, prompt) for prompt in chosen]
        found = model.see_batch(rows)
        for prompt, item in zip(chosen, found, strict=True):
            answers.check(prompt.name, _bits(item), batch=batch > 1)
        return of_pictures([item.latency for item in found])

    return request


def _look(model: Model, data: bytes, prompt: LoadedPrompt, answers: Answers) -> list[int]:
    found = _bits(model.see(data, prompt=prompt))
    answers.check(prompt.name, found)
    return found


def _bits(found: Any) -> list[int]:
    """A result as numbers that are equal where all its bits are."""
    from edgept.runtime.detector import Detections
    from edgept.runtime.image_classifier import ImageClassification
    from edgept.runtime.segmenter import Segmentation

    if isinstance(found, ImageClassification):
        return [zlib.crc32(found.logits.tobytes())]
    if isinstance(found, Segmentation):
        return [zlib.crc32(found.probabilities.tobytes()), zlib.crc32(found.classes.tobytes())]
    if isinstance(found, Detections):
        return [zlib.crc32(repr(found.found).encode())]
    return [zlib.crc32(found.vector.tobytes())]


def _phases(samples: Samples, series: Series) -> dict[str, Phase]:
    return {
        name: make_phase(
            name,
            samples[name],
            judge_loop_phase(name, series)
            if name in series.samples
            else judge_series(samples[name]),
        )
        for name in TITLES
        if samples.get(name)
    }


def _notes(
    files: Sequence[PromptFile], correctness: Correctness, picture: PictureFacts
) -> list[str]:
    notes = []
    if files[0].random:
        notes.append(
            "no prompt was given: two random ones, whose answers mean nothing, were swapped"
        )
    elif len(files) == 1:
        notes.append("one prompt was given: it is swapped with a copy of itself")
    if not correctness.prompts_matter:
        notes.append("the first two prompts give the same answer to this picture")
    if not picture.name:
        notes.append("no picture was given: one was made; how long decoding takes depends on it")
    return notes
