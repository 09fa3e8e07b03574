"""Time from a request to its first token, and what a prompt adds to it.

python -m benchmarks.prefill [FOLDER] [--quick]
"""

from collections.abc import Callable

from benchmarks.claim import (
    Claim,
    Goal,
    Setting,
    goal_of_ratio,
    not_measured,
    paired,
    random_ids,
    run_script,
    say_ratio,
    spread,
    table,
)
from benchmarks.files import TASKS
from benchmarks.peers import Side, close_all, interleave, start_sides
from benchmarks.runtimes import RUNTIMES
from edgept.bench.ratio import ratio_of_pairs

__all__ = ["measure"]

_GOALS = {"genai": 0.5, "llama-q4": 1.0}
_WHY = {
    "genai": "most of a prefill is onnxruntime's product, which both run; logits of the last position "
    "alone make 64 tokens 0.85, and chunks make 512 tokens 0.90 (NOTES.md)",
    "llama-q4": "not known",
}
_PROMPTED = 64  # tokens of input for a prompt's share


def measure(setting: Setting) -> Claim:
    """Run all sides on the first shape, and the prompt's share on edgept."""
    effort, shape = setting.effort, setting.shapes[0]
    sides, missing = start_sides(
        ["edgept", *setting.peers], setting.files(shape), setting.threads, setting.say
    )
    times: dict[int, dict[str, dict[int, float]]] = {}
    try:
        for length in effort.lengths:
            setting.say(f"prefill of {length} tokens on {shape}")
            asked = {
                name: _first(side, length)
                for name, side in sides.items()
                if name not in missing
                and (length == effort.lengths[0] or name not in effort.left_out)
            }
            times[length] = interleave(effort.rounds, asked, missing, every=effort.every)
        setting.say("first token with a prompt and without")
        with_prompt, without = _prompted(sides["edgept"], 2 * effort.rounds)
    finally:
        close_all(sides)
    rows, goals = [], []
    for length, found in times.items():
        for name, values in found.items():
            pairs = paired(found["edgept"], values)
            ratio = "" if name == "edgept" else say_ratio(ratio_of_pairs(*pairs))
            spreads = spread(list(values.values()))
            rows.append((RUNTIMES[name].title, str(length), spreads, ratio))
        goals += [_goal(name, length, found, missing) for name in _GOALS]
    share = ratio_of_pairs(with_prompt, without)
    body = table(("", "tokens", "ms to the first token", "edgept over it"), rows) + (
        f"{setting.say_left_out('of the longer prefill')}\n\nedgept, {_PROMPTED} tokens of text: {spread(without)} ms without a prompt, "
        f"{spread(with_prompt)} ms with one of 20 virtual tokens ({TASKS} residents in turn); ratio "
        f"{say_ratio(share)}."
    )
    what = "time to first token with 20 virtual tokens over without"
    goals.append(goal_of_ratio(what, 1.02, with_prompt, without))
    about = (
        f"The plain model of shape {shape}; from the call to the first token's id, of "
        f"{setting.say_rounds()}, {setting.threads} threads. Median (quartiles), and edgept's time over the "
        "peer's with its 95 % interval. On this file onnxruntime-genai computes the logits of all positions "
        "(logits_to_keep defaults to all) and runs a long request in one piece; edgept computes the last "
        "position's only and runs chunks of 128 tokens."
    )
    raw = {"prefill": times, "with_prompt": with_prompt, "without": without}
    return Claim("Prefill and first token", about, body, goals, missing, raw)


def _first(side: Side, length: int) -> Callable[[int], float]:
    """A short request that wakes the side up after the others' turns, and one that counts."""

    def ask(number: int) -> float:
        side.ask(random_ids(8, number + 500), None, 1)
        return side.ask(random_ids(length, number + 99), None, 1).ttft_ms

    return ask


def _prompted(side: Side, pairs: int) -> tuple[list[float], list[float]]:
    """First tokens with and without a prompt, A B, B A and so on."""
    side.call("load_tasks", TASKS)
    with_prompt: list[float] = []
    without: list[float] = []
    for number in range(-4, pairs):
        series = {number % TASKS: with_prompt, None: without}
        for task in list(series)[:: 1 if number % 2 else -1]:
            first = side.ask(random_ids(_PROMPTED, number + 99), task, 1).ttft_ms
            if number >= 0:
                series[task].append(first)
    return with_prompt, without


def _goal(
    name: str, length: int, found: dict[str, dict[int, float]], missing: dict[str, str]
) -> Goal:
    what = f"prefill of {length} tokens over {RUNTIMES[name].title}"
    if name not in found:
        return not_measured(what, f"at most {_GOALS[name]:g}", missing.get(name, "not asked for"))
    return goal_of_ratio(what, _GOALS[name], *paired(found["edgept"], found[name]), _WHY[name])


if __name__ == "__main__":
    run_script(measure, __doc__)
