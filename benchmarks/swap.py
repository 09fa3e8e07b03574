"""What changing the task costs: among residents, from a file, and by loading a model again.

python -m benchmarks.swap [FOLDER] [--quick]
"""

from collections.abc import Callable
from dataclasses import replace
from statistics import median

from benchmarks.claim import (
    Claim,
    Goal,
    Setting,
    goal_at_most,
    goal_of_ratio,
    not_measured,
    random_ids,
    run_script,
    say_ratio,
    spread,
    table,
)
from benchmarks.files import TASKS
from benchmarks.peers import Side, close_all, interleave, load_tasks, start_sides
from benchmarks.runtimes import RUNTIMES
from edgept.bench.ratio import ratio_of_pairs
from edgept.bench.statistics import SAMPLES_FOR, percentile
from edgept.runtime.device import read_memory

__all__ = ["measure"]

_TEXT = 64  # tokens
_NO_TASKS = ("openvino", "llama-q8")  # none here; as Q4_0
_LIMIT_US = 20
_FLAT = 2.0
_MOST = 10_000  # residents, in the goal
_KEEP_FREE = 0.8  # of the memory that is available


def measure(setting: Setting) -> Claim:
    """Peers on the first shape, then edgept's residents on it and on the small model."""
    names = ["edgept", *(name for name in setting.quick_peers() if name not in _NO_TASKS)]
    peers, missing, requests = _against_peers(setting, names)
    levels, goals, residents = _among_residents(setting)
    cold, cold_goals, from_file = _from_file(setting)
    raw = {"requests": requests, "residents": residents, "from_file": from_file}
    body = "\n\n".join(
        (peers + setting.say_left_out(), "### Residents", levels, "### From a file", cold),
    )
    about = (
        "All sides make a resident task the request's own and then answer "
        f"{_TEXT} tokens of text under it; {TASKS} tasks in turn, {_rounds(setting)} interleaved "
        f"rounds, {setting.threads} threads, shape {setting.shapes[0]}. edgept's swap, as "
        "onnxruntime-genai's, holds what a request needs anyway (a cache or a generator); peft's and "
        "llama.cpp's are one call, and their cost comes later: a prompt's 20 tokens in every prefill, a "
        "LoRA's products in every token. So the whole request is compared, too. llama.cpp has no prompt "
        "files; its tasks are LoRA adapters of rank 8 on queries and values. The model's load is "
        "one sample."
    )
    return Claim("Swapping the task", about, body, [*goals, *cold_goals], missing, raw)


