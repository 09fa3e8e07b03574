"""From the start of a process to its first token, and the part of it that loads the model.

python -m benchmarks.cold_start [FOLDER] [--quick]
"""

import time
from collections.abc import Callable
from statistics import median

from benchmarks.claim import (
    Claim,
    Goal,
    Setting,
    goal_at_most,
    goal_of_ratio,
    not_measured,
    paired,
    random_ids,
    run_script,
    spread,
    table,
)
from benchmarks.files import Files
from benchmarks.peers import Missing, Side, interleave, prepare
from benchmarks.runtimes import RUNTIMES

__all__ = ["measure"]

_TEXT = 8  # tokens
_OFTEN = ("edgept", "llama-q4")  # their ratio is a goal


def measure(setting: Setting) -> Claim:
    """Start every side again and again, in turn."""
    files = setting.files(setting.shapes[0])
    names: list[str] = []
    missing: dict[str, str] = {}
    for name in ("edgept", *setting.quick_peers()):
        setting.say(f"starting {RUNTIMES[name].title}")
        try:
            prepare(name, files)
            _start(name, files, setting.threads)  # files into the system's cache
            names.append(name)
        except Missing as why:
            missing[name] = str(why)
            if name == "edgept":
                raise
    setting.say("cold starts")
    effort = setting.effort
    found = interleave(
        effort.starts,
        {name: _starter(name, files, setting.threads) for name in names},
        missing,
        every=-(-effort.starts // effort.other_starts),
        often=_OFTEN,
        warm_up=0,
    )
    rows = []
    for name, starts in found.items():
        whole, loads = zip(*starts.values(), strict=True)
        rows.append((RUNTIMES[name].title, spread(whole), spread(loads)))
    loading = {
        name: {number: load for number, (_, load) in starts.items()}
        for name, starts in found.items()
    }
    what = "session creation over llama.cpp's load of Q4_0"
    goals: list[Goal] = [
        goal_at_most(
            "cold start, process to first token",
            0.8,
            median(whole for whole, _ in found["edgept"].values()) / 1e3,
            "s",
        ),
        goal_of_ratio(
            what,
            1.5,
            *paired(loading["edgept"], loading["llama-q4"]),
            "onnxruntime packs the weights at every load: 0.3 of its session creation (NOTES.md)",
        )
        if "llama-q4" in loading
        else not_measured(what, "at most 1.5", missing.get("llama-q4", "not asked for")),
    ]
    about = (
        f"A Python process that imports its runtime, loads {setting.shapes[0]} and answers {_TEXT} tokens "
        f"with one; {effort.starts} of edgept and llama.cpp's Q4_0 in turn, {effort.other_starts} of each other "
        f"side among them, files in the system's cache, {setting.threads} threads. Loading is without imports; edgept's compares every file with its "
        "SHA-256. Median (quartiles) in ms."
    )
    body = table(("", "process to first token", "of it, loading"), rows)
    body += setting.say_left_out()
    return Claim("Cold start", about, body, goals, missing, raw=dict(found))


def _starter(name: str, files: Files, threads: int) -> Callable[[int], tuple[float, float]]:
    return lambda _: _start(name, files, threads)


def _start(name: str, files: Files, threads: int) -> tuple[float, float]:
    """Milliseconds to the first token and of loading."""
    began = time.perf_counter()
    with Side(name, files, threads) as side:
        side.ask(random_ids(_TEXT, 0), None, 1)
        return (time.perf_counter() - began) * 1e3, side.load_ms


if __name__ == "__main__":
    run_script(measure, __doc__)
