"""This run against another report: interleaved where both can run here, else sample by sample."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgept.bench.answers import Answers
from edgept.bench.earlier import Earlier
from edgept.bench.loop import Request, run_loop, timed
from edgept.bench.phases import LOOP, TITLES, Samples
from edgept.bench.plan import Length, Plan, Progress
from edgept.bench.ratio import Ratio, ratio_of_pairs, ratio_of_series
from edgept.bench.requests import make_request
from edgept.bench.rival import Rival, find_rival
from edgept.bench.subject import Subject
from edgept.prompt import Prompt
from edgept.runtime.device import Device
from edgept.runtime.model import Model

__all__ = ["Compared", "Comparison", "compare"]

_LONG = 512  # turns


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
        kind: "interleaved" (A B B A B A A B, same request, same threads) or "two reports, not interleaved".
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
    """Run both sides in turn, A B B A B A A B, on the same request and threads; else compare the samples.

    Args:
        plan: this side's; the length of the series is in turns of eight requests.
        subject: this side's request.
        model: this side's.
        prompts: this side's.
        samples: of this run.
        earlier: the other report.
        device: this machine.
        folder: for random prompts that are made again.
        progress: told the turns and seconds so far.
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
    turns: list[tuple[Samples, Samples]] = []
    length = _length(plan.length)
    series = run_loop(
        lambda: _turn(this, other, turns),
        length,
        progress=lambda count, seconds: progress(
            f"interleaved turns of eight requests: {count} in {seconds:.0f} s",
            length.share(count, seconds),
        ),
    )
    pairs = _pairs(turns[series.warm_up.requests :])
    if series.throttled:
        notes.append("the machine was throttled meanwhile; both sides were")
    compared = {}
    for name, (a, b) in pairs.items():
        ratio = ratio_of_pairs(a, b, together=len(pairs))
        word = "at other work" if name in shared.other_work else ratio.word
        compared[name] = Compared(ratio, word, a, b)
    different = answers.different + other_answers.different
    return Comparison(earlier.path, "interleaved", "", compared, different, notes)


def _length(length: Length) -> Length:
    """That of the comparison, in turns of eight requests.

    A long run has half as many of them as requests, and a quick one twice its time, so that requests of
    some 20 ms can still be judged.
    """
    turns = min(length.samples, max(_LONG, length.samples // 2))
    seconds = length.seconds if length.limit_s is not None else min(2 * length.seconds, 60.0)
    return replace(length, samples=turns, seconds=seconds)


def _turn(this: Request, other: Request, turns: list[tuple[Samples, Samples]]) -> Samples:
    """A B B A, then B A A B; kept beside the loop, which times the whole turn.

    What runs first in a block finds the caches as other work left them: a block alone favours a side,
    and the two kinds of block, taken one by one, would be two populations with no median between them.
    """
    a, b = this, other
    a1, b1, b2, a2 = timed(a), timed(b), timed(b), timed(a)
    b3, a3, a4, b4 = timed(b), timed(a), timed(a), timed(b)
    turns.append((_together(a1, a2, a3, a4), _together(b1, b2, b3, b4)))
    return {}


def _together(first: Samples, *others: Samples) -> Samples:
    """The samples of all, in the phases that all have."""
    names = [name for name in first if all(name in other for other in others)]
    return {name: first[name] + [v for other in others for v in other[name]] for name in names}


def _pairs(turns: list[tuple[Samples, Samples]]) -> dict[str, tuple[list[float], list[float]]]:
    """For each phase, both sides' geometric mean in every turn."""
    pairs: dict[str, tuple[list[float], list[float]]] = {}
    for name in LOOP:
        held = [(a[name], b[name]) for a, b in turns if name in a and name in b]
        if held:
            means = [tuple(float(np.exp(np.log(side).mean())) for side in pair) for pair in held]
            pairs[name] = ([mean[0] for mean in means], [mean[1] for mean in means])
    return pairs


def _compare_reports(samples: Samples, earlier: Earlier, why: str) -> Comparison:
    """Compare this run's samples with the other report's; what the machine did between is in the ratio."""
    names = [name for name in TITLES if samples.get(name) and earlier.samples.get(name)]
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
