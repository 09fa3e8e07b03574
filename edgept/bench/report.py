"""The report: every raw sample, what it was measured on, and what may be said of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from edgept.bench.answers import Correctness
from edgept.bench.ceilings import Ceilings
from edgept.bench.comparison import Comparison
from edgept.bench.conditions import Conditions
from edgept.bench.loop import Series
from edgept.bench.phases import Samples
from edgept.bench.picture import PictureFile
from edgept.bench.plan import Length, Plan
from edgept.bench.power import Energy
from edgept.bench.prompts import PromptFile
from edgept.bench.question import Question
from edgept.bench.reference_kernel import Check
from edgept.bench.residents import Level
from edgept.bench.statistics import Summary, summarise
from edgept.bench.steady import WarmUp
from edgept.bench.verdict import Verdict, judge_loop_phase, judge_series
from edgept.bundle import MANIFEST_NAME, hash_file
from edgept.manifest import Manifest
from edgept.runtime.device import Device
from edgept.runtime.model import Model

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "BundleFacts",
    "Phase",
    "Report",
    "Settings",
    "describe_bundle",
    "describe_settings",
    "make_phases",
]

FORMAT = "edgept-bench"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class BundleFacts:
    """The bundle that was measured.

    Attributes:
        path: where it was.
        source: what was exported.
        architecture: class of the transformers model.
        precision: of its weights.
        fingerprint: of the frozen model.
        manifest_sha256: of edgept.json, which holds the hash of every other file.
        files: SHA-256 by name.
    """

    path: str
    source: str
    architecture: str
    precision: str
    fingerprint: str
    manifest_sha256: str
    files: Mapping[str, str]


def describe_bundle(path: Path, manifest: Manifest) -> BundleFacts:
    """What a report says of a bundle."""
    return BundleFacts(
        path=str(path.absolute()),
        source=manifest.source,
        architecture=manifest.architecture,
        precision=manifest.precision,
        fingerprint=manifest.fingerprint,
        manifest_sha256=hash_file(path / MANIFEST_NAME),
        files={name: file.sha256 for name, file in manifest.files.items()},
    )


@dataclass(frozen=True)
class Settings:
    """How it was measured.

    Attributes:
        threads: that computed one operator.
        providers: onnxruntime's, as they ran.
        batch: rows that ran together.
        resident: prompts that took turns.
        loop: "closed: service time", or "open: from the scheduled send".
        rate: requests a second of an open loop, None for a closed one.
        seed: of random prompts, order and schedule.
        length: samples and seconds that were asked for.
    """

    threads: int
    providers: list[str]
    batch: int
    resident: int
    loop: str
    rate: float | None
    seed: int
    length: Length


def describe_settings(plan: Plan, model: Model, resident: int) -> Settings:
    """What a report says of a plan, with what the model made of it."""
    return Settings(
        threads=model.threads,
        providers=model.providers,
        batch=plan.batch,
        resident=resident,
        loop="closed: service time" if plan.rate is None else "open: from the scheduled send",
        rate=plan.rate,
        seed=plan.seed,
        length=plan.length,
    )


@dataclass(frozen=True)
class Phase:
    """One phase: its samples, in milliseconds and in order, and what they say.

    Attributes:
        title: for people.
        unit: "ms".
        summary: percentiles and outliers.
        verdict: whether they may be believed.
        samples: all of them.
    """

    title: str
    unit: str
    summary: Summary
    verdict: Verdict
    samples: list[float]


def make_phases(titles: Mapping[str, str], samples: Samples, series: Series) -> dict[str, Phase]:
    """The phases that have samples, in the order of their titles.

    Args:
        titles: of the phases, by name.
        samples: of what happens once.
        series: of the requests.
    """
    judged = {name: (values, judge_series(values)) for name, values in samples.items() if values}
    for name, values in series.samples.items():
        judged[name] = values, judge_loop_phase(name, series)
    return {
        name: Phase(title, "ms", summarise(judged[name][0]), judged[name][1], judged[name][0])
        for name, title in titles.items()
        if name in judged
    }


@dataclass(frozen=True)
class Report:
    """A whole benchmark.

    Attributes:
        created: UTC, ISO 8601.
        bundle: that was measured.
        prompts: that were swapped; copies of them beyond these.
        request: text or ids; or a picture.
        settings: how.
        device: hardware, a Jetson's power mode, and versions.
        before: clock, temperature and load before anything was run.
        phases: by name, in the order in which a request meets them.
        at_s: when each request of the loop began; one for each sample of end to end.
        seconds: length of the loop.
        warm_up: before the loop.
        kernel_ms: the reference kernel at the start.
        checks: of the reference kernel: clocks, temperature and load too.
        residents: swap time against the number of resident prompts.
        ceilings: what memory and arithmetic would allow.
        energy: of the loop.
        joules_per_request: without the reference kernel's, by its time; None where the device does not
            tell.
        answers: whether what came out is right.
        verdict: on the run: that of its end to end.
        notes: what a reader should know and is no fault.
        comparison: with another report, None without one.
    """

    created: str
    bundle: BundleFacts
    prompts: list[PromptFile]
    request: Question | PictureFile
    settings: Settings
    device: Device
    before: Conditions
    phases: dict[str, Phase]
    at_s: list[float]
    seconds: float
    warm_up: WarmUp
    kernel_ms: float
    checks: list[Check]
    residents: list[Level]
    ceilings: Ceilings
    energy: Energy
    joules_per_request: float | None
    answers: Correctness
    verdict: Verdict
    notes: list[str]
    comparison: Comparison | None

    def to_json(self) -> str:
        """The text of a report file, one object."""
        fields = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        return json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
