"""Sentence vectors of a MiniLM: edgept's exports against onnxruntime's own optimizer and OpenVINO.

    python -m benchmarks.encoders [FOLDER] [--quick]

edgept's time is that of its public call, pooling and normalisation included; the others' is the graph's. What
edgept's graph takes alone stands beside it.
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
from benchmarks.peers import Missing, Side, close_all, interleave, start_sides
from benchmarks.runtimes import RUNTIMES
from edgept.bench.ratio import ratio_of_pairs

__all__ = ["measure"]

# edgept's export, the peers of its kind
_KINDS = {
    "encoder": ("encoder-fused", "encoder-openvino"),
    "encoder-dynamic": ("encoder-fused-int8",),
}
_OTHERS = ("encoder-int8", "encoder-openvino-bf16")
_SHAPE = "minilm"
_VIRTUAL_TOKENS = 20
_GRAPH = " graph"  # behind the name of a side: its graph alone


def measure(setting: Setting) -> Claim:
    """Every batch and length."""
    files = setting.files(_SHAPE)
    peers = [peer for names in _KINDS.values() for peer in names] if setting.peers else []
    names = [*_KINDS, *peers, *_OTHERS[: len(peers)]]
    sides, missing = start_sides(names, files, setting.threads, setting.say)
    if not _KINDS.keys() <= sides.keys():
        close_all(sides)
        raise Missing("; ".join(missing.values()))
    rows: list[tuple[str, ...]] = []
    found: dict[tuple[str, str], list[Goal]] = {}
    raw: dict[str, object] = {}
    ours_all = (*_KINDS, *(name + _GRAPH for name in _KINDS))
    prompts: dict[str, list[Goal]] = {name: [] for name in _KINDS}
    try:
        for batch, length in setting.effort.encoder_batches:
            setting.say(f"{batch} texts of {length} tokens")
            case = f"{batch} × {length}"
            runs = {name: _run(side, batch, length) for name, side in sides.items()}
            runs |= {
                name + _GRAPH: _run(sides[name], batch, length, "run_graph") for name in _KINDS
            }
            results = interleave(
                setting.effort.rounds,
                runs,
                missing,
                often=[*ours_all, *peers],
                every=setting.effort.every,
            )
            raw[case] = results
            for name, times in results.items():
                cells = [case, _title(name), spread(list(times.values()))]
                for ours in ours_all:
                    shown = ours in _KINDS
                    if name == ours or ours not in results:
                        cells += [""] if shown else []
                        continue
                    this, other = paired(results[ours], times)
                    if shown:
                        cells.append(say_ratio(ratio_of_pairs(this, other)))
                    if name in _KINDS[ours.removesuffix(_GRAPH)]:
                        goal = goal_of_ratio(case, 1.0, this, other, "see the table")
                        found.setdefault((ours, name), []).append(goal)
                rows.append(tuple(cells))
            for name, goals in prompts.items():
                goals.append(_with_prompt(sides[name], setting.effort.rounds, batch, length))
    finally:
        close_all(sides)
    header = ("texts × tokens", "", "ms", *(f"{_title(name)} over it" for name in _KINDS))
    about = (
        f"all-MiniLM-L6-v2's shape, {setting.threads} threads, {setting.effort.rounds} interleaved "
        "rounds. edgept's time is that of `embed_batch` on token ids, pooled and normalised; the others' is "
        "that of their graph alone, beside which edgept's graph alone stands, too. Median (quartiles)."
    )
    goals = []
    for ours in ours_all:
        for peer in _KINDS[ours.removesuffix(_GRAPH)]:
            what = f"sentence vectors, {_title(ours)} over {_title(peer)}"
            if (ours, peer) in found:
                goals.append(_worst(what, found[ours, peer]))
            else:
                goals.append(not_measured(what, "at most 1", missing.get(peer, "not asked for")))
    goals += [
        _worst(
            f"{_title(name)}: {_VIRTUAL_TOKENS} virtual tokens over as many tokens more of text",
            cases,
        )
        for name, cases in prompts.items()
    ]
    return Claim("Encoders", about, table(header, rows), goals, missing, raw)


def _title(name: str) -> str:
    title = RUNTIMES[name.removesuffix(_GRAPH)].title
    return f"{title}, its graph alone" if name.endswith(_GRAPH) else title


def _run(side: Side, batch: int, length: int, method: str = "run") -> Callable[[int], float]:
    def run(number: int) -> float:
        texts = [random_ids(length, 100 * number + row + 9999) for row in range(batch)]
        took: float = side.call(method, texts, 0)
        return took

    return run


def _with_prompt(side: Side, rounds: int, batch: int, length: int) -> Goal:
    """Texts under a prompt, and texts that are as much longer, in turning order."""
    under: list[float] = []
    longer: list[float] = []
    for number in range(-2, rounds):
        cases = ((length, _VIRTUAL_TOKENS, under), (length + _VIRTUAL_TOKENS, 0, longer))
        for tokens, prompt, series in cases[:: 1 if number % 2 else -1]:
            texts = [random_ids(tokens, 100 * number + row + 9999) for row in range(batch)]
            took: float = side.call("run", texts, prompt)
            if number >= 0:
                series.append(took)
    return goal_of_ratio(f"{batch} × {length}", 1.02, under, longer)


def _worst(what: str, goals: list[Goal]) -> Goal:
    """One goal for all batches and lengths: the case that is furthest from it."""
    worst = max(goals, key=lambda goal: float(goal.measured.split()[0]))
    return Goal(
        f"{what}, the worst of {len(goals)} cases ({worst.what})",
        worst.goal,
        worst.measured,
        worst.verdict,
        worst.why,
    )


if __name__ == "__main__":
    run_script(measure, __doc__)
