"""A whole benchmark, in order: what happens once, then requests in a loop, then what they mean."""

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from edgept.bench.answers import Answers, Correctness
from edgept.bench.ceilings import measure_ceilings
from edgept.bench.comparison import Comparison, compare_interleaved, compare_reports, find_rival
from edgept.bench.conditions import Conditions
from edgept.bench.earlier import Earlier
from edgept.bench.loop import Series, run_loop
from edgept.bench.once import load_prompts, load_sessions, start_processes
from edgept.bench.phases import LOOP, TITLES, Samples
from edgept.bench.plan import Plan
from edgept.bench.power import Energy, energy_meter
from edgept.bench.prompts import PromptFile, copies, find_prompts
from edgept.bench.question import Question, ask, check_length, make_question
from edgept.bench.reference_kernel import ReferenceKernel
from edgept.bench.report import Phase, Report, describe_bundle, describe_settings, make_phase
from edgept.bench.requests import make_request
from edgept.bench.residents import check_memory, grow, levels_to, measure_level, measure_recent
from edgept.bench.verdict import judge_loop_phase, judge_series
from edgept.bundle import read_manifest
from edgept.errors import UsageError
from edgept.manifest import Manifest
from edgept.prompt import Prompt
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.device import Device, read_device
from edgept.runtime.model import Model

__all__ = ["Progress", "measure"]

Progress = Callable[[str, float], None]
"""Told what is being done, and how much of it is, from 0 to 1."""

_RESIDENTS_SHARE = 0.05  # of a time that was given, for each number of residents
_LEVEL_SAMPLES = 662  # enough for p99
_FEW_RESIDENTS, _MANY_RESIDENTS = 4, 16  # of a short and of a long run
_BUSY = 0.25  # load of a core that is worth a word
_LENGTH = 64  # tokens, given and new


def measure(
    plan: Plan, *, earlier: Earlier | None = None, progress: Progress = lambda *_: None
) -> Report:
    """Measure a bundle and its prompts.

    Args:
        plan: what, and how long.
        earlier: a report to compare with.
        progress: told what is being done.

    Raises:
        EdgeptError: whatever is wrong with the bundle, its prompts or the plan.
    """
    manifest = read_manifest(plan.bundle)
    if manifest.task != "text-generation":
        raise UsageError(
            f"{plan.bundle} is a bundle for {manifest.task}; edgept bench measures text-generation, token "
            "by token, and models of images. Bench a bundle for that (edgept export --task text-generation); every answer of "
            "'edgept run --json' on this one says how long it took."
        )
    with tempfile.TemporaryDirectory(prefix="edgept-bench-") as name:
        folder = Path(name)
        found = find_prompts(plan.prompts, manifest, folder, plan.seed)
        _check(plan, manifest, [prompt for _, prompt in found], earlier)
        return _measure(plan, found, folder, earlier, progress)


