"""The scripts under benchmarks/, each at its smallest, on a tiny model and without peers."""

import os
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as everything
from benchmarks import peers
from benchmarks.claim import SMALL, Claim, Setting, goal_of_ratio, goals_table, random_ids
from benchmarks.disturbance import Disturbance
from benchmarks.files import Files
from benchmarks.gguf_files import _interleave
from benchmarks.peers import Missing, Side, interleave, prepared_mark, start_sides

SHAPE = "tiny"


@pytest.fixture(scope="module")
def setting(
    tmp_path_factory: pytest.TempPathFactory,
    bundle_of: Callable[..., Path],
    model_folder: Callable[[str], Path],
) -> Setting:
    from edgept import Prompt, write_prompt
    from edgept.bundle import read_manifest
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
    "swap": 4,
    "first_table": 0,
    "decode": 2,
    "levers": 0,
}


@pytest.mark.parametrize("script", [*everything.SCRIPTS, "levers"])
def test_script_measures(script: str, setting: Setting) -> None:
    claim: Claim = import_module(f"benchmarks.{script}").measure(setting)
    assert len(claim.goals) == GOALS[script]
    assert all(goal.verdict == "not measured" for goal in claim.goals if "over llama" in goal.what)
    assert claim.missing == {}
    assert "| --- |" in claim.page()
    assert " nan" not in claim.page()
    assert claim.raw


def test_page_has_every_goal_and_what_is_missing(setting: Setting) -> None:
    goals = [
        goal_of_ratio("this", 0.9, [1.0, 1.1] * 10, [2.0, 2.2] * 10),
        goal_of_ratio("that", 0.9, [2.0, 2.2] * 10, [1.0, 1.1] * 10, "as it is"),
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


def test_interleaving_turns_around_and_drops_the_warm_up() -> None:
    seen: list[str] = []

    def run(name: str) -> Callable[[int], int]:
        return lambda number: seen.append(name) or number  # type: ignore[func-returns-value]

    assert interleave(2, {"a": run("a"), "b": run("b")}) == {"a": [0, 1], "b": [0, 1]}
    assert "".join(seen) in {"baabbaab", "abbaabba"}


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
