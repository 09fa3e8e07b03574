"""`edgept bench` as a user meets it: the report's fields, its page, comparisons, exit codes."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import edgept
from edgept.bench.answers import Answers
from edgept.bench.comparison import _compare_reports, _turn
from edgept.bench.earlier import read_earlier
from edgept.bench.loop import run_loop
from edgept.bench.phases import Samples
from edgept.bench.plan import Plan, length_of_run
from edgept.bench.question import Question
from edgept.bench.requests import make_request
from edgept.bench.residents import measure_level, measure_recent
from edgept.bench.rival import find_rival
from edgept.bench.subject import Shared
from edgept.bench.texts import Texts, least_request
from edgept.bundle import MANIFEST_NAME, hash_file, read_manifest
from edgept.cli import main
from edgept.runtime.decoder import Decoder
from edgept.runtime.device import read_device
from tests.conftest import VOCABULARY

SHORT = ["--threads", 1, "--prompt-length", 8, "--new-tokens", 6]
# Series long enough for a comparison to call something; what happens once is done only a few times.
TIMED = [*SHORT, "--time", 1.0]


@pytest.fixture(scope="module")
def bundle(bundle_of: Callable[..., Path]) -> Path:
    return bundle_of("llama")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two prompts, spanish.npy and german.npy."""
    folder: Path = tmp_path_factory.mktemp("prompts")
    for seed, name in enumerate(("spanish", "german")):
        rows = np.random.default_rng(seed).normal(size=(5, 64)).astype(np.float32)
        np.save(folder / f"{name}.npy", rows)
    return folder


def bench(bundle: Path, *arguments: object) -> Result:
    words = [str(word) for word in ("bench", "-b", bundle, *arguments)]
    return CliRunner().invoke(main, words)