def _rounds(setting: Setting) -> int:
    """Fewer where quick: no goal speaks of the peers here."""
    return max(2, setting.effort.rounds // setting.effort.every)


def _against_peers(
    setting: Setting, names: list[str]
) -> tuple[str, dict[str, str], dict[str, object]]:
    rounds, files = _rounds(setting), setting.files(setting.shapes[0])
    sides, missing = start_sides(names, files, setting.threads, setting.say)
    setting.say("swaps")
    rows = []
    try:
        load_tasks(sides, TASKS, missing)
        asked = {name: _with_and_without(side) for name, side in sides.items()}
        found = interleave(rounds, asked, missing)
        from_file = {name: _from_its_file(sides[name]) for name in found}
        cold = interleave(rounds, from_file, missing)
        loads = {name: side.load_ms for name, side in sides.items()}
    finally:
        close_all(sides)
    for name in cold:
        # an end of text as the first token leaves nothing to time
        whole = [item for item in found[name].values() if item is not None]
        if not whole:
            missing[name] = "every answer ended at its first token"
            continue
        swaps, under, plain = ([item[part] for item in whole] for part in range(3))
        share = say_ratio(ratio_of_pairs(under, plain))
        colds = spread(list(cold[name].values()))
        rows.append((RUNTIMES[name].title, spread(swaps), colds, f"{loads[name]:.0f}", share))
    header = (
        "ms",
        "warm swap",
        "from its file",
        "model loaded (one sample)",
        "request under it over plain",
    )
    return table(header, rows), missing, {"requests": found, "cold": cold, "loads": loads}


def _from_its_file(side: Side) -> Callable[[int], float]:
    return lambda number: side.call("cold", number % TASKS)


def _with_and_without(side: Side) -> Callable[[int], tuple[float, float, float] | None]:
    """Swap, and milliseconds of a short request under a task and of the plain model.

    A request that wakes the side up comes first; None where an answer was too short.
    """

    def ask(number: int) -> tuple[float, float, float] | None:
        ids, task = random_ids(_TEXT, number + 99), number % TASKS
        side.ask(random_ids(8, number + 500), None, 1)
        if number % 2:
            under, plain = side.ask(ids, task, 8), side.ask(ids, None, 8)
        else:
            plain, under = side.ask(ids, None, 8), side.ask(ids, task, 8)
        if min(len(under.token_ids), len(plain.token_ids)) < 2:
            return None
        return (
            under.swap_ms,
            under.ttft_ms + 7 * under.tpot_ms,
            plain.ttft_ms + 7 * plain.tpot_ms,
        )

    return ask


def _among_residents(
    setting: Setting,
) -> tuple[str, list[Goal], dict[str, dict[int, list[float]]]]:
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    samples: dict[str, dict[int, list[float]]] = {}
    for shape, levels in zip(
        (setting.small, setting.shapes[0]), setting.effort.residents, strict=True
    ):
        series = samples[shape] = {}
        each = 0.0
        sides, _ = start_sides(["edgept"], setting.files(shape), setting.threads, setting.say)
        with sides["edgept"] as side:
            for count in levels:
                memory = read_memory()
                if (
                    memory
                    and each * (count - max(series, default=0))
                    > _KEEP_FREE * memory.available_bytes
                ):
                    free = f"not run: {memory.available_bytes / 1e6:.0f} MB are free"
                    rows.append((shape, str(count), f"{each * count / 1e6:.1f}", free, ""))
                    break
                setting.say(f"{count} residents on {shape}")
                held: float = side.call("fill", count)
                each = held / count * 1e6
                side.call("swaps", 20, 1)
                swaps: list[float] = side.call("swaps", setting.effort.swaps, 2)
                series[count] = [swap * 1e3 for swap in swaps]
                tail = percentile(series[count], 99.0)
                last = "n/a" if tail is None else f"{tail:.1f}"
                middle = f"{median(series[count]):.1f}"
                rows.append((shape, str(count), f"{held:.1f}", middle, last))
        goals += _resident_goals(shape, series, each)
    header = ("model", "residents", "MB", "median, µs", "p99, µs")
    return table(header, rows), goals, samples


def _resident_goals(shape: str, series: dict[int, list[float]], each: float) -> list[Goal]:
    """How slow, and how flat, both by the 99th percentile; what fewer residents met is not certain.

    Args:
        shape: of the model.
        series: microseconds of swaps by the number of residents.
        each: bytes of a resident's keys and values.
    """
    most = max(series)
    slow = f"warm swap, p99, {shape}, the worst of {min(series)} to {most} residents"
    flat = f"warm swap, p99, {shape}, slowest over quickest from {min(series)} to {most}"
    tails = [percentile(swaps, 99.0) for swaps in series.values()]
    known = [tail for tail in tails if tail is not None]
    if len(known) < len(tails):
        why = f"a p99 needs {SAMPLES_FOR[99.0]} swaps"
        return [
            not_measured(slow, f"at most {_LIMIT_US} µs", why),
            not_measured(flat, f"at most {_FLAT:g} times", why),
        ]
    why = f"a swap copies {each / 1e3:.0f} kB of keys and values; 0.9 MB take 150 µs (NOTES.md)"
    goals = [
        goal_at_most(slow, _LIMIT_US, max(known), "µs", why),
        goal_at_most(flat, _FLAT, max(known) / min(known), "times"),
    ]
    return [
        replace(goal, verdict="not certain", why=f"the goal is up to {_MOST} residents")
        if goal.verdict == "met" and most < _MOST
        else goal
        for goal in goals
    ]


def _from_file(setting: Setting) -> tuple[str, list[Goal], dict[str, list[float]]]:
    """A prompt file to its first use, and which part of it is the prefill of its tokens."""
    effort, files = setting.effort, setting.files(setting.shapes[0])
    sides, _ = start_sides(["edgept"], files, setting.threads, setting.say)
    setting.say("prompts from their files")
    checks: list[float] = []
    whole: list[float] = []
    prefill: list[float] = []
    with sides["edgept"] as side:
        for number in range(-2, 2 * effort.rounds):
            sample = (
                side.call("checks", number % TASKS),
                side.call("cold", number % TASKS),
                side.ask(random_ids(20, number + 99), None, 1).ttft_ms,
            )
            if number >= 0:
                for series, value in zip((checks, whole, prefill), sample, strict=True):
                    series.append(value)
    size = files.prompts[0].stat().st_size / 1e3
    rows = [
        ("reading the file and all checks", spread(checks)),
        ("the file to its first use, keys and values included", spread(whole)),
        ("a prefill of 20 tokens, for comparison", spread(prefill)),
    ]
    rest = [total - check for total, check in zip(whole, checks, strict=True)]
    goals = [
        goal_at_most("cold swap, file and checks", 2, median(checks), "ms"),
        goal_of_ratio(
            "cold swap, its keys and values over a prefill of 20 tokens", 1, rest, prefill
        ),
    ]
    raw = {"checks": checks, "whole": whole, "prefill": prefill}
    return table((f"prompt file of {size:.0f} kB", "ms"), rows), goals, raw


if __name__ == "__main__":
    run_script(measure, __doc__)
