"""`edgept bench` on a bundle that looks at pictures: what it has of its own, and all that text has, too."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import edgept
from edgept.bench import pictures
from edgept.bench.answers import Answers, are_alike
from edgept.bench.comparison import _compare_interleaved
from edgept.bench.earlier import read_earlier
from edgept.bench.picture import PictureFile, find_picture
from edgept.bench.plan import Plan, length_of_run
from edgept.bench.requests import make_request
from edgept.bench.rival import Rival
from edgept.bench.sightings import first_number, numbers
from edgept.bench.subject import Shared
from edgept.cli import main
from edgept.prompt_source import bind
from edgept.runtime.detector import Detections
from tests.test_seeing import CLASSIFIES, DETECTS, SEGMENTS, make_prompt, photo

LOOP = ["decode", "preprocess", "swap", "run", "read_out", "end_to_end"]


def bench(bundle: Path, *arguments: object) -> Result:
    words = [str(word) for word in ("bench", "-b", bundle, "--threads", 1, *arguments)]
    return CliRunner().invoke(main, words)


@pytest.fixture(scope="module")
def bundle(image_bundle_of: Callable[..., Path]) -> Path:
    return image_bundle_of("vit")


@pytest.fixture(scope="module")
def prompts(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Options: a prompt for each task."""
    folder = tmp_path_factory.mktemp("prompts")
    manifest = edgept.load(bundle).manifest
    options: list[object] = []
    for task in (CLASSIFIES, SEGMENTS, DETECTS):
        path = folder / f"{task}.safetensors"
        edgept.write_prompt(bind(make_prompt(task, name=task), manifest), path)
        options += ["--prompt", path]
    return options