@pytest.fixture(scope="module")
def first(bundle: Path, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of the tiny bundle, and a page beside it."""
    folder: Path = tmp_path_factory.mktemp("first")
    prompts = ["--prompt", f"es={files / 'spanish.npy'}", "--prompt", files / "german.npy"]
    outputs = ["-o", folder / "report.json", "--html", folder / "report.html"]
    result = bench(bundle, *prompts, *outputs, *TIMED, "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout == (folder / "report.json").read_text("utf-8")
    return folder / "report.json"


def test_the_report_holds_all_that_makes_it_believable(
    first: Path, bundle: Path, files: Path
) -> None:
    report = json.loads(first.read_text("utf-8"))
    assert (report["format"], report["format_version"]) == ("edgept-bench", 1)
    phases = report["phases"]
    assert list(phases) == [
        "process_start",
        "session_load",
        "prompt_cold",
        "swap",
        "swap_recent",
        "tokenise",
        "prefill",
        "ttft",
        "tpot",
        "end_to_end",
    ]
    for phase in phases.values():
        assert phase["unit"] == "ms"
        assert phase["summary"]["n"] == len(phase["samples"]) > 0
        assert phase["summary"]["median"] == pytest.approx(np.median(phase["samples"]))
        assert (phase["summary"]["p90"] is None) == (len(phase["samples"]) < 64)
        assert (phase["summary"]["p99"] is None) == (len(phase["samples"]) < 662)
        assert phase["verdict"]["word"] in ("steady", "not steady", "throttled", "few samples")
        assert min(phase["samples"]) > 0
    assert len(report["at_s"]) == phases["end_to_end"]["summary"]["n"]
    for parts in zip(
        *(phases[name]["samples"] for name in ("tokenise", "prefill", "ttft", "end_to_end")),
        strict=True,
    ):
        assert parts[0] + parts[1] < parts[2] < parts[3]  # end to end includes all the others
    assert report["bundle"]["manifest_sha256"] == hash_file(bundle / MANIFEST_NAME)
    hashes = {name: file.sha256 for name, file in read_manifest(bundle).files.items()}
    assert report["bundle"]["files"] == hashes
    assert [prompt["name"] for prompt in report["prompts"]] == ["es", "german"]
    assert report["prompts"][0]["sha256"] == hash_file(files / "spanish.npy")
    assert len(report["prompts"][0]["tensors_sha256"]) == 64
    assert report["settings"]["threads"] == 1
    assert report["settings"]["providers"] == ["CPUExecutionProvider"]
    assert report["settings"]["loop"] == "closed: service time"
    assert report["device"]["cpu"]["cores"] > 0
    assert report["device"]["packages"]["onnxruntime"]
    assert len(report["request"]["token_ids"]) == 8
    assert report["request"]["text"]
    assert len(report["checks"]) >= 2
    assert {"mhz", "governor", "temperature_c", "load"} == set(report["checks"][0]["conditions"])
    answers = report["answers"]
    assert answers["swaps_back"]
    assert answers["prompts_matter"]
    assert answers["different"] == 0 < answers["checked"]
    assert answers["starts_equal"] == answers["starts"] == len(phases["process_start"]["samples"])
    assert [level["prompts"] for level in report["residents"]] == [2, 4]
    assert report["residents"][1]["nbytes"] == 2 * report["residents"][0]["nbytes"]
    ceilings = report["ceilings"]
    assert ceilings["tpot_ms"] == pytest.approx(
        1e3 * ceilings["token_bytes"] / ceilings["read_bytes_per_s"]
    )
    assert report["comparison"] is None
    assert (report["joules_per_request"] is None) == bool(report["energy"]["reason"])


def test_a_swap_is_a_copy_and_a_recent_one_is_none(
    bundle: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the loop and among residents every swap copies; between two recent prompts none does."""
    from edgept.runtime.cache import SharedCache

    model = edgept.load(bundle, threads=1)
    pool = [model.load_prompt(files / f"{name}.npy") for name in ("spanish", "german")]
    # whether the buffer that a request took held its prompt already
    held: list[bool] = []
    real = SharedCache.begin_with

    def begin_with(cache: SharedCache, prompt: Any, past: Any) -> None:
        held.append(cache.buffer.begins_with(prompt))
        real(cache, prompt, past)

    monkeypatch.setattr(SharedCache, "begin_with", begin_with)
    length = dataclasses.replace(length_of_run(quick=True, seconds=None, samples=None), seconds=0)
    request = make_request(Texts(Question(None, [5, 6, 7], 4, 4)), model, pool, Answers())
    for _ in range(6):
        request()
    assert held == [False] * 6
    held.clear()
    recent = measure_recent(model, pool, length)
    assert len(recent) == 10
    assert held[2:] == [True] * 10  # behind a first one under each
    held.clear()
    assert len(measure_level(least_request(model), pool, length, seed=0).swap_ms) == 10
    assert not any(held[1:])


class Page(HTMLParser):
    """What a page refers to, and whether its elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "srcset", "data"}

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_one_file(first: Path) -> None:
    text = first.with_suffix(".html").read_text("utf-8")
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.tags.count("svg") == 2 + 10  # over time, residents, a distribution a phase
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    for outside in ("http", "//", "@import", "url("):
        assert outside not in text
    assert "nan" not in text.lower().replace("finance", "")


def test_the_table(bundle: Path, files: Path) -> None:
    arguments = ["--prompt", files / "spanish.npy", "--samples", 3, "--batch", 2, *SHORT]
    result = bench(bundle, *arguments, "--power", "off")
    assert result.exit_code == 0, result.output
    assert "process to first token" in result.stdout
    assert "n/a" in result.stdout
    assert "service time" in result.stdout
    assert "2 rows" in result.stdout
    assert "it is swapped with a copy of itself" in result.stdout
    assert "A → B → A" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()[:12]) <= 100


def test_a_comparison_with_itself_is_interleaved(
    first: Path, bundle: Path, files: Path, tmp_path: Path
) -> None:
    """The same bundle and prompts; the request is the other report's."""
    prompts = ["--prompt", f"es={files / 'spanish.npy'}", "--prompt", files / "german.npy"]
    common = ["--threads", 1, "--samples", 20, "--time", 4, "--compare", first, "--json"]
    result = bench(bundle, *prompts, *common, "--html", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    comparison = report["comparison"]
    assert comparison["kind"] == "interleaved", comparison["why"]
    assert report["request"]["token_ids"] == json.loads(first.read_text())["request"]["token_ids"]
    phases = {"swap", "tokenise", "prefill", "ttft", "tpot", "end_to_end"}
    assert set(comparison["phases"]) == phases
    for phase in comparison["phases"].values():
        ratio = phase["ratio"]
        assert 0 < ratio["n"] <= len(phase["this"]) == len(phase["other"]) <= 20
        assert ratio["low"] <= ratio["ratio"] <= ratio["high"]
        if ratio["low"] <= 1 <= ratio["high"]:
            assert phase["word"] in ("no difference shown", "too few samples")
    assert "interleaved" in (tmp_path / "page.html").read_text("utf-8")


def test_neither_side_of_a_comparison_is_favoured(bundle: Path, files: Path) -> None:
    """The first of a block is now one, now the other; and one has as many cache buffers as the other."""
    models = [edgept.load(bundle, threads=1) for _ in range(2)]
    prompts = [model.load_prompt(files / "spanish.npy") for model in models]
    pools = [model._generator("generate").decoder._pool for model in models]
    question = Question(None, [5, 6, 7], 4, 4)
    for ids in ([5, 6], [5] * 100):
        models[0].generate(ids, prompt=prompts[0], max_new_tokens=1)
    assert len(pools[0]._free) > len(pools[1]._free)
    shared = Texts(question).beside(models[0], prompts[:1], models[1], prompts[1:])
    assert shared == Shared(Texts(question), [])
    assert [len(pool._free) for pool in pools] == [1, 1]
    order: list[str] = []
    turns: list[tuple[Samples, Samples]] = []

    def side(name: str) -> Callable[[], Samples]:
        def run() -> Samples:
            order.append(name)
            return {"swap": [float(name == "a")]}

        return run

    for _ in range(2):
        _turn(side("a"), side("b"), turns)
    assert "".join(order) == 2 * "abbabaab"
    assert all(this["swap"] == [1] * 4 and other["swap"] == [0] * 4 for this, other in turns)


def test_answers_of_other_lengths_are_no_difference(
    bundle: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lengths under every prompt count, not that of the first one."""
    model = edgept.load(bundle, threads=1)
    pool = [model.load_prompt(files / f"{name}.npy") for name in ("spanish", "german")]
    texts = Texts(Question(None, [5, 6, 7], 4, 4))
    assert texts.work(model, pool[0]) == "4 tokens"
    monkeypatch.setattr(
        Texts, "work", lambda _self, _model, prompt: "4 tokens" if prompt is pool[0] else "2 tokens"
    )
    shared = texts.beside(model, pool[:1], model, pool)
    assert "4 tokens here and 4 tokens, 2 tokens there" in shared.notes[0]
    assert shared.other_work == {"tpot", "end_to_end"}
    assert texts.beside(model, pool, model, pool) == Shared(texts, [])


def test_a_comparison_with_a_report_whose_bundle_is_gone(
    first: Path, bundle: Path, tmp_path: Path
) -> None:
    report = json.loads(first.read_text("utf-8"))
    report["bundle"]["path"] = str(tmp_path / "gone")
    for phase in report["phases"].values():
        phase["samples"] = [3 * sample for sample in phase["samples"]]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(report), encoding="utf-8")
    result = bench(bundle, "--threads", 1, "--time", 1, "--compare", other, "--json")
    assert result.exit_code == 0, result.output
    comparison = json.loads(result.stdout)["comparison"]
    assert comparison["kind"] == "two reports, not interleaved"
    assert "not at hand" in comparison["why"]
    assert "process_start" in comparison["phases"]
    assert comparison["notes"]
    # a bundle without a shared buffer has no recent swaps
    samples: Samples = {"swap": [1.0] * 40, "swap_recent": []}
    apart = _compare_reports(samples, read_earlier(first), "")
    assert set(apart.phases) == {"swap"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"threads": 2}, "1 threads here, 2 there"),
        ({"cpu": "Z80"}, "another machine"),
        ({"versions": {"onnxruntime": "1.0"}}, "versions differ"),
        ({"batch": 4}, "1 rows here, 4 there"),
        ({"rate": 3.0}, "open loop"),
        ({"manifest_sha256": "0" * 64}, "not the one that was measured"),
        ({"prompts": [("es", Path("gone.npy"), "")]}, "not at hand"),
        ({"request": Question(None, [5, 6], 6, 6)}, "not the same tokens"),
    ],
)
def test_why_two_reports_are_not_interleaved(
    first: Path, bundle: Path, tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    same = read_earlier(first)
    assert isinstance(same.request, Question)
    plan = Plan(bundle, (), length_of_run(quick=True, seconds=None, samples=None), threads=1)
    sides = edgept.load(bundle, threads=1), Texts(same.request), read_device()
    earlier = dataclasses.replace(same, **change)
    found = find_rival(earlier, *sides, plan, tmp_path)
    assert isinstance(found, str)
    assert why in found


def test_a_bundle_without_a_tokenizer_and_no_prompt(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    manifest = read_manifest(folder)
    kept = {name: file for name, file in manifest.files.items() if "token" not in name}
    for name in manifest.files.keys() - kept:
        (folder / name).unlink()
    manifest = dataclasses.replace(manifest, files=kept)
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    result = bench(folder, *SHORT, "--samples", 2, "--resident", 3, "--rate", 50, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["request"]["text"] is None
    assert len(report["request"]["token_ids"]) == 8
    assert all(token < VOCABULARY for token in report["request"]["token_ids"])
    assert [prompt["random"] for prompt in report["prompts"]] == [True, True]
    assert any("random" in note for note in report["notes"])
    assert report["settings"]["resident"] == 3
    assert [level["prompts"] for level in report["residents"]] == [2, 3]
    assert report["settings"]["loop"].startswith("open")
    assert "queue" in report["phases"]


def test_known_phases_come_through_the_whole_of_it(
    bundle: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that takes 1 ms to swap, 20 ms to prefill and 5 ms a step is reported as such.

    Each within 2 % of what it really took: a busy machine holds up a wait now and then.
    """
    took: dict[str, list[float]] = {"open": [], "prefill": [], "step": []}
    logits = np.zeros((1, 1, VOCABULARY), np.float32)
    logits[..., 7] = 1.0

    def waits(name: str, milliseconds: float, result: Any) -> Callable[..., Any]:
        def wait(*_: Any, **__: Any) -> Any:
            begin = time.perf_counter_ns()
            while time.perf_counter_ns() - begin < milliseconds * 1e6:
                pass
            took[name].append((time.perf_counter_ns() - begin) / 1e6)
            return result

        return wait

    model = edgept.load(bundle, threads=1)
    pool = [model.load_prompt(files / f"{name}.npy") for name in ("spanish", "german")]
    monkeypatch.setattr(Decoder, "open", waits("open", 1.0, object()))
    monkeypatch.setattr(Decoder, "prefill", waits("prefill", 20.0, logits))
    monkeypatch.setattr(Decoder, "step", waits("step", 5.0, logits))
    length = dataclasses.replace(
        length_of_run(quick=False, seconds=None, samples=15), warm_up_s=0.0
    )
    for left in reversed(range(5)):  # what a busy machine did to one run, it does not do to all
        for values in took.values():
            values.clear()
        texts = Texts(Question(None, [5, 6, 7], 9, 9))
        request = make_request(texts, model, pool, Answers())
        series = run_loop(request, length)
        skip = series.warm_up.requests
        medians = {name: float(np.median(values)) for name, values in series.samples.items()}
        real = {
            "swap": np.median(took["open"][skip:]),
            "prefill": np.median(took["prefill"][skip:]),
            "tpot": np.median(np.reshape(took["step"][8 * skip :], (15, 8)).mean(axis=1)),
        }
        if left == 0 or all(
            medians[name] == pytest.approx(value, rel=0.02) for name, value in real.items()
        ):
            break
    for name, value in real.items():
        assert medians[name] == pytest.approx(value, rel=0.02), name
    assert medians["ttft"] == pytest.approx(medians["swap"] + medians["prefill"], rel=0.05)
    assert medians["end_to_end"] >= 1 + 20 + 8 * 5


def test_a_wrong_answer_fails(bundle: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that mixes something up now and then: the report is printed, and the exit code is 1."""
    real, calls = Decoder.prefill, [0]

    def forgetful(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        logits = real(*arguments, **options)
        return -logits if calls[0] % 7 == 0 else logits

    monkeypatch.setattr(Decoder, "prefill", forgetful)
    result = bench(
        bundle, "--prompt", files / "spanish.npy", *SHORT, "--samples", 30, "--time", 4, "--json"
    )
    assert result.exit_code == 1
    assert json.loads(result.stdout)["answers"]["different"] > 0
    assert "answers differed" in result.stderr


# Exit codes


def test_a_bundle_that_classifies_is_refused_before_anything_is_run(
    bundle_of: Callable[..., Path],
) -> None:
    classifies = bundle_of("gpt2", "fp32", "text-classification")
    result = bench(classifies, "--quick")
    assert result.exit_code == 2, result.output
    assert "is a bundle for text-classification" in result.stderr
    assert "measures text-generation" in result.stderr
    assert "--task text-generation" in result.stderr


def test_usage_errors_come_before_the_measurement(bundle: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.json"
    taken.write_text("mine")
    for arguments, said in (
        (["-o", taken], "exists already"),
        (["--html", tmp_path], "no place for a file"),
        (["-o", tmp_path / "gone" / "report.json"], "no place for a file"),
        (["-o", tmp_path / "a", "--html", tmp_path / "a"], "the same file"),
        (["--compare", tmp_path / "none.json"], "there is no report"),
        (["--prompt", tmp_path / "none.npy"], "No such file"),
        (["--batch", 2, "--rate", 1], "exclude each other"),
        (["--prompt-length", 250], "do not fit the longest sequence"),
        (["--provider", "NoProvider"], "has no NoProvider"),
        (["--resident", 10**9, *SHORT, "--time", 0.2], "of memory that are free"),
    ):
        result = bench(bundle, *arguments, "--quick")
        assert result.exit_code == 2, (arguments, result.output)
        assert said in result.stderr, (arguments, result.stderr)
    assert taken.read_text() == "mine"
    assert bench(tmp_path).exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "edgept-bench", "format_version": 2}',
        '{"format": "edgept-bench", "format_version": 1, "bundle": {}}',
        "[" * 100_000,
    ],
)
def test_a_file_that_is_no_report(bundle: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    result = bench(bundle, "--compare", path)
    assert result.exit_code == 3
    assert "no report of edgept bench" in result.stderr


@pytest.mark.parametrize("sample", ["NaN", "-1", '"1"', "true", "Infinity"])
def test_a_report_with_a_sample_that_is_none(first: Path, tmp_path: Path, sample: str) -> None:
    report = json.loads(first.read_text("utf-8"))
    report["phases"]["prefill"]["samples"] = ["SAMPLE"]
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report).replace('"SAMPLE"', sample))
    with pytest.raises(edgept.InvalidFileError, match="no report"):
        read_earlier(path)


@pytest.mark.parametrize("path", ["a\0b", "a\ud800b"])
def test_a_report_with_a_path_that_is_none(first: Path, tmp_path: Path, path: str) -> None:
    for holder in ("bundle", "prompts", "request"):
        report = json.loads(first.read_text("utf-8"))
        if holder == "request":
            report["request"] = {"name": path, "width": 1, "height": 1, "nbytes": 1, "sha256": ""}
        else:
            (report["prompts"][0] if holder == "prompts" else report["bundle"])["path"] = path
        other = tmp_path / "report.json"
        other.write_text(json.dumps(report))
        with pytest.raises(edgept.InvalidFileError, match="no report") as caught:
            read_earlier(other)
        assert caught.value.reason == "report-malformed"


def test_invalid_incompatible_and_untrusted_files(
    bundle: Path, bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY\x01")
    assert bench(bundle, "--prompt", tmp_path / "broken.npy").exit_code == 3
    np.save(tmp_path / "wide.npy", np.ones((3, 65), np.float32))
    assert bench(bundle, "--prompt", tmp_path / "wide.npy").exit_code == 4
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    (folder / "tokenizer.json").write_text("{}")
    assert bench(folder, "--quick").exit_code == 5


def test_existing_files_are_replaced_with_force(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    result = bench(bundle, *SHORT, "--samples", 1, "-o", path, "--force", "--power", "off")
    assert result.exit_code == 0, result.output
    report = json.loads(path.read_text("utf-8"))
    assert report["energy"]["reason"] == "not asked for"
    assert read_earlier(path).random
