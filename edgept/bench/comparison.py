"""This run against another report: interleaved where both can run here, else sample by sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgept.bench.answers import Answers
from edgept.bench.earlier import Earlier
from edgept.bench.loop import Request, run_loop, timed
from edgept.bench.phases import LOOP, TITLES, Samples
from edgept.bench.plan import Length
from edgept.bench.prompts import find_prompts
from edgept.bench.question import Question
from edgept.bench.ratio import Ratio, ratio_of_pairs, ratio_of_series
from edgept.bench.requests import make_request
from edgept.bundle import MANIFEST_NAME, hash_file, read_manifest
from edgept.errors import EdgeptError
from edgept.prompt import Prompt
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.device import Device
from edgept.runtime.model import Model, load

__all__ = [
    "Compared",
    "Comparison",
    "Rival",
    "compare_interleaved",
    "compare_reports",
    "find_rival",
]

_SAME_VERSIONS = ("edgept", "onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Compared:
    """One phase of the comparison; samples in milliseconds."""

    ratio: Ratio
    word: str
    this: list[float]
    other: list[float]


@dataclass(frozen=True)
class Comparison:
    """This run over another report; a ratio below 1 means that this one takes less time.

    Attributes:
        report: path of the other report.
        kind: "interleaved" (A B B A, same tokens, same threads) or "two reports, not interleaved".
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


@dataclass(frozen=True)
class Rival:
    """The other report's side, ready to run again: its model and its prompts."""

    model: Model
    pool: list[LoadedPrompt]


def find_rival(
    earlier: Earlier, model: Model, question: Question, device: Device, batch: int, folder: Path
) -> Rival | str:
    """The other report's bundle and prompts, loaded; or why they cannot run against this one here.

    Args:
        earlier: the other report.
        model: this side's.
        question: this side's request.
        device: this machine.
        batch: this side's rows.
        folder: for random prompts that are made again.
    """
    ours = {name: device.packages.get(name) for name in _SAME_VERSIONS}
    theirs = {name: earlier.versions.get(name) for name in _SAME_VERSIONS}
    manifest_file = earlier.bundle / MANIFEST_NAME
    checks: list[tuple[bool, str]] = [
        (earlier.rate is not None, "the other report has an open loop"),
        (
            device.cpu.model != earlier.cpu,
            f"the other report is of another machine ({earlier.cpu})",
        ),
        (ours != theirs, f"versions differ: {_list(ours)} here, {_list(theirs)} there"),
        (
            earlier.threads != model.threads,
            f"{model.threads} threads here, {earlier.threads} there",
        ),
        (earlier.batch != batch, f"{batch} rows here, {earlier.batch} there"),
        (
            earlier.token_ids != question.token_ids or earlier.new_tokens != question.new_tokens,
            "the requests are not the same tokens",
        ),
    ]
    for differs, why in checks:
        if differs:
            return why
    try:
        if hash_file(manifest_file) != earlier.manifest_sha256:
            return f"the bundle at {earlier.bundle} is not the one that was measured"
        manifest = read_manifest(earlier.bundle)
        given = [] if earlier.random else [(name, path) for name, path, _ in earlier.prompts]
        prompts = find_prompts(given, manifest, folder, earlier.seed)
        found = [facts.tensors_sha256 for facts, _ in prompts]
        if found != [sha256 for _, _, sha256 in earlier.prompts]:
            return "the other report's prompts have changed"
        other = load(earlier.bundle, threads=model.threads, providers=earlier.providers)
        loaded = [other.load_prompt(prompt) for _, prompt in prompts]
    except (EdgeptError, OSError) as error:
        return f"the other report's bundle or prompts are not at hand: {error}"
    return Rival(other, loaded)


def _list(versions: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def compare_interleaved(
    model: Model,
    prompts: Sequence[Prompt],
    rival: Rival,
    earlier: Earlier,
    question: Question,
    length: Length,
    *,
    batch: int,
    progress: Callable[[int, float], None] | None = None,
) -> Comparison:
    """Run both sides in turn, A B B A, on the same tokens and threads.

    Args:
        model: this side's.
        prompts: this side's.
        rival: the other side.
        earlier: the other report.
        question: what both are asked; ids where the two tokenisers read its text differently.
        length: of the series; its samples are blocks of four requests.
        batch: rows.
        progress: told the blocks and seconds so far.
    """
    notes: list[str] = []
    texts = (model.tokenizer, rival.model.tokenizer)
    ids = [
        t.encode(question.text, special_tokens=True) if t and question.text is not None else None
        for t in texts
    ]
    if question.text is not None and ids[0] != ids[1]:
        question = replace(question, text=None)
        notes.append("the two read the text as different tokens, so both are given this one's ids")
    pool = [model.load_prompt(prompt) for prompt in prompts]
    answers, other_answers = Answers(), Answers()
    this = make_request(model, pool, question, answers, batch=batch)
    other = make_request(rival.model, rival.pool, question, other_answers, batch=batch)
    blocks: list[tuple[Samples, Samples]] = []
    series = run_loop(lambda: _block(this, other, blocks), length, progress=progress)
    pairs = _pairs(blocks[series.warm_up.requests :])
    if series.throttled:
        notes.append("the machine was throttled meanwhile; both sides were")
    lengths = [
        len(
            side.generate(
                question.content, prompt=first, max_new_tokens=question.new_tokens
            ).token_ids
        )
        for side, first in ((model, pool[0]), (rival.model, rival.pool[0]))
    ]
    if lengths[0] != lengths[1]:
        notes.append(f"answers have {lengths[0]} tokens here and {lengths[1]} there")
    compared = {
        name: _compared(ratio_of_pairs(a, b, together=len(pairs)), a, b)
        for name, (a, b) in pairs.items()
    }
    different = answers.different + other_answers.different
    return Comparison(earlier.path, "interleaved", "", compared, different, notes)


def _block(this: Request, other: Request, blocks: list[tuple[Samples, Samples]]) -> Samples:
    first, second, third, last = timed(this), timed(other), timed(other), timed(this)
    blocks.append((_together(first, last), _together(second, third)))
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


def _compared(ratio: Ratio, this: list[float], other: list[float]) -> Compared:
    return Compared(ratio, ratio.word, this, other)


def compare_reports(samples: Samples, earlier: Earlier, why: str) -> Comparison:
    """Compare this run's samples with the other report's; what the machine did between is in the ratio.

    Args:
        samples: of this run.
        earlier: the other report.
        why: why the two were not interleaved.
    """
    names = [name for name in TITLES if name in samples and name in earlier.samples]
    compared = {}
    for name in names:
        this, other = samples[name], earlier.samples[name]
        if min(*this, *other) > 0:
            ratio = ratio_of_series(this, other, together=len(names))
            compared[name] = _compared(ratio, this, other)
    note = (
        f"taken apart ({earlier.created} and now): what changed in the machine between the two is in "
        "the ratios and in no interval"
    )
    return Comparison(earlier.path, "two reports, not interleaved", why, compared, 0, [note])
