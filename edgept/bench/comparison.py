"""This run against another report: interleaved where both can run here, else sample by sample."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgept.bench.answers import Answers
from edgept.bench.earlier import Earlier
from edgept.bench.loop import Request, run_loop, timed
from edgept.bench.phases import LOOP, TITLES, Samples
from edgept.bench.plan import Plan, Progress
from edgept.bench.ratio import Ratio, ratio_of_pairs, ratio_of_series
from edgept.bench.requests import make_request
from edgept.bench.rival import Rival, find_rival
from edgept.bench.subject import Subject
from edgept.prompt import Prompt
from edgept.runtime.device import Device
from edgept.runtime.model import Model

__all__ = ["Compared", "Comparison", "compare"]


@dataclass(frozen=True)
class Compared:
    """One phase of the comparison.

    Attributes:
        ratio: this side over the other.
        word: what may be said of it, as `Ratio.word`; or "at other work", where the prompts of the two sides
            do not do the same and a ratio says nothing of the bundles.
        this: this side's samples, in milliseconds.
        other: the other side's.
    """

    ratio: Ratio
    word: str
    this: list[float]
    other: list[float]


@dataclass(frozen=True)
class Comparison:
    """This run over another report; a ratio below 1 means that this one takes less time.

    Attributes:
        report: path of the other report.
        kind: "interleaved" (A B B A, B A A B, same request, same threads) or "two reports, not interleaved".
        why: why it is not interleaved, "" where it is.
        phases: by name.
        different: answers of the interleaved requests that changed; 0 when they are right.
        notes: what makes the two unlike each other.
    """

    report: str
    kind: str
    why: str
    phases: dict[str, Compared]
    different: int
    notes: list[str]


def compare(
    plan: Plan,
    subject: Subject,
    model: Model,
    prompts: Sequence[Prompt],
    samples: Samples,
    *,
    earlier: Earlier,
    device: Device,
    folder: Path,
    progress: Progress,
) -> Comparison:
    """Run both sides in turn, A B B A, B A A B, on the same request and threads; else compare the samples.

    Args:
        plan: this side's; the length of the series is in blocks of four requests.
        subject: this side's request.
        model: this side's.
        prompts: this side's.
        samples: of this run.
        earlier: the other report.
        device: this machine.
        folder: for random prompts that are made again.
        progress: told the blocks and seconds so far.
    """
    rival = find_rival(earlier, model, subject, device, plan, folder / "other")
    resident = plan.resident or max(2, len(prompts))
    if isinstance(rival, str):
        comparison = _compare_reports(samples, earlier, rival)
        note = f"{resident} prompts took turns here, {earlier.resident} in the other report"
        unlike = earlier.resident != resident
    else:
        comparison = _compare_interleaved(plan, subject, model, prompts, rival, earlier, progress)
        note = (
            f"the {len(prompts)} prompts given take turns on both sides, not {resident} residents"
        )
        unlike = plan.resident is not None
    return replace(comparison, notes=[*comparison.notes, note]) if unlike else comparison


def _compare_interleaved(
    plan: Plan,
    subject: Subject,
    model: Model,
    prompts: Sequence[Prompt],
    rival: Rival,
    earlier: Earlier,
    progress: Progress,
) -> Comparison:
    pool = [model.load_prompt(prompt) for prompt in prompts]
    shared = subject.beside(model, pool, rival.model, rival.pool)
    notes = [*shared.notes]
    answers, other_answers = Answers(), Answers()
    this = make_request(shared.subject, model, pool, answers, batch=plan.batch)
    other = make_request(shared.subject, rival.model, rival.pool, other_answers, batch=plan.batch)
    blocks: list[tuple[Samples, Samples]] = []
    series = run_loop(
        lambda: _block(this, other, blocks),
        plan.length,
        progress=lambda count, seconds: progress(
            f"interleaved blocks of four: {count} in {seconds:.0f} s",
            plan.length.share(count, seconds),
        ),
    )
    pairs = _pairs(blocks[series.warm_up.requests :])
    if series.throttled:
        notes.append("the machine was throttled meanwhile; both sides were")
    compared = {}
    for name, (a, b) in pairs.items():
        ratio = ratio_of_pairs(a, b, together=len(pairs))
        word = "at other work" if name in shared.other_work else ratio.word
        compared[name] = Compared(ratio, word, a, b)
    different = answers.different + other_answers.different
    return Comparison(earlier.path, "interleaved", "", compared, different, notes)


def _block(this: Request, other: Request, blocks: list[tuple[Samples, Samples]]) -> Samples:
    """A B B A, and B A A B in the next one; kept beside the loop, which times the whole block.

    What runs first finds the caches as the loop's own work left them.
    """
    turned = len(blocks) % 2 == 1
    outer, inner = (other, this) if turned else (this, other)
    first, second, third, last = timed(outer), timed(inner), timed(inner), timed(outer)
    sides = _together(first, last), _together(second, third)
    blocks.append((sides[1], sides[0]) if turned else sides)
    return {}


def _together(one: Samples, two: Samples) -> Samples:
    return {name: one[name] + two[name] for name in one.keys() & two.keys()}


def _pairs(blocks: list[tuple[Samples, Samples]]) -> dict[str, tuple[list[float], list[float]]]:
    """For each phase, both sides' geometric mean in every block."""
    pairs: dict[str, tuple[list[float], list[float]]] = {}
    for name in LOOP:
        held = [(a[name], b[name]) for a, b in blocks if name in a and name in b]
        if held:
            means = [tuple(float(np.exp(np.log(side).mean())) for side in pair) for pair in held]
            pairs[name] = ([mean[0] for mean in means], [mean[1] for mean in means])
    return pairs


def _compare_reports(samples: Samples, earlier: Earlier, why: str) -> Comparison:
    """Compare this run's samples with the other report's; what the machine did between is in the ratio."""
    names = [name for name in TITLES if name in samples and name in earlier.samples]
    compared = {}
    for name in names:
        this, other = samples[name], earlier.samples[name]
        if min(*this, *other) > 0:
            ratio = ratio_of_series(this, other, together=len(names))
            compared[name] = Compared(ratio, ratio.word, this, other)
    note = (
        f"taken apart ({earlier.created} and now): what changed in the machine between the two is in "
        "the ratios and in no interval"
    )
    return Comparison(earlier.path, "two reports, not interleaved", why, compared, 0, [note])
