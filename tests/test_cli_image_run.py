"""`edgept run` on pictures: files, folders and patterns, several prompts, broken files, what is saved."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import edgept
from edgept.cli import main, pictures
from edgept.cli.session import converse
from edgept.prompt_source import bind
from tests.test_seeing import CLASSIFIES, DETECTS, SEGMENTS, make_prompt, photo


def edgept_main(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


@pytest.fixture(scope="module")
def bundle(image_bundle_of: Callable[..., Path]) -> Path:
    return image_bundle_of("vit")


@pytest.fixture(scope="module")
def prompts(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Prompt files by their task."""
    manifest = edgept.load(bundle).manifest
    folder = tmp_path_factory.mktemp("prompts")
    paths = {}
    for task in (CLASSIFIES, SEGMENTS, DETECTS):
        paths[task] = folder / f"{task}.safetensors"
        edgept.write_prompt(bind(make_prompt(task, name=task), manifest), paths[task])
    return paths


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder with two pictures."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for seed, name in enumerate(("a.png", "b.png")):
        Image.fromarray(photo(seed=seed)).save(folder / name)
    return folder


def rows(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_classes_are_printed_and_are_those_of_the_api(
    bundle: Path, prompts: dict[str, Path], scans: Path
) -> None:
    result = edgept_main("run", "-b", bundle, "--prompt", prompts[CLASSIFIES], scans)
    assert result.exit_code == 0, result.output
    model = edgept.load(bundle)
    prompt = model.load_prompt(prompts[CLASSIFIES])
    expected = [
        model.classify_image(path, prompt=prompt) for path in (scans / "a.png", scans / "b.png")
    ]
    assert result.stdout.splitlines() == [
        f"{scans / name}: {found.label} {found.probability:.4f}"
        for name, found in zip(("a.png", "b.png"), expected, strict=True)
    ]
    assert " · preprocess " in result.stderr


def test_json_holds_what_a_program_needs(
    bundle: Path, prompts: dict[str, Path], scans: Path
) -> None:
    options = [item for path in prompts.values() for item in ("--prompt", path)]
    result = edgept_main("run", "-b", bundle, *options, scans / "a.png", "--json", "--threshold", 0)
    assert result.exit_code == 0, result.output
    classified, segmented, detected = rows(result)
    assert {row["input"] for row in rows(result)} == {str(scans / "a.png")}
    assert [row["prompt"] for row in rows(result)] == [CLASSIFIES, SEGMENTS, DETECTS]
    assert set(classified) >= {"label", "probability", "labels", "probabilities", "latency"}
    assert sum(segmented["shares"]) == pytest.approx(1)
    assert segmented["size"] == [56, 40]
    assert not {"classes", "probabilities", "saved"} & set(segmented)
    assert len(detected["found"]) == 4
    assert set(detected["found"][0]) == {"label", "score", "box"}
    assert all(row["latency"]["preprocess_ms"] > 0 for row in rows(result))


def test_several_prompts_are_told_apart(
    bundle: Path, prompts: dict[str, Path], scans: Path
) -> None:
    options = [item for path in prompts.values() for item in ("--prompt", path)]
    result = edgept_main("run", "-b", bundle, *options, scans / "a.png", "--threshold", 1)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{scans / 'a.png'}: {CLASSIFIES}: i0-")
    assert any(f": {SEGMENTS}: i0-" in line and line.endswith("%") for line in lines)
    assert lines[-1] == f"{scans / 'a.png'}: {DETECTS}: nothing scores 1 or more"


def test_a_broken_picture_harms_no_other(
    bundle: Path, prompts: dict[str, Path], scans: Path
) -> None:
    (scans / "ab.png").write_bytes((scans / "a.png").read_bytes()[:100])
    (scans / "text.png").write_text("not a picture")
    arguments = ["run", "-b", bundle, "--prompt", prompts[CLASSIFIES], scans, scans / "absent.png"]
    result = edgept_main(*arguments)
    assert result.exit_code == 3
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [
        str(scans / "a.png"),
        str(scans / "b.png"),
    ]
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 3
    for name, error in zip(("ab.png", "text.png", "absent.png"), errors, strict=True):
        assert str(scans / name) in error
    assert result.stderr.splitlines()[-1] == "3 of 5 pictures failed"
    found = rows(edgept_main(*arguments, "--json"))
    assert ["error" in row for row in found] == [False, True, False, True, True]
    assert [Path(row["input"]).name for row in found] == [
        "a.png",
        "ab.png",
        "b.png",
        "text.png",
        "absent.png",
    ]
    alone = edgept_main("run", "-b", bundle, "--prompt", prompts[CLASSIFIES], scans / "absent.png")
    assert (alone.exit_code, alone.stdout) == (2, "")
    assert "Traceback" not in alone.stderr


def test_what_is_found_is_drawn(
    bundle: Path, prompts: dict[str, Path], scans: Path, tmp_path: Path
) -> None:
    seen = tmp_path / "deep" / "seen"
    options = [item for path in prompts.values() for item in ("--prompt", path)]
    arguments = ["run", "-b", bundle, *options, scans, "--save", seen, "--threshold", 0, "--json"]
    result = edgept_main(*arguments)
    assert result.exit_code == 0, result.output
    saved = [file for row in rows(result) for file in row["saved"]]
    assert sorted(saved) == sorted(map(str, seen.iterdir()))
    assert len(saved) == 2 * 4
    original = np.asarray(Image.open(scans / "a.png"))
    for task in prompts:
        with Image.open(seen / f"a.{task}.png") as drawn:
            assert drawn.size == (56, 40)
            assert not np.array_equal(np.asarray(drawn), original)
    model = edgept.load(bundle)
    found = model.segment(scans / "a.png", prompt=model.load_prompt(prompts[SEGMENTS]))
    with Image.open(seen / f"a.{SEGMENTS}.classes.png") as classes:
        assert np.array_equal(np.asarray(classes), found.classes)
    again = edgept_main(*arguments)
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    assert edgept_main(*arguments, "--force").exit_code == 0


def test_pictures_of_one_name_are_saved_beside_each_other(
    bundle: Path, prompts: dict[str, Path], scans: Path, tmp_path: Path
) -> None:
    (scans / "more").mkdir()
    Image.fromarray(photo(seed=5)).save(scans / "more" / "a.png")
    prompt = ["--prompt", prompts[DETECTS]]
    seen = tmp_path / "seen"
    result = edgept_main("run", "-b", bundle, *prompt, scans, "--save", seen)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in seen.iterdir()) == ["a-2.png", "a.png", "b.png"]


