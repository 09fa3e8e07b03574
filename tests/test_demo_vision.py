"""The vision demo's files, its generated pictures, and `edgept demo vision` as a newcomer runs it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edgept.cli import main
from edgept.demo.look import HEADS, MODEL, PROMPTS
from edgept.demo.scenes import GROUNDS, make_scene
from edgept.demo.shapes import SHAPES, THINGS
from edgept.demo.things import GROUPS
from edgept.demo.views import AREAS, TASKS, group_of, main_thing, make_view, to_classes, write_data


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("demo") / "seen"
    result = CliRunner().invoke(main, ["demo", "vision", "-o", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


def test_what_is_shipped_is_small() -> None:
    files = [path for folder in (MODEL, PROMPTS, HEADS) for path in folder.iterdir()]
    assert {path.stem for path in PROMPTS.iterdir()} == set(TASKS)
    assert sum(path.stat().st_size for path in files) < 4e6


def test_the_model_never_saw_the_things_that_the_prompts_find() -> None:
    assert not set(SHAPES) & set(THINGS)
    assert {kind for kinds in GROUPS.values() for kind in kinds} == set(THINGS)


def test_a_scene_says_where_its_things_are() -> None:
    grounds = set()
    for seed in range(60):
        scene = make_scene(np.random.default_rng(seed), THINGS, most=4)
        again = make_scene(np.random.default_rng(seed), THINGS, most=4)
        assert np.array_equal(scene.pixels, again.pixels)
        grounds.add(scene.ground)
        assert scene.pixels.shape == (64, 64, 3)
        assert scene.owner.max(initial=0) == len(scene.things)
        for number, thing in enumerate(scene.things, 1):
            rows, columns = np.nonzero(scene.owner == number)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert box == thing.box
    assert grounds == set(GROUNDS)


def test_a_scene_is_the_same_at_every_size() -> None:
    for seed in range(10):
        small, large = (
            make_scene(np.random.default_rng(seed), THINGS, side=side) for side in (64, 256)
        )
        assert [thing.kind for thing in small.things] == [thing.kind for thing in large.things]
        for one, other in zip(small.things, large.things, strict=True):
            assert np.abs(np.array(one.box) * 4 - np.array(other.box)).max() <= 24


def test_areas_are_those_of_the_things() -> None:
    scene = make_view(6, 0)
    for number, thing in enumerate(scene.things, 1):
        area = to_classes(scene)[scene.owner == number]
        assert set(area.tolist()) == {AREAS.index(group_of(thing.kind))}
    assert not to_classes(scene)[scene.owner == 0].any()
    assert main_thing(scene) in {thing.kind for thing in scene.things}


@pytest.mark.parametrize("task", TASKS)
def test_tuning_reads_the_generated_data(tmp_path: Path, task: str) -> None:
    from edgept.tune import Settings
    from edgept.tune.vision.data import TASK_OF_KIND, read_picture_data

    data = read_picture_data(write_data(tmp_path / "data", 7, 20)[task], Settings())
    scenes = [make_view(7, number) for number in range(20)]
    assert len(data.rows) == 20
    if task == "classify":
        assert TASK_OF_KIND[data.kind] == "image-classification"
        assert sorted(row.label for row in data.rows) == sorted(map(main_thing, scenes))
    elif task == "segment":
        assert data.labels == AREAS
    else:
        assert data.labels == tuple(GROUPS)
        for row, scene in zip(data.rows, scenes, strict=True):
            found = [(box.label, *box.corners) for box in row.boxes]
            assert found == [(group_of(thing.kind), *thing.box) for thing in scene.things]


def test_one_model_does_three_tasks(shown: tuple[Path, dict[str, Any]]) -> None:
    folder, figures = shown
    answers = {answer["prompt"]: answer for answer in figures["answers"]}
    assert list(answers) == list(TASKS)
    assert [answers[task]["task"] for task in TASKS] == [
        "image-classification",
        "image-segmentation",
        "object-detection",
    ]
    right = [main_thing(make_view(4003, number, side=256)) for number in range(4)]
    named = [found.split()[0] for found in answers["classify"]["found"]]
    assert sum(a == b for a, b in zip(named, right, strict=True)) >= 3
    for found, kind in zip(answers["segment"]["found"], right, strict=True):
        assert group_of(kind) in found or found.startswith("background")
    assert figures["manifest"]["parity"]["passed"]
    assert figures["swaps"] >= 662
    for answer in answers.values():
        assert 0 < answer["swap_us"] < answer["picture_ms"] * 1e3
        file = folder / f"{answer['prompt']}.safetensors"
        assert file.stat().st_size == answer["file_bytes"] < 40_000


def test_it_leaves_pictures(shown: tuple[Path, dict[str, Any]]) -> None:
    folder, figures = shown
    names = {path.name for path in (folder / "pictures").iterdir()}
    assert names == {
        f"{n}{task}.png" for n in range(1, 5) for task in ("", *(f".{t}" for t in TASKS))
    }
    with Image.open(folder / "pictures" / "1.png") as plain:
        assert np.array_equal(np.array(plain), make_view(4003, 0, side=256).pixels)
        for task in TASKS:
            with Image.open(folder / "pictures" / f"1.{task}.png") as drawn:
                assert drawn.size == plain.size
                assert not np.array_equal(np.array(drawn), np.array(plain))
    with Image.open(figures["sheet"]) as sheet:
        assert sheet.width > sheet.height - 100 > 800


def test_held_out_pictures_are_seen_right(
    shown: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command of the README's table, on few pictures: far above chance, so not a broken file."""
    from edgept.demo import evaluate_vision

    figures = tmp_path / "figures.json"
    arguments = [str(shown[0]), "--pictures", "80", "--json", str(figures)]
    monkeypatch.setattr("sys.argv", ["evaluate_vision", *arguments])
    evaluate_vision.main()
    assert "| detect |" in capsys.readouterr().out
    made = json.loads(figures.read_text())
    found = made["prompts"]
    assert found["classify"]["accuracy"] > made["heads"]["classify"]["accuracy"]
    assert found["classify"]["accuracy"] > 0.6
    assert found["segment"]["mean_iou"] > 0.4
    assert found["detect"]["ap50"] > 0.3