@pytest.fixture(scope="module")
def first(bundle: Path, prompts: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report, with the table beside it."""
    folder = tmp_path_factory.mktemp("first")
    Image.fromarray(photo()).save(folder / "photo.png")
    outputs = ["--power", "off", "-o", folder / "report.json"]
    result = bench(bundle, *prompts, "--picture", folder / "photo.png", "--time", 0.6, *outputs)
    assert result.exit_code == 0, result.output
    (folder / "table.txt").write_text(result.stdout)
    return folder / "report.json"


def test_every_phase_is_measured_under_prompts_of_all_tasks(first: Path) -> None:
    table = first.with_name("table.txt").read_text()
    assert "4 virtual tokens, 56 x 40 pixels" in table
    assert "process to first result" in table
    assert "A → B → A and" in table
    assert "prompts of different work take turns" in table
    found = json.loads(first.read_text())
    assert found["format"] == "edgept-bench"
    assert found["request"]["name"] == str(first.with_name("photo.png"))
    phases = {name: phase["samples"] for name, phase in found["phases"].items()}
    assert {*phases} == {"process_start", "session_load", "prompt_cold", *LOOP}
    for *parts, whole in zip(*(phases[name] for name in LOOP), strict=True):
        assert min(parts) > 0
        assert sum(parts) <= whole
    answers = found["answers"]
    assert answers["swaps_back"]
    assert answers["prompts_matter"]
    assert answers["different"] == 0 < answers["checked"]
    assert answers["starts_equal"] == answers["starts"] == len(phases["process_start"])
    assert [level["prompts"] for level in found["residents"]] == [2, 4]
    assert found["ceilings"]["prefill_ms"] > 0
    assert found["ceilings"]["tpot_ms"] is None


def test_without_prompt_and_picture_both_are_made(bundle: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options = ["--batch", 2, "--resident", 3, "--json", "--html", page]
    result = bench(bundle, "--samples", 4, "--time", 2, *options)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [prompt["random"] for prompt in found["prompts"]] == [True, True]
    assert (found["request"]["name"], found["request"]["width"]) == ("", 640)
    assert any("one was made" in note for note in found["notes"])
    assert [level["prompts"] for level in found["residents"]] == [2, 3]
    assert found["settings"]["resident"] == 3
    assert found["answers"]["batch_rows_equal"] == found["answers"]["batch_rows"] == 2
    text = page.read_text("utf-8")
    assert "640 x 480 pixels" in text
    assert "read-out" in text


def test_pictures_that_run_apart_are_counted_each(bundle: Path) -> None:
    """One of four virtual tokens and one of five cannot run together: their times are added."""
    model = edgept.load(bundle, threads=1)
    pool = [model.load_prompt(make_prompt(tokens=count)) for count in (4, 5)]
    rows = model.see_batch([(photo(), prompt) for prompt in pool])
    apart = pictures._of_latencies([row.latency for row in rows], 1e3)
    assert apart["run"] == [pytest.approx(sum(row.latency.prefill_ms for row in rows))]
    together = pictures._of_latencies([rows[0].latency, rows[0].latency], 1e3)
    assert together["run"] == [rows[0].latency.prefill_ms]


def test_a_comparison_with_itself_is_interleaved(
    first: Path, bundle: Path, prompts: list[object], tmp_path: Path
) -> None:
    """The picture is the other report's."""
    common = ["--samples", 20, "--time", 3, "--compare", first, "--json"]
    result = bench(bundle, *prompts, *common, "--html", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    comparison = report["comparison"]
    assert comparison["kind"] == "interleaved", comparison["why"]
    assert report["request"] == json.loads(first.read_text())["request"]
    assert {*comparison["phases"]} == {*LOOP}
    for phase in comparison["phases"].values():
        ratio = phase["ratio"]
        assert ratio["low"] <= ratio["ratio"] <= ratio["high"]
        if ratio["low"] <= 1 <= ratio["high"]:
            assert phase["word"] in ("no difference shown", "too few samples")
    assert "interleaved" in (tmp_path / "page.html").read_text("utf-8")


def test_prompts_that_do_other_work_are_not_compared(first: Path, bundle: Path) -> None:
    """One task here and two there: whatever the ratio, it says nothing of the bundles."""
    model = edgept.load(bundle, threads=1)
    pool = [model.load_prompt(make_prompt(task, name=task)) for task in (CLASSIFIES, SEGMENTS)]
    data, request = find_picture(None, None, 0)
    subject = pictures.Pictures(request, [data], Path())
    for others in (pool, pool[1:], pool[::-1]):
        assert subject.beside(model, pool[:1], model, others).notes
    for ours, others in ((pool, pool), (pool[:1], pool[:1] * 2), (pool, pool * 2)):
        assert subject.beside(model, ours, model, others) == Shared(subject, [])
    plan = Plan(bundle, (), length_of_run(quick=False, seconds=0.5, samples=40), threads=1)
    compared = _compare_interleaved(
        plan,
        subject,
        model,
        [make_prompt(CLASSIFIES)],
        Rival(model, pool),
        read_earlier(first),
        lambda *_: None,
    )
    assert f"{CLASSIFIES} here and for {CLASSIFIES}, {SEGMENTS} there" in compared.notes[0]
    words = {name: phase.word for name, phase in compared.phases.items()}
    own = [name for name, word in words.items() if word == "at other work"]
    assert own == ["swap", "run", "read_out", "end_to_end"]


def test_a_picture_that_is_gone_or_has_changed_is_made(first: Path, tmp_path: Path) -> None:
    wanted = read_earlier(first).request
    assert isinstance(wanted, PictureFile)
    data, found = find_picture(None, wanted, 0)
    assert (len(data), found) == (wanted.nbytes, wanted)
    for gone in (
        dataclasses.replace(wanted, name=str(tmp_path / "gone.png")),
        dataclasses.replace(wanted, sha256="0" * 64),
    ):
        data, made = find_picture(None, gone, 0)
        assert made.name == ""
        subject = pictures.Pictures(made, [data], tmp_path)
        assert subject.unlike(gone) == "the requests are not the same picture"
        assert subject.unlike(find_picture(None, made, 0)[1]) == ""


def test_a_wrong_answer_is_seen(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (data, request) = edgept.load(bundle, threads=1), find_picture(None, None, 0)
    pool = [model.load_prompt(make_prompt(seed=seed)) for seed in (1, 2)]
    subject, answers = pictures.Pictures(request, [data], Path()), Answers()
    run = make_request(subject, model, pool, answers)
    for _ in range(6):
        run()
    assert (answers.checked, answers.different) == (4, 0)
    monkeypatch.setattr(pictures, "numbers", lambda _: np.zeros(3))
    run()
    assert answers.different == 1


def test_detections_are_compared_by_label_score_and_share(bundle: Path) -> None:
    model = edgept.load(bundle, threads=1)
    found = model.see(photo(), prompt=model.load_prompt(make_prompt(DETECTS)), threshold=0.0)
    assert isinstance(found, Detections)
    one = numbers(found)
    assert one.shape == (len(found.found), 6)
    assert len(one) > 0
    assert 0 <= one[:, 2:].min() <= one[:, 2:].max() <= 1
    assert first_number(one) == found.labels.index(found.found[0].label) + 1
    assert first_number(numbers(dataclasses.replace(found, found=()))) == 0
    assert are_alike(one, one + np.array([0, 1e-4, 0, 0, 0, 1e-4]))
    for place, by in ((0, 1), (1, 0.01), (2, 0.01)):
        other = one.copy()
        other[0, place] += by
        assert not are_alike(one, other)


def test_answers_are_alike_within_rounding() -> None:
    one = np.array([1.0, -2.0, 0.5])
    assert are_alike(one, one + 1e-4)
    assert not are_alike(one, one + 0.1)
    assert not are_alike(one, one[:2])
    assert not are_alike(np.array([90_000, 7]), np.array([90_001, 7]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--new-tokens", 5], "--new-tokens is for models that generate text"),
        (["--prompt-length", 5], "--prompt-length is for"),
        (["--resident", 10**9], "of memory that are free"),
        (["--batch", 10**8], "do not fit"),
        (["--picture", "absent.png"], "cannot read absent.png"),
    ],
)
def test_what_cannot_be_is_refused(bundle: Path, options: list[object], says: str) -> None:
    result = bench(bundle, "--quick", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr


def test_texts_and_pictures_are_not_compared(
    first: Path, bundle: Path, bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    llama = bundle_of("llama")
    result = bench(llama, "--quick", "--compare", first)
    assert result.exit_code == 2
    assert "is a report on pictures" in result.stderr
    result = bench(llama, "--quick", "--picture", "a.png")
    assert result.exit_code == 2
    assert "does not look at pictures" in result.stderr
    fields: dict[str, Any] = json.loads(first.read_text())
    fields["request"] = {"text": None, "token_ids": [1], "new_tokens": 1, "answered_tokens": 1}
    other = tmp_path / "texts.json"
    other.write_text(json.dumps(fields))
    result = bench(bundle, "--quick", "--compare", other)
    assert result.exit_code == 2
    assert "is a report on texts" in result.stderr
