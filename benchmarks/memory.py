"""Peak memory over the weights' bytes, and what a resident prompt costs.

python -m benchmarks.memory [FOLDER] [--quick]
"""

from benchmarks.claim import Claim, Setting, goal_at_most, random_ids, run_script, table
from benchmarks.peers import Missing, Side, prepare
from benchmarks.runtimes import RUNTIMES

__all__ = ["measure"]

_TEXT = 64  # tokens
_NEW_TOKENS = 8
_OVER_MB = 90
_SLACK = 1.05  # of a prompt's own bytes: what the allocator and Python objects add


def measure(setting: Setting) -> Claim:
    """Each side alone: load, answer, and read the highest resident memory that the kernel saw."""
    files = setting.files(setting.shapes[0])
    rows = []
    missing: dict[str, str] = {}
    raw: dict[str, tuple[float, float]] = {}
    for name in ("edgept", *setting.peers):
        setting.say(f"memory of {RUNTIMES[name].title}")
        try:
            prepare(name, files)
            with Side(name, files, setting.threads) as side:
                side.ask(random_ids(_TEXT, 0), None, _NEW_TOKENS)
                weights = side.call("weight_bytes") / 1e6
                peak = side.call("memory", "VmHWM") / 1e6
        except Missing as why:
            missing[name] = str(why)
            if name == "edgept":
                raise
            continue
        raw[name] = weights, peak
        rows.append(
            (RUNTIMES[name].title, *(f"{size:.0f}" for size in (weights, peak, peak - weights)))
        )
    setting.say("memory of resident prompts")
    with Side("edgept", files, setting.threads) as side:
        said, grown = side.call("resident_cost", setting.effort.prompts)
    weights, peak = raw["edgept"]
    body = table(("MB", "weights' files", "peak resident", "above the weights"), rows) + (
        f"\n\nA resident prompt of 20 virtual tokens, as one of {setting.effort.prompts}: its rows, keys "
        f"and values are {said / 1e3:.1f} kB, and the process grows by {grown / 1e3:.1f} kB."
    )
    about = (
        f"One process each: {setting.shapes[0]} loaded, {_TEXT} tokens of input, "
        f"{_NEW_TOKENS} new ones, {setting.threads} threads; the kernel's VmHWM, in which "
        "files that are mapped count. Python itself is in it."
    )
    goals = [
        goal_at_most(
            "peak memory above the weights",
            _OVER_MB,
            peak - weights,
            "MB",
            "packed for onnxruntime's kernels, the weights of an 87 MB file take 115 MB (NOTES.md)",
        ),
        goal_at_most(
            "memory of a resident prompt over its rows and keys", _SLACK, grown / said, ""
        ),
    ]
    return Claim("Memory", about, body, goals, missing, {"megabytes": raw, "prompt": (said, grown)})


if __name__ == "__main__":
    run_script(measure, __doc__)