def test_the_script_that_made_the_prompts_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgept.demo import tune_vision
    from edgept.prompt_file import read_prompt

    arguments = ["segment", "--model", str(MODEL), "--out", str(tmp_path), "--steps", "2"]
    arguments += ["--pictures", "16", "--validation", "8", "--batch-size", "4"]
    monkeypatch.setattr("sys.argv", ["tune_vision", *arguments])
    tune_vision.main()
    assert json.loads(capsys.readouterr().out)["task"] == "segment"
    prompt = read_prompt(tmp_path / "segment.safetensors")
    assert prompt.tensors["prompt_embeds"].shape == (4, 8, 128)
    assert prompt.labels == AREAS


def test_a_question_is_not_for_pictures() -> None:
    result = CliRunner().invoke(main, ["demo", "vision", "--question", "What is this?"])
    assert result.exit_code == 2
    assert "--question" in result.output


@pytest.mark.filterwarnings("ignore")  # of transformers, about its own processors
def test_the_script_that_made_the_model_makes_one_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.numpy import load_file

    from edgept.demo import train_vision

    monkeypatch.setattr(train_vision, "BATCH", 4)
    monkeypatch.setattr(train_vision, "HELD_OUT", 8)
    monkeypatch.chdir(tmp_path)

    def train(steps: int) -> dict[str, Any]:
        arguments = ["--out", "vision", "--steps", str(steps), "--scenes", "12", "--every", "1"]
        monkeypatch.setattr("sys.argv", ["train_vision", *arguments])
        train_vision.main()
        line: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return line

    assert train(1)["step"] == 1
    first = load_file("vision/model.safetensors")
    line = train(3)
    assert line["step"] == 3
    assert set(line["held_out"]) >= {"kind", "box", "accuracy"}
    names = set(load_file(MODEL / "model.safetensors"))
    second = load_file("vision/model.safetensors")
    assert set(first) == set(second) == names
    assert any(not np.array_equal(first[name], second[name]) for name in names)


def test_the_benchmark_says_that_the_x_rays_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import visual_prompts

    monkeypatch.setattr(visual_prompts, "DATA", tmp_path / "none.npz")
    monkeypatch.setattr("sys.argv", ["visual_prompts", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"none\.npz"):
        visual_prompts.main()
