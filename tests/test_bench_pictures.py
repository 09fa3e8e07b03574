"""`edgept bench` on a bundle that looks at pictures."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

import edgept
from edgept.bench import pictures
from edgept.bench.plan import Plan, length_of_run
from edgept.cli import main
from edgept.prompt_source import bind
from tests.test_seeing import CLASSIFIES, DETECTS, SEGMENTS, make_prompt, photo

PHASES = ["session_load", "prompt_cold", "swap", "preprocess", "run", "end_to_end"]


def edgept_main(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def bundle(image_bundle_of: Callable[..., Path]) -> Path:
    return image_bundle_of("vit")


def test_every_phase_is_measured_under_prompts_of_all_tasks(bundle: Path, tmp_path: Path) -> None:
    manifest = edgept.load(bundle).manifest
    options: list[object] = []
    for task in (CLASSIFIES, SEGMENTS, DETECTS):
        path = tmp_path / f"{task}.safetensors"
        edgept.write_prompt(bind(make_prompt(task, name=task), manifest), path)
        options += ["--prompt", path]
    picture, report = tmp_path / "photo.png", tmp_path / "report.json"
    Image.fromarray(photo()).save(picture)
    result = edgept_main(
        *("bench", "-b", bundle, *options, "--picture", picture, "--samples", 12, "--threads", 1),
        *("-o", report, "--power", "off"),
    )
    assert result.exit_code == 0, result.output
    assert "4 virtual tokens, 56 x 40 pixels" in result.stdout
    assert "A → B → A and" in result.stdout
    found = json.loads(report.read_text())
    assert (found["format"], found["picture"]["name"]) == ("edgept-bench-pictures", str(picture))
    assert [*found["phases"]] == PHASES
    for name in PHASES[2:]:
        assert len(found["phases"][name]["samples"]) == 12, name
    inner = [found["phases"][name]["samples"] for name in ("swap", "preprocess", "run")]
    for *parts, whole in zip(*inner, found["phases"]["end_to_end"]["samples"], strict=True):
        assert sum(parts) <= whole
    assert found["answers"]["swaps_back"]
    assert found["answers"]["prompts_matter"]
    assert found["answers"]["different"] == 0


def test_without_prompt_and_picture_both_are_made(bundle: Path) -> None:
    result = edgept_main(
        *("bench", "-b", bundle, "--samples", 4, "--batch", 2, "--threads", 1, "--json")
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [prompt["random"] for prompt in found["prompts"]] == [True, True]
    assert (found["picture"]["name"], found["picture"]["width"]) == ("", 640)
    assert any("one was made" in note for note in found["notes"])


def test_a_wrong_answer_is_seen(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = iter(range(10_000))
    monkeypatch.setattr(pictures, "_bits", lambda _: [next(turns)])
    plan = Plan(
        bundle=bundle,
        prompts=(),
        length=length_of_run(quick=False, seconds=None, samples=3),
        power=False,
    )
    assert not pictures.measure_pictures(plan).answers.right


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--new-tokens", 5], "--new-tokens is for models that generate text"),
        (["--prompt-length", 5], "--prompt-length is for"),
        (["--resident", 5], "--resident is for"),
        (["--html", "page.html"], "--compare and --html are for"),
        (["--picture", "absent.png"], "cannot read absent.png"),
    ],
)
def test_what_is_for_texts_is_refused(bundle: Path, options: list[object], says: str) -> None:
    result = edgept_main("bench", "-b", bundle, "--quick", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr


def test_a_picture_for_a_model_of_text_is_refused(bundle_of: Callable[..., Path]) -> None:
    result = edgept_main("bench", "-b", bundle_of("llama"), "--quick", "--picture", "a.png")
    assert result.exit_code == 2
    assert "does not look at pictures" in result.stderr
