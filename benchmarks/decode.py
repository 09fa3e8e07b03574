"""Time per output token, against what a user would run instead.

    python -m benchmarks.decode [FOLDER] [--quick]

The plain model after 64 tokens of input, greedy; every side on the same threads in a process of its
own, in turn.
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
from benchmarks.peers import Side, close_all, interleave, start_sides
from benchmarks.runtimes import RUNTIMES, Answer
from edgept.bench.ratio import ratio_of_pairs

__all__ = ["measure"]

_INPUT = 64
_GOALS = {"genai": 0.67, "llama-q4": 0.85}
_WHY = {
    "genai": "88 % of a token are onnxruntime's products and attention, which both run (NOTES.md)",
    "llama-q4": "not known",
}


def measure(setting: Setting) -> Claim:
    """Run all sides on each shape."""
    parts: list[str] = []
    goals: list[Goal] = []
    missing: dict[str, str] = {}
    raw: dict[str, object] = {}
    for shape in setting.shapes:
        body, found, absent, samples = _measure_shape(setting, shape)
        left_out = "" if shape == setting.shapes[0] else setting.say_left_out()
        parts += [f"### {shape}", "", body + left_out, ""]
        goals += found
        missing |= absent
        raw[shape] = samples
    about = (
        f"{_INPUT} tokens of input, {setting.effort.new_tokens} new ones, greedy, "
        f"{setting.say_rounds()}, {setting.threads} threads. Median (quartiles) in ms, and edgept's time "
        "over the peer's with its 95 % interval. edgept's includes detokenisation, the peers' does not."
    )
    return Claim("Time per output token", about, "\n".join(parts), goals, missing, raw)


def _measure_shape(
    setting: Setting, shape: str
) -> tuple[str, list[Goal], dict[str, str], dict[str, dict[int, float]]]:
    effort = setting.effort
    peers = setting.peers if shape == setting.shapes[0] else setting.quick_peers()
    sides, missing = start_sides(
        ["edgept", *peers], setting.files(shape), setting.threads, setting.say
    )
    setting.say(f"decoding on {shape}")

    def asked(side: Side) -> Callable[[int], Answer]:
        return lambda number: side.ask(random_ids(_INPUT, number + 99), None, effort.new_tokens)

    try:
        requests = {name: asked(side) for name, side in sides.items()}
        answers = interleave(effort.rounds, requests, missing, every=effort.every)
    finally:
        close_all(sides)
    # an end of text as the first token leaves nothing to time
    times = {
        name: {at: item.tpot_ms for at, item in found.items() if len(item.token_ids) > 1}
        for name, found in answers.items()
    }
    ours = times["edgept"]
    rows = []
    for name, found in times.items():
        ratio = "" if name == "edgept" else say_ratio(ratio_of_pairs(*paired(ours, found)))
        rows.append((RUNTIMES[name].title, spread(list(found.values())), ratio))
    body = table(("", "ms per token", "edgept over it"), rows)
    if "genai" in answers:
        pairs = list(zip(*paired(answers["edgept"], answers["genai"]), strict=True))
        same = sum(ours.token_ids == theirs.token_ids for ours, theirs in pairs)
        body += (
            f"\n\nedgept's tokens are onnxruntime-genai's in {same} of {len(pairs)} requests; with "
            "random weights, the best two logits are often a rounding apart."
        )
    goals = []
    for name, limit in _GOALS.items():
        what = f"time per output token, {shape}, over {RUNTIMES[name].title}"
        if name in times:
            goals.append(goal_of_ratio(what, limit, *paired(ours, times[name]), _WHY[name]))
        else:
            why = missing.get(name, "not asked for")
            goals.append(not_measured(what, f"at most {limit:g}", why))
    return body, goals, missing, times


if __name__ == "__main__":
    run_script(measure, __doc__)
