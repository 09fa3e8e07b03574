"""The scripts under benchmarks/, each at its smallest, on a tiny model and without peers."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as everything
from benchmarks import peers
from benchmarks.claim import (
    FULL,
    QUICK,
    SMALL,
    Claim,
    Effort,
    Setting,
    goal_of_ratio,
    goals_table,
    paired,
    random_ids,
)
from benchmarks.disturbance import Disturbance
from benchmarks.files import Files
from benchmarks.gguf_files import _interleave
from benchmarks.peers import Missing, Side, interleave, prepared_mark, start_sides
from benchmarks.picture_operators import shares
from benchmarks.runtimes import RUNTIMES, Answer
from benchmarks.swap import _resident_goals
from edgept.bench import ratio
from edgept.bench.ceilings import _prefill_operations
from edgept.bench.ratio import FEWEST, ratio_of_pairs, ratio_of_series
from edgept.bench.statistics import SAMPLES_FOR
from edgept.bundle import read_manifest

SHAPE = "tiny"


@pytest.fixture(scope="module")
def setting(
    tmp_path_factory: pytest.TempPathFactory,
    bundle_of: Callable[..., Path],
    model_folder: Callable[[str], Path],
) -> Setting:
    from edgept import Prompt, write_prompt
    from edgept.prompt_source import bind

    folder = tmp_path_factory.mktemp("benchmarks")
    files = Files(folder / SHAPE)
    files.folder.mkdir()
    files.model.symlink_to(model_folder("llama"))
    files.bundle.symlink_to(bundle_of("llama"))
    manifest = read_manifest(files.bundle)
    for number, path in enumerate(files.prompts):
        rows = np.random.default_rng(number).normal(0, 0.2, (20, 64)).astype(np.float32)
        write_prompt(bind(Prompt({"prompt_embeds": rows}, name=path.stem), manifest), path)
    prepared_mark("edgept", files).touch()
    encoder = Files(folder / "minilm")
    encoder.folder.mkdir()
    encoder.model.symlink_to(model_folder("bert"))
    return Setting(folder, 1, SMALL, peers=(), shapes=(SHAPE,), small=SHAPE)


@pytest.fixture(scope="module")
def side(setting: Setting) -> Iterator[Side]:
    with Side("edgept", setting.files(SHAPE), 1) as started:
        yield started


GOALS = {
    "ceilings": 1,
    "memory": 2,
    "cold_start": 2,
    "prefill": 3,
    "batch": 1,
    "swap": 6,
    "first_table": 0,
    "decode": 2,
    "levers": 0,
    "encoder_levers": 0,
    "encoders": 8,
}


# these export models of their own
SLOW = (
    {"encoders", "levers", "encoder_levers"} if not os.environ.get("EDGEPT_FULL_MATRIX") else set()
)


@pytest.mark.parametrize("script", [name for name in GOALS if name not in SLOW])
def test_script_measures(script: str, setting: Setting) -> None:
    claim: Claim = import_module(f"benchmarks.{script}").measure(setting)
    assert len(claim.goals) == GOALS[script]
    assert all(goal.verdict == "not measured" for goal in claim.goals if "over llama" in goal.what)
    assert claim.missing == {}
    assert "| --- |" in claim.page()
    assert " nan" not in claim.page()
    assert claim.raw


def test_c_runtime_measures(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import c_runtime
    from tests.c_library import make

    make("all", "build/measure", "size")  # skips where it cannot be built
    monkeypatch.setattr(c_runtime, "_REAL", Path("nowhere") / "stories260K")
    claim = c_runtime.measure(setting)
    verdicts = [goal.verdict for goal in claim.goals if "per output token" in goal.what]
    assert verdicts == ["too few samples"] * 2
    memory = [goal for goal in claim.goals if "peak memory" in goal.what]
    assert [goal.verdict for goal in memory] == ["met"] * 3
    starts = claim.raw[f"{SHAPE} starts"]
    for run in starts:
        parts = [run[f"{name}_ms"] for name in ("to_main", "session", "run", "own")]
        assert min(parts) > 0
        assert sum(parts) == pytest.approx(run["start_to_ready_ms"], abs=0.01)


def test_operators_of_an_image_model(image_bundle_of: Callable[..., Path]) -> None:
    found = shares(image_bundle_of("vit"), threads=1, runs=2)
    assert {"MatMul", "Attention", "LayerNormalization"} <= found.keys()
    assert [*found.values()] == sorted(found.values(), reverse=True)


def test_page_has_every_goal_and_what_is_missing(setting: Setting) -> None:
    goals = [
        goal_of_ratio("this", 0.9, [1.0, 1.1] * 16, [2.0, 2.2] * 16),
        goal_of_ratio("that", 0.9, [2.0, 2.2] * 16, [1.0, 1.1] * 16, "as it is"),
    ]
    claim = Claim("Title", "about", "body", goals, {"llama-q4": "no such package"})
    page = everything.make_page(setting, "python -m benchmarks", [claim], ["note"], 60)
    assert "1 of 2 met" in page
    assert goals_table(goals) in page
    assert "Missing: llama.cpp, Q4_0: no such package" in page
    assert [goal.verdict for goal in goals] == ["met", "not met"]


def test_interval_that_holds_the_goal_is_not_certain() -> None:
    random = np.random.default_rng(0)
    noise = np.exp(random.normal(0, 0.2, 40)).tolist()
    assert goal_of_ratio("this", 1.0, noise, [1.0] * 40).verdict == "not certain"


@pytest.mark.parametrize("rounds", [1, 2, 12, FEWEST - 1])
def test_few_rounds_meet_no_goal_and_miss_none(rounds: int) -> None:
    for this in (0.5, 2.0):
        goal = goal_of_ratio("this", 1.0, [this] * rounds, [1.0] * rounds, "as it is")
        assert goal.verdict == "too few samples"
        assert (
            goal.why == f"{rounds} pairs are worth {rounds} independent ones, {FEWEST} are needed"
        )
    assert goal_of_ratio("this", 1.0, [], []).verdict == "not measured"


def test_rounds_that_resemble_each_other_meet_no_goal() -> None:
    drifting = np.exp(np.linspace(-1, 0, QUICK.rounds)).tolist()
    assert goal_of_ratio("this", 1.5, drifting, [1.0] * QUICK.rounds).verdict == "too few samples"


@pytest.mark.parametrize("effort", [QUICK, FULL])
def test_efforts_have_pairs_enough_for_goals(effort: Effort) -> None:
    assert min(effort.rounds, effort.starts) >= FEWEST
    assert effort.swaps >= SAMPLES_FOR[99.0]


def test_long_series_are_resampled_in_slices_and_give_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(0)
    pair = [np.exp(random.normal(0, 0.1, 40)).tolist() for _ in range(2)]
    whole = ratio_of_pairs(*pair), ratio_of_series(*pair)
    monkeypatch.setattr(ratio, "_PICKED", 40 * 7)
    assert (ratio_of_pairs(*pair), ratio_of_series(*pair)) == whole


def test_resident_swaps_are_judged_by_their_tails() -> None:
    swaps = [10.0] * 690 + [18.0] * 10  # µs
    flat = {1: swaps, 10_000: swaps}
    assert [goal.verdict for goal in _resident_goals("tiny", flat, 5e3)] == ["met"] * 2
    fewer = {1: swaps, 1000: swaps}
    assert [goal.verdict for goal in _resident_goals("tiny", fewer, 5e3)] == ["not certain"] * 2
    # the same median
    tail = {1: swaps, 1000: [10.0] * 690 + [40.0] * 10}
    assert [goal.verdict for goal in _resident_goals("tiny", tail, 5e3)] == ["not met"] * 2


def test_prefill_multiplies_by_weights_and_by_the_head_once(setting: Setting) -> None:
    vocab, hidden, weights = 1000, 64, 1_000_000
    manifest = replace(
        read_manifest(setting.files(SHAPE).bundle), vocab_size=vocab, hidden_size=hidden
    )
    products = 2.0 * ((weights - vocab * hidden) * 64 + vocab * hidden)
    for precision, block, size in (("fp32", None, 4), ("int4", None, 0.625), ("int4", 64, 0.5625)):
        given = replace(manifest, precision=precision, block_size=block)
        found = _prefill_operations(given, int(weights * size), 64)
        assert found == pytest.approx(products), precision


def test_side_answers_as_the_runtime_does(side: Side, setting: Setting) -> None:
    import edgept

    ids = random_ids(8, 0)
    model = edgept.load(setting.files(SHAPE).bundle, threads=1)
    expected = model.generate(ids, max_new_tokens=4).token_ids
    answer = side.ask(ids, None, 4)
    assert answer.token_ids == expected
    assert 0 < answer.tpot_ms <= answer.ttft_ms * 10


def test_side_that_fails_is_missing_with_its_reason(setting: Setting) -> None:
    with (
        Side("edgept", setting.files(SHAPE), 1) as failing,
        pytest.raises(Missing, match=r"AttributeError: .*juggle"),
    ):
        failing.call("juggle")


def test_peer_that_cannot_be_prepared_is_named(
    monkeypatch: pytest.MonkeyPatch, setting: Setting
) -> None:
    def refuse(name: str, files: Files) -> None:
        raise Missing(f"no package for {name} in {files.shape}")

    monkeypatch.setattr(peers, "prepare", refuse)
    sides, missing = start_sides(["llama-q4"], setting.files(SHAPE), 1, lambda _: None)
    assert (sides, missing) == ({}, {"llama-q4": "no package for llama-q4 in tiny"})
    with pytest.raises(Missing, match="no package for edgept"):  # nothing is left to compare
        start_sides(["edgept"], setting.files(SHAPE), 1, lambda _: None)


def test_interleaving_turns_around_and_drops_the_warm_up() -> None:
    seen: list[str] = []

    def run(name: str) -> Callable[[int], int]:
        return lambda number: seen.append(name) or number  # type: ignore[func-returns-value]

    found = interleave(2, {"a": run("a"), "b": run("b")}, {})
    assert found == {"a": {0: 0, 1: 1}, "b": {0: 0, 1: 1}}
    assert len(seen) == 8


def test_no_side_follows_itself_and_some_come_seldom() -> None:
    seen: list[str] = []

    def run(name: str) -> Callable[[int], None]:
        return lambda _: seen.append(name)

    for names in ("ab", "abc", "abcdefg"):
        seen.clear()
        interleave(12, {name: run(name) for name in names}, {})
        assert all(first != second for first, second in pairwise(seen))
        assert {seen.count(name) for name in names} == {14}
    # none is always behind the same one
    assert {first for first, second in pairwise(seen) if second == "c"} == {"b", "d"}
    seen.clear()
    found = interleave(12, {"a": run("a"), "b": run("b"), "c": run("c")}, {}, every=5, often="ab")
    assert [list(found[name]) for name in "abc"] == [list(range(12))] * 2 + [[0, 5, 10]]
    assert seen.count("c") == 4  # one to warm up
    assert all(first != second for first, second in pairwise(seen))
    assert paired({0: 1, 5: 2, 6: 3}, {0: 4, 6: 5, 7: 6}) == ([1, 3], [4, 5])


def test_side_that_dies_midway_is_missing_and_the_others_go_on() -> None:
    def die(number: int) -> int:
        if number == 3:
            raise Missing("ended by SIGKILL")
        return number

    missing: dict[str, str] = {}
    found = interleave(5, {"edgept": lambda number: number, "genai": die}, missing)
    assert missing == {"genai": "ended by SIGKILL"}
    assert found == {"edgept": {number: number for number in range(5)}}
    with pytest.raises(Missing, match="SIGKILL"):
        interleave(5, {"edgept": die, "genai": lambda number: number}, missing)


def test_peer_that_dies_midway_costs_its_goals_only(
    monkeypatch: pytest.MonkeyPatch, setting: Setting
) -> None:
    """A side that has everything but its life: edgept's, under another name."""
    monkeypatch.setattr(peers, "prepare", lambda *_: None)
    monkeypatch.setitem(RUNTIMES, "genai", RUNTIMES["edgept"])
    asked = Side.ask

    def ask(side: Side, ids: list[int], task: int | None, new_tokens: int) -> Answer:
        if side.name == "genai" and len(ids) > 8:
            side.call("juggle")
        return asked(side, ids, task, new_tokens)

    monkeypatch.setattr(Side, "ask", ask)
    claim = import_module("benchmarks.decode").measure(replace(setting, peers=("genai",)))
    assert "juggle" in claim.missing["genai"]
    assert "edgept, int4" in claim.body
    assert [goal.verdict for goal in claim.goals] == ["not measured"] * 2