def _measure(
    plan: Plan,
    found: list[tuple[PromptFile, Prompt]],
    folder: Path,
    earlier: Earlier | None,
    progress: Progress,
) -> Report:
    files, prompts = [file for file, _ in found], [prompt for _, prompt in found]
    progress("reading the device", 0)
    before = Conditions.read()
    device = read_device()
    kernel = ReferenceKernel()
    samples: Samples = {}
    samples["session_load"], model = load_sessions(plan, lambda x: progress("loading sessions", x))
    token = min(16, model.manifest.vocab_size - 1)  # any that is no special one
    samples["prompt_cold"] = load_prompts(
        plan, model, files, token, lambda x: progress("loading prompts", x)
    )
    pool = [model.load_prompt(prompt) for prompt in prompts]
    progress("choosing a request", 0)
    question = _question(plan, model, pool, earlier)
    more = copies(prompts)
    grow(model, pool, more, 2, lambda *_: None)  # a swap needs two

    answers = Answers()
    seen = [_answer(model, prompt, question, answers) for prompt in (pool[0], pool[1], pool[0])]
    samples["process_start"], tokens = start_processes(
        plan, files[0], question, lambda x: progress("starting processes", x)
    )
    length = plan.length.part(_LEVEL_SAMPLES, _RESIDENTS_SHARE)
    progress("swapping to recent prompts", 0)
    samples["swap_recent"] = measure_recent(model, pool, token, length)
    residents = []
    short = _FEW_RESIDENTS if plan.quick else _MANY_RESIDENTS
    for number in levels_to(plan.resident or max(short, len(pool))):
        progress(f"swapping among {number} residents", 0)
        grow(model, pool, more, number, lambda now, size: progress("loading residents", now / size))
        residents.append(measure_level(model, pool[:number], token, length, plan.seed))

    turns = pool[: plan.resident or max(2, len(prompts))]
    request = make_request(model, turns, question, answers, batch=plan.batch)
    with energy_meter() if plan.power else nullcontext(Energy(reason="not asked for")) as energy:
        series = run_loop(
            request,
            plan.length,
            kernel=kernel,
            rate=plan.rate,
            seed=plan.seed,
            progress=_share(plan, "requests", progress),
        )
    samples |= {name: series.samples[name] for name in LOOP if name in series.samples}
    progress("measuring ceilings", 0)
    virtual, text = pool[0].num_virtual_tokens, len(question.token_ids)
    ceilings = measure_ceilings(
        model,
        # a prompt whose keys and values are computed once is not run again
        prefill_tokens=text + (virtual if pool[0].kv is None else 0),
        length=virtual + text + question.answered_tokens // 2,
    )
    correctness = Correctness(
        swaps_back=seen[0] == seen[2],
        prompts_matter=seen[0] != seen[1],
        checked=answers.checked,
        different=answers.different,
        starts_equal=tokens.count(seen[0][0]),
        starts=len(tokens),
        batch_rows=plan.batch if plan.batch > 1 else 0,
        batch_rows_equal=_equal_rows(model, turns, question, plan.batch),
    )
    comparison = None
    if earlier is not None:
        comparison = _compare(
            plan, model, prompts, question, samples, device, earlier, folder, progress
        )
    phases = _phases(samples, series)
    return Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        bundle=describe_bundle(plan.bundle, model.manifest),
        prompts=files,
        request=question,
        settings=describe_settings(plan, model, len(turns)),
        device=device,
        before=before,
        phases=phases,
        at_s=series.at_s,
        seconds=series.seconds,
        warm_up=series.warm_up,
        kernel_ms=series.kernel_ms,
        checks=series.checks,
        residents=residents,
        ceilings=ceilings,
        energy=energy,
        joules_per_request=_joules_per_request(energy, series),
        answers=correctness,
        verdict=phases["end_to_end"].verdict,
        notes=_notes(plan, files, question, correctness, before, device),
        comparison=comparison,
    )


def _check(plan: Plan, manifest: Manifest, prompts: list[Prompt], earlier: Earlier | None) -> None:
    """What cannot work is said before anything is run."""
    tokens = plan.prompt_length or (len(earlier.token_ids) if earlier else _LENGTH)
    check_length(prompts, tokens, _new_tokens(plan, earlier), manifest.max_positions)
    if plan.resident is not None:
        check_memory(prompts[0], manifest, plan.resident)


def _new_tokens(plan: Plan, earlier: Earlier | None) -> int:
    return plan.new_tokens or (earlier.new_tokens if earlier else _LENGTH)


def _question(
    plan: Plan, model: Model, pool: list[LoadedPrompt], earlier: Earlier | None
) -> Question:
    """The request that the options ask for; where they are silent, that of the other report."""
    new_tokens = _new_tokens(plan, earlier)
    vocabulary = model.manifest.vocab_size
    if (
        earlier is None
        or plan.prompt_length is not None
        or not earlier.token_ids
        or max(earlier.token_ids) >= vocabulary
    ):
        return make_question(model, pool, plan.prompt_length or _LENGTH, new_tokens)
    tokenizer, text = model.tokenizer, earlier.text
    if (
        tokenizer is None
        or text is None
        or tokenizer.encode(text, special_tokens=True) != earlier.token_ids
    ):
        text = None
    return ask(model, pool, text, earlier.token_ids, new_tokens)


