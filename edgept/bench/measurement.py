"""A whole benchmark, in order: what happens once, then requests in a loop, then what they mean."""

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from edgept.bench import pictures, texts
from edgept.bench.answers import Answer, Answers, Correctness
from edgept.bench.comparison import compare
from edgept.bench.conditions import Conditions
from edgept.bench.earlier import Earlier
from edgept.bench.loop import Series, run_loop
from edgept.bench.once import load_prompts, load_sessions, start_processes
from edgept.bench.phases import Samples
from edgept.bench.plan import Plan, Progress
from edgept.bench.power import Energy, energy_meter
from edgept.bench.prompts import PromptFile, copies, find_prompts
from edgept.bench.reference_kernel import ReferenceKernel
from edgept.bench.report import Report, describe_bundle, describe_settings, make_phases
from edgept.bench.requests import count_equal_rows, make_request
from edgept.bench.residents import check_memory, levels_to, measure_level, measure_recent
from edgept.bench.subject import Kind, Subject
from edgept.bench.turns import round_of
from edgept.bundle import read_manifest
from edgept.errors import UsageError
from edgept.manifest import Manifest
from edgept.prompt import Prompt
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.device import Device, read_device
from edgept.runtime.model import Model

__all__ = ["measure"]

_RESIDENTS_SHARE = 0.05  # of a time that was given, for each number of residents
_LEVEL_SAMPLES = 662  # enough for p99
_FEW_RESIDENTS, _MANY_RESIDENTS = 4, 16  # of a short and of a long run
_BUSY = 0.25  # load of a core that is worth a word


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
    kind = _kind_of(manifest, plan)
    with tempfile.TemporaryDirectory(prefix="edgept-bench-") as name:
        folder = Path(name)
        found = find_prompts(plan.prompts, manifest, folder, plan.seed)
        prompts = [prompt for _, prompt in found]
        kind.check(plan, manifest, prompts, earlier)
        if plan.resident is not None:
            check_memory(prompts[0], manifest, plan.resident)
        return _measure(kind, plan, found, folder, earlier, progress)


def _kind_of(manifest: Manifest, plan: Plan) -> Kind:
    if manifest.image is not None:
        return pictures
    if manifest.task == "text-generation":
        return texts
    raise UsageError(
        f"{plan.bundle} is a bundle for {manifest.task}; edgept bench measures text-generation, token "
        "by token, and models of images. Bench a bundle for that (edgept export --task text-generation); every answer of "
        "'edgept run --json' on this one says how long it took."
    )


def _measure(
    kind: Kind,
    plan: Plan,
    found: list[tuple[PromptFile, Prompt]],
    folder: Path,
    earlier: Earlier | None,
    progress: Progress,
) -> Report:
    files, prompts = [file for file, _ in found], [prompt for _, prompt in found]

    def advance(title: str) -> Callable[[float], None]:
        return lambda share: progress(title, share)

    progress("reading the device", 0)
    before, device, kernel = Conditions.read(), read_device(), ReferenceKernel()
    samples: Samples = {}
    samples["session_load"], model = load_sessions(plan, advance("loading sessions"))
    least = kind.least_request(model)
    samples["prompt_cold"] = load_prompts(plan, model, files, least, advance("loading prompts"))
    pool = [model.load_prompt(prompt) for prompt in prompts]
    progress("choosing a request", 0)
    subject = kind.choose(plan, model, pool, earlier, folder)
    more = copies(prompts)

    def grow(size: int) -> None:
        while len(pool) < size:
            pool.append(model.load_prompt(next(more)))
            progress("loading residents", len(pool) / size)

    grow(2)  # a swap needs two
    answers = Answers()
    first, second, again = (
        _ask(subject, model, prompt, answers) for prompt in (pool[0], pool[1], pool[0])
    )
    samples["process_start"], said = start_processes(
        plan, files[0], subject.message, advance("starting processes")
    )
    length = plan.length.part(_LEVEL_SAMPLES, _RESIDENTS_SHARE)
    progress("swapping to recent prompts", 0)
    samples["swap_recent"] = measure_recent(model, pool, length)
    residents = []
    for number in levels_to(
        plan.resident or max(_FEW_RESIDENTS if plan.quick else _MANY_RESIDENTS, len(pool))
    ):
        progress(f"swapping among {number} residents", 0)
        grow(number)
        residents.append(measure_level(least, pool[:number], length, plan.seed))

    works = [
        f"{subject.work(model, prompt)}, {prompt.num_virtual_tokens} virtual"
        for prompt in pool[: len(prompts)]
    ]
    turns = pool[: plan.resident or max(2, len(prompts))]
    with energy_meter() if plan.power else nullcontext(Energy(reason="not asked for")) as energy:
        series = run_loop(
            make_request(subject, model, turns, answers, batch=plan.batch),
            plan.length,
            kernel=kernel,
            rate=plan.rate,
            seed=plan.seed,
            # copies come in their originals' order
            turn=round_of([works[i % len(works)] for i in range(len(turns))], plan.batch),
            progress=lambda count, seconds: progress(
                f"requests: {count} in {seconds:.0f} s", plan.length.share(count, seconds)
            ),
        )
    progress("measuring ceilings", 0)
    ceilings = subject.ceilings(model, pool[0])
    correctness = Correctness(
        swaps_back=np.array_equal(first, again),
        prompts_matter=not np.array_equal(first, second),
        checked=answers.checked,
        different=answers.different,
        starts_equal=said.count(subject.first(first)),
        starts=len(said),
        batch_rows=plan.batch if plan.batch > 1 else 0,
        batch_rows_equal=count_equal_rows(subject, model, turns, plan.batch),
    )
    comparison = None
    if earlier is not None:
        comparison = compare(
            plan,
            subject,
            model,
            prompts,
            samples | series.samples,
            earlier=earlier,
            device=device,
            folder=folder,
            progress=progress,
        )
    phases = make_phases(subject.titles, samples, series)
    return Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        bundle=describe_bundle(plan.bundle, model.manifest),
        prompts=files,
        request=subject.request,
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
        notes=[*_notes(plan, files, works, correctness, before, device), *subject.notes()],
        comparison=comparison,
    )


def _ask(subject: Subject, model: Model, prompt: LoadedPrompt, answers: Answers) -> Answer:
    """One answer outside the loop, checked as those inside."""
    answer = subject.run(model, [prompt])[1][0]
    answers.check(prompt.name, answer)
    return answer


def _joules_per_request(energy: Energy, series: Series) -> float | None:
    """The meter's joules without the reference kernel's, over the requests that it ran during.

    Few meters are quick enough to stand still for some milliseconds, so the kernel is taken to draw
    the run's mean power.
    """
    if energy.joules is None:
        return None
    requests = len(series.at_s) + series.warm_up.requests
    return energy.joules * (1 - series.kernel_s / energy.seconds) / requests


def _notes(
    plan: Plan,
    files: list[PromptFile],
    works: list[str],
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
    if len(set(works)) > 1:
        notes.append(
            f"prompts of different work take turns ({'; '.join(works)}): a median is of the mixture, and may "
            "be one work's or another's. Bench each alone for its own"
        )
    if not correctness.prompts_matter:
        notes.append("the first two prompts give the same answer to this request")
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
