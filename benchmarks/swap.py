"""What changing the task costs: among residents, from a file, and by loading a model again.

python -m benchmarks.swap [FOLDER] [--quick]
"""

from collections.abc import Callable
from statistics import median

from benchmarks.claim import (
    Claim,
    Goal,
    Setting,
    goal_at_most,
    goal_of_ratio,
    random_ids,
    run_script,
    spread,
    table,
)
from benchmarks.files import TASKS
from benchmarks.peers import Side, interleave, start_sides
from benchmarks.runtimes import RUNTIMES
from edgept.bench.ratio import ratio_of_pairs
from edgept.bench.statistics import percentile

__all__ = ["measure"]

_TEXT = 64  # tokens
_NO_TASKS = ("openvino", "llama-q8")  # none here; as Q4_0
_FLAT = 2.0


def measure(setting: Setting) -> Claim:
    """Peers on the first shape, then edgept's residents on it and on the small model."""
    names = ["edgept", *(name for name in setting.peers if name not in _NO_TASKS)]
    peers, missing, raw = _against_peers(setting, names)
    levels, goals = _among_residents(setting)
    cold, cold_goals = _from_file(setting)
    body = "\n\n".join(
        (peers, "### Residents", levels, "### From a file", cold),
    )
    about = (
        "All sides make a resident task the request's own and then answer "
        f"{_TEXT} tokens of text under it; {TASKS} tasks in turn, {setting.effort.rounds} interleaved "
        f"rounds, {setting.threads} threads, shape {setting.shapes[0]}. edgept's swap, as "
        "onnxruntime-genai's, holds what a request needs anyway (a cache or a generator); peft's and "
        "llama.cpp's are one call, and their cost comes later: a prompt's 20 tokens in every prefill, a "
        "LoRA's products in every token. So the whole request is compared, too. llama.cpp has no prompt "
        "files; its tasks are LoRA adapters of rank 8 on queries and values."
    )
    return Claim("Swapping the task", about, body, [*goals, *cold_goals], missing, raw)


def _against_peers(
    setting: Setting, names: list[str]
) -> tuple[str, dict[str, str], dict[str, object]]:
    effort = setting.effort
    files = setting.files(setting.shapes[0])
    sides, missing = start_sides(names, files, setting.threads, setting.say)
    setting.say("swaps")
    rows = []
    try:
        for side in sides.values():
            side.call("load_tasks", TASKS)
        asked = {name: _with_and_without(side) for name, side in sides.items()}
        found = interleave(effort.rounds, asked)
        cold = {
            name: [side.call("cold", task % TASKS) for task in range(max(2, effort.rounds))]
            for name, side in sides.items()
        }
        again = {name: side.load_ms for name, side in sides.items()}
    finally:
        for side in sides.values():
            side.close()
    for name, answers in found.items():
        swaps, under, plain = ([item[part] for item in answers] for part in range(3))
        share = ratio_of_pairs(under, plain)
        rows.append(
            (
                RUNTIMES[name].title,
                spread(swaps),
                spread(cold[name]),
                f"{again[name]:.0f}",
                f"{share.ratio:.2f} ({share.low:.2f}–{share.high:.2f})",
            )
        )
    header = (
        "ms",
        "warm swap",
        "from its file",
        "model loaded again",
        "request under it over plain",
    )
    return table(header, rows), missing, {"requests": found, "cold": cold}


def _with_and_without(side: Side) -> Callable[[int], tuple[float, float, float]]:
    """Swap, and milliseconds of a short request under a task and of the plain model."""

    def ask(number: int) -> tuple[float, float, float]:
        ids = random_ids(_TEXT, number + 99)
        under = side.ask(ids, number % TASKS, 8)
        plain = side.ask(ids, None, 8)
        return (
            under.swap_ms,
            under.ttft_ms + 7 * under.tpot_ms,
            plain.ttft_ms + 7 * plain.tpot_ms,
        )

    return ask


def _among_residents(setting: Setting) -> tuple[str, list[Goal]]:
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    for shape, levels in zip(
        (setting.small, setting.shapes[0]), setting.effort.residents, strict=True
    ):
        tails: list[float] = []
        middles: list[float] = []
        sides, _ = start_sides(["edgept"], setting.files(shape), setting.threads, setting.say)
        with sides["edgept"] as side:
            for count in levels:
                setting.say(f"{count} residents on {shape}")
                held = side.call("fill", count)
                side.call("swaps", 20, 1)
                swaps: list[float] = side.call("swaps", setting.effort.swaps, 2)
                tail = percentile(swaps, 99.0)
                tails += [] if tail is None else [tail * 1e3]
                middles.append(median(swaps) * 1e3)
                last = "n/a" if tail is None else f"{tail * 1e3:.1f}"
                rows.append((shape, str(count), f"{held:.1f}", f"{middles[-1]:.1f}", last))
        if tails:
            what = f"warm swap, p99, {shape}, the worst of 1 to {levels[-1]} residents"
            copied = held / levels[-1] * 1e3
            why = f"{copied:.0f} kB of keys and values are copied from main memory (NOTES.md)"
            goals.append(goal_at_most(what, 20, max(tails), "µs", why))
        what = f"warm swap, median, {shape}, slowest over quickest from {levels[0]} to {levels[-1]}"
        why = "few prompts stay in the processor's cache, many do not"
        goals.append(goal_at_most(what, _FLAT, max(middles) / min(middles), "times", why))
    header = ("model", "residents", "MB", "median, µs", "p99, µs")
    return table(header, rows), goals


def _from_file(setting: Setting) -> tuple[str, list[Goal]]:
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
    return table((f"prompt file of {size:.0f} kB", "ms"), rows), [
        goal_at_most("cold swap, file and checks", 2, median(checks), "ms"),
        goal_of_ratio(
            "cold swap, its keys and values over a prefill of 20 tokens", 1, rest, prefill
        ),
    ]


if __name__ == "__main__":
    run_script(measure, __doc__)