def test_run_goes_on_without_a_script_that_edgept_cannot_finish(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: Setting
) -> None:
    def fail(_: Setting) -> Claim:
        raise Missing("ended by SIGILL")

    fine = Claim("Fine", "", "", [goal_of_ratio("this", 0.9, [1.0] * 40, [2.0] * 40)], raw={"a": 1})
    monkeypatch.setattr("benchmarks.memory.measure", fail)
    monkeypatch.setattr("benchmarks.batch.measure", lambda _: fine)
    monkeypatch.setattr(everything, "SCRIPTS", ("memory", "batch"))
    monkeypatch.setattr(everything, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(everything, "parse_setting", lambda _: setting)
    for others, verdict in ((0.05, "met"), (0.2, "met, disturbed")):
        monkeypatch.setattr(Disturbance, "share", lambda _, others=others: others)
        everything.main()
        page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
        assert "edgept itself did not finish: ended by SIGILL" in page
        assert f"| {verdict} |" in page
        assert ("**Disturbed**" in page) == (others > 0.1)
    assert "0 of 2 met" in page


def test_heads_are_turned_for_llama_cpp() -> None:
    weight = np.arange(8, dtype=np.float32)[:, None]  # two heads of four rows
    assert _interleave(weight, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_disturbance_is_what_others_took(tmp_path: Path) -> None:
    stat = tmp_path / "proc" / "stat"
    stat.parent.mkdir()
    stat.write_text("cpu 100 0 0 900 0 0 0 0 0 0\n")
    before = Disturbance.begin(tmp_path)
    time.sleep(0.02)
    tick = os.sysconf("SC_CLK_TCK")
    stat.write_text(f"cpu {100 + 10 * tick} 0 0 900 0 0 0 0 0 0\n")  # ten seconds more
    earliest = time.monotonic() - before.wall_s
    share = before.share(tmp_path)
    latest = time.monotonic() - before.wall_s
    cores = os.cpu_count() or 1
    own = Disturbance.begin(tmp_path).own_s - before.own_s
    assert (10 - own) / (latest * cores) <= share <= 10 / (earliest * cores)
    assert Disturbance.begin(tmp_path).share(tmp_path) == 0