def test_the_pictures_that_are_looked_at_are_never_replaced(
    bundle: Path, prompts: dict[str, Path], scans: Path, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    (seen / "b.png").symlink_to(scans / "b.png")
    before = {path: path.read_bytes() for path in scans.iterdir()}
    for folder, refused in ((scans, ("a.png", "b.png")), (seen, ("b.png",))):
        result = edgept_main(
            *("run", "-b", bundle, "--prompt", prompts[SEGMENTS], scans),
            *("--save", folder, "--force"),
        )
        assert result.exit_code == 2
        errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
        assert len(errors) == len(refused)
        for name, error in zip(refused, errors, strict=True):
            assert f"would replace {scans / name}, a picture that is looked at" in error
    assert {path: path.read_bytes() for path in scans.iterdir()} == before
    assert sorted(path.name for path in seen.iterdir()) == ["a.classes.png", "a.png", "b.png"]


def test_files_of_one_picture_replace_none_of_another(
    bundle: Path, prompts: dict[str, Path], scans: Path, tmp_path: Path
) -> None:
    (scans / "b.png").rename(scans / "a.classes.png")
    for turn, names in enumerate((["a.png", "a.classes.png"], ["a.classes.png", "a.png"])):
        seen = tmp_path / f"seen{turn}"
        paths = [scans / name for name in names]
        result = edgept_main(
            *("run", "-b", bundle, "--prompt", prompts[SEGMENTS], *paths),
            *("--save", seen, "--json", "--force"),
        )
        assert result.exit_code == 0, result.output
        saved = [file for row in rows(result) for file in row["saved"]]
        assert len(set(saved)) == 4
        assert sorted(saved) == sorted(map(str, seen.iterdir()))


@pytest.mark.parametrize("broken", [False, True])
def test_few_pixels_are_held_at_once(
    bundle: Path,
    prompts: dict[str, Path],
    scans: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: bool,
) -> None:
    if broken:
        (scans / "ab.png").write_text("not a picture")
    options = [item for path in prompts.values() for item in ("--prompt", path)]
    arguments = ["run", "-b", bundle, *options, scans, "--json"]
    expected = edgept_main(*arguments)
    held: list[int] = []
    see_batch = edgept.Model.see_batch

    def counted(self: edgept.Model, requests: Any, **options: Any) -> Any:
        found = see_batch(self, requests, **options)
        held.append(sum(item.classes.size for item in found if hasattr(item, "classes")))
        return found

    monkeypatch.setattr(edgept.Model, "see_batch", counted)
    monkeypatch.setattr(pictures, "_MAX_PIXELS", 40 * 56)
    found = edgept_main(*arguments)
    assert max(held) == 40 * 56
    assert found.exit_code == expected.exit_code == (3 if broken else 0)
    assert found.stderr.count("error:") == broken
    for row, other in zip(rows(found), rows(expected), strict=True):
        assert row.get("error") == other.get("error")
        assert [row.get(key) for key in ("input", "prompt", "label")] == [
            other.get(key) for key in ("input", "prompt", "label")
        ]


def test_patterns_lists_and_stdin_name_pictures(
    bundle: Path, prompts: dict[str, Path], scans: Path, tmp_path: Path
) -> None:
    base = ["run", "-b", bundle, "--prompt", prompts[CLASSIFIES]]
    expected = edgept_main(*base, scans).stdout
    listed = f"{scans / 'a.png'}\n\n{scans / 'b.png'}\n"
    (tmp_path / "list.txt").write_text(listed)
    assert edgept_main(*base, scans / "*.png").stdout == expected
    assert edgept_main(*base, "--input", tmp_path / "list.txt").stdout == expected
    assert edgept_main(*base, "--input", "-", stdin=listed).stdout == expected
    assert edgept_main(*base, stdin=listed).stdout == expected


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{empty}"], "holds no file that ends in"),
        (["{empty}/*.png"], "nothing matches"),
        (["{scans}/a.png", "--input", "{scans}/a.png"], "not both"),
        (["{scans}", "--chat"], "this bundle looks at pictures; --chat is for"),
        (["{scans}", "-n", "5"], "--max-new-tokens is for"),
        (["{scans}", "--truncate"], "--truncate is for"),
        (["{scans}", "--max-length", "5"], "max_length is for texts"),
        (["{scans}", "--threshold", "2"], "--threshold"),
        (["{scans}", "--save", "{scans}/a.png"], "is a file"),
    ],
)
def test_mistakes_are_told(
    bundle: Path, scans: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [item.format(empty=tmp_path / "empty", scans=scans) for item in arguments]
    result = edgept_main("run", "-b", bundle, *filled)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr


def test_stdin_without_a_picture_is_a_mistake(bundle: Path) -> None:
    result = edgept_main("run", "-b", bundle, stdin="\n")
    assert result.exit_code == 2
    assert "no picture is named" in result.stderr


def test_options_of_pictures_are_refused_on_a_model_of_text(
    bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    llama = bundle_of("llama")
    for option in (["--save", tmp_path / "seen"], ["--threshold", "0.1"]):
        result = edgept_main("run", "-b", llama, *option, "hello")
        assert result.exit_code == 2
        assert f"this bundle generates text; {option[0]} is for pictures" in result.stderr
    result = edgept_main("run", "-b", llama, "hello", "world")
    assert result.exit_code == 2
    assert "2 arguments were given, expected one TEXT" in result.stderr


def test_without_a_prompt_pictures_become_vectors(
    bundle: Path, prompts: dict[str, Path], scans: Path, tmp_path: Path
) -> None:
    result = edgept_main("run", "-b", bundle, scans)
    assert result.exit_code == 0, result.output
    assert [len(line.split()) - 1 for line in result.stdout.splitlines()] == [32, 32]
    file = tmp_path / "vectors.npy"
    for prompt in ([], ["--prompt", prompts[DETECTS]]):
        result = edgept_main("run", "-b", bundle, *prompt, scans, "--npy", file, "--force")
        assert (result.exit_code, result.stdout) == (0, "")
        assert np.load(file).shape == (2, 32)
    result = edgept_main("run", "-b", bundle, scans, "absent.png", "--npy", file, "--force")
    assert result.exit_code == 2
    assert "cannot read absent.png" in result.stderr
    assert np.isnan(np.load(file)).all(axis=1).tolist() == [False, False, True]
    result = edgept_main("run", "-b", bundle, scans, "--save", tmp_path / "seen")
    assert result.exit_code == 2
    assert "makes vectors" in result.stderr


def test_a_prompt_of_text_is_refused(bundle: Path, scans: Path, tmp_path: Path) -> None:
    path = tmp_path / "es.safetensors"
    manifest = edgept.load(bundle).manifest
    rows_of_text = {"prompt_embeds": np.ones((3, 32), np.float32)}
    spanish = edgept.Prompt(rows_of_text, name="es", fingerprint=manifest.fingerprint)
    edgept.write_prompt(spanish, path)
    result = edgept_main("run", "-b", bundle, "--prompt", path, scans)
    assert result.exit_code == 4
    assert "is for the task text-generation" in result.stderr


def test_a_session_reads_paths(
    bundle: Path,
    prompts: dict[str, Path],
    scans: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = edgept.load(bundle)
    prompt = model.load_prompt(prompts[CLASSIFIES])
    typed = (
        f"{scans / 'a.png'}\nabsent.png\n/prompt {prompts[SEGMENTS]}\n{scans / 'a.png'}\n/quit\n"
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    converse(model, {CLASSIFIES: prompt}, lambda line: line, {"threshold": 0.5})
    printed = capsys.readouterr()
    label = model.classify_image(scans / "a.png", prompt=prompt).label
    assert f"{label} 0." in printed.out
    assert "%" in printed.out
    assert "Type the path of a picture" in printed.err
    assert "error: cannot read absent.png" in printed.err
