"""Vision transformers at 224 pixels: edgept's exports against PyTorch, onnxruntime and OpenVINO.

    python -m benchmarks.pictures [FOLDER] [--quick]

Every side gets pixel values and gives what its graph gives; what preparing a picture takes stands beside it.
"""

from collections.abc import Callable

from benchmarks.claim import (
    NOT_KNOWN,
    Claim,
    Goal,
    Setting,
    goal_of_ratio,
    not_measured,
    paired,
    run_script,
    say_ratio,
    spread,
    table,
)
from benchmarks.peers import Missing, Side, close_all, interleave, start_sides
from benchmarks.runtimes import RUNTIMES
from edgept.bench.ratio import ratio_of_pairs

__all__ = ["measure"]

_OURS, _DYNAMIC = "vision", "vision-dynamic"
_PEERS = ("vision-onnxruntime", "vision-pytorch", "vision-openvino")
_SHAPES = ("vit-tiny", "vit-base")
_PATCHES = 196
_DEEP = 10  # virtual tokens in every layer
# what it is compared with, and how long it may take at most, by a peer's name
_GOALS = {"vision-onnxruntime": 1.0, "vision-pytorch": 0.55, "vision-openvino": 1.0}
# of goals that were not met, what `benchmarks.picture_operators` says (NOTES.md)
_WHY = {
    ("vit-tiny", _DYNAMIC): "products with weights are half of the float run, the rest stays float",
    ("vit-tiny", _OURS): "float32 products are half of the run, attention a fifth",
    ("vit-base", _OURS): "float32 products are 0.85 of the run, and PyTorch's are as quick",
}


def measure(setting: Setting) -> Claim:
    """Both shapes, one picture at a time."""
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    raw: dict[str, object] = {}
    absent: dict[str, str] = {}
    for shape in _SHAPES:
        names = [_OURS, _DYNAMIC, *(_PEERS if setting.peers else ())]
        files = setting.files(shape)
        sides, missing = start_sides(names, files, setting.threads, setting.say)
        absent |= missing
        if not {_OURS, _DYNAMIC} <= sides.keys():
            close_all(sides)
            raise Missing("; ".join(missing.values()))
        setting.say(shape)
        try:
            runs = {name: _run(side, 0) for name, side in sides.items()}
            runs[_deep(_OURS)] = _run(sides[_OURS], _DEEP)
            runs[_whole(_OURS)] = _see(sides[_OURS])
            results = interleave(
                setting.effort.rounds, runs, missing, often=[*runs], every=setting.effort.every
            )
        finally:
            close_all(sides)
        raw[shape] = results
        ours = results[_OURS]
        for name, times in results.items():
            this, other = paired(times, ours)
            ratio = "" if name == _OURS else say_ratio(ratio_of_pairs(this, other))
            rows.append((shape, _title(name), spread(list(times.values())), ratio))
        goals += _goals(shape, results, missing)
    header = ("", "", "ms a picture", f"over {RUNTIMES[_OURS].title}")
    about = (
        f"ViT-Tiny's and ViT-Base's shapes, random weights, one picture of 224 x 224 pixels at a time, "
        f"{setting.threads} threads, {setting.effort.rounds} interleaved rounds, each side in a process of "
        "its own. edgept's runs have a head of five classes from a prompt file. Median (quartiles)."
    )
    return Claim("Pictures", about, table(header, rows), goals, absent, raw)


def _goals(shape: str, results: dict[str, dict[int, float]], missing: dict[str, str]) -> list[Goal]:
    ours = results[_OURS]
    share = (1 + _PATCHES + _DEEP) / (1 + _PATCHES)
    wanted = [(_OURS, peer, most) for peer, most in _GOALS.items()]
    wanted += [(_deep(_OURS), "vision-onnxruntime", share), (_DYNAMIC, _OURS, 0.6)]
    goals = []
    for name, peer, most in wanted:
        what = f"{shape}: {_title(name)} over {_title(peer)}"
        if peer not in results:
            goals.append(
                not_measured(what, f"at most {most:.2f}", missing.get(peer, "not asked for"))
            )
            continue
        this, other = paired(results[name], ours if peer == _OURS else results[peer])
        goals.append(goal_of_ratio(what, most, this, other, _WHY.get((shape, name), NOT_KNOWN)))
    return goals


def _deep(name: str) -> str:
    return f"{name} deep"


def _whole(name: str) -> str:
    return f"{name} whole"


def _title(name: str) -> str:
    kind, _, part = name.partition(" ")
    behind = {
        "deep": f", {_DEEP} deep virtual tokens",
        "whole": ", the same from a photo of 640 x 480",
    }
    return RUNTIMES[kind].title + behind.get(part, "")


def _run(side: Side, virtual_tokens: int) -> Callable[[int], float]:
    def run(number: int) -> float:
        took: float = side.call("run", 1, virtual_tokens, 100 + number)
        return took

    return run


def _see(side: Side) -> Callable[[int], float]:
    def see(number: int) -> float:
        took: float = side.call("see", 100 + number)
        return took

    return see


if __name__ == "__main__":
    run_script(measure, __doc__)