def _answer(model: Model, prompt: LoadedPrompt, question: Question, answers: Answers) -> list[int]:
    result = model.generate(question.content, prompt=prompt, max_new_tokens=question.new_tokens)
    answers.check(prompt.name, result.token_ids)
    return result.token_ids


def _equal_rows(model: Model, turns: list[LoadedPrompt], question: Question, batch: int) -> int:
    """Rows of a batch with the answer that they have alone."""
    if batch == 1:
        return 0
    chosen = [turns[row % len(turns)] for row in range(batch)]
    rows = model.generate_batch(
        [(question.content, prompt) for prompt in chosen], max_new_tokens=question.new_tokens
    )
    alone = {
        prompt.name: model.generate(
            question.content, prompt=prompt, max_new_tokens=question.new_tokens
        ).token_ids
        for prompt in chosen
    }
    return sum(
        row.token_ids == alone[prompt.name] for prompt, row in zip(chosen, rows, strict=True)
    )


def _share(plan: Plan, title: str, progress: Progress) -> Callable[[int, float], None]:
    length = plan.length

    def tell(count: int, seconds: float) -> None:
        shares = [count / max(length.samples, 1), seconds / length.seconds if length.seconds else 1]
        share = (
            min(shares) if length.limit_s is None else max(min(shares), seconds / length.limit_s)
        )
        progress(f"{title}: {count} in {seconds:.0f} s", min(share, 1.0))

    return tell


def _compare(
    plan: Plan,
    model: Model,
    prompts: list[Prompt],
    question: Question,
    samples: Samples,
    device: Device,
    earlier: Earlier,
    folder: Path,
    progress: Progress,
) -> Comparison:
    rival = (
        "requests come on a schedule here"
        if plan.rate is not None
        else find_rival(earlier, model, question, device, plan.batch, folder / "other")
    )
    resident = plan.resident or max(2, len(prompts))
    if isinstance(rival, str):
        comparison = compare_reports(samples, earlier, rival)
        note = f"{resident} prompts took turns here, {earlier.resident} in the other report"
        unlike = earlier.resident != resident
    else:
        comparison = compare_interleaved(
            model,
            prompts,
            rival,
            earlier,
            question,
            plan.length,
            batch=plan.batch,
            progress=_share(plan, "interleaved blocks of four", progress),
        )
        note = (
            f"the {len(prompts)} prompts given take turns on both sides, not {resident} residents"
        )
        unlike = plan.resident is not None
    return replace(comparison, notes=[*comparison.notes, note]) if unlike else comparison


def _joules_per_request(energy: Energy, series: Series) -> float | None:
    """The meter's joules without the reference kernel's, over the requests that it ran during.

    Few meters are quick enough to stand still for some milliseconds, so the kernel is taken to draw
    the run's mean power.
    """
    if energy.joules is None:
        return None
    requests = len(series.at_s) + series.warm_up.requests
    return energy.joules * (1 - series.kernel_s / energy.seconds) / requests


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
    plan: Plan,
    files: list[PromptFile],
    question: Question,
    correctness: Correctness,
    before: Conditions,
    device: Device,
) -> list[str]:
    notes = []
    if files[0].random:
        notes.append(
            "no prompt was given: two random ones, whose answers mean nothing, were swapped"
        )
    elif len(files) == 1:
        notes.append("one prompt was given: it is swapped with a copy of itself")
    if not correctness.prompts_matter:
        notes.append("the first two prompts give the same answer to this request")
    if question.answered_tokens < question.new_tokens:
        notes.append(
            f"the model ends its shortest answer after {question.answered_tokens} of "
            f"{question.new_tokens} tokens"
        )
    if question.text is None:
        notes.append("requests are token ids, so tokenise and detokenise do nothing")
    if plan.batch > 1 and correctness.batch_rows_equal < plan.batch:
        notes.append(
            f"{correctness.batch_rows_equal} of {plan.batch} rows of a batch have the answer that they "
            "have alone; the others round differently"
        )
    if before.load > _BUSY * device.cpu.cores:
        notes.append(
            f"other programs kept {before.load:.1f} of {device.cpu.cores} cores busy before this one began"
        )
    return notes
