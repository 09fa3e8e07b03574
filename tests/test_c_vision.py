"""Pictures through `load(engine="c")` against `load()`, and through the C example: the same to the last bit."""

import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgept
from edgept.prompt_file import write_prompt
from edgept.runtime.c_engine import CModel
from edgept.runtime.c_prompt import CPrompt
from tests.c_library import BUILD, SOURCE, c_library, make
from tests.image_models import HIDDEN
from tests.test_c_seeing import OWN, PIXELS, Both, prompts_for
from tests.test_seeing import CLASSIFIES, DETECTS, SEGMENTS, photo


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library of this checkout; the test is skipped where it cannot be built."""
    c_library()
    monkeypatch.setenv("EDGEPT_LIBRARY", str(BUILD / "libedgept.so"))


def both(bundle: Path) -> tuple[edgept.Model, CModel]:
    return edgept.load(bundle, threads=1), edgept.load(bundle, threads=1, engine="c")


def same(found: Any, expected: Any) -> None:
    """Results of one class, all of whose fields are equal; of times, those that are no times."""
    assert type(found) is type(expected)
    for field in dataclasses.fields(expected):
        mine, other = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "latency":
            for name in ("virtual_tokens", "input_tokens", "new_tokens", "ttft_ms", "tpot_ms"):
                assert getattr(mine, name) == getattr(other, name), name
            parts = mine.swap_ms + mine.preprocess_ms + mine.prefill_ms
            assert 0 < mine.prefill_ms < parts <= mine.total_ms
        else:
            np.testing.assert_array_equal(mine, other, field.name)


@pytest.mark.parametrize(("kind", "labels"), [("vit", OWN), ("owlv2", ())])
def test_every_task_in_both_engines(
    kind: str, labels: tuple[str, ...], image_bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    python, c = both(image_bundle_of(kind, labels))
    loaded: list[tuple[edgept.LoadedPrompt, CPrompt]] = []
    for number, prompt in enumerate(prompts_for(python.manifest)):
        path = tmp_path / f"{number}.safetensors"
        write_prompt(prompt, path)
        loaded.append((python.load_prompt(path), c.load_prompt(path if number % 2 else prompt)))
    calls = {CLASSIFIES: "classify_image", SEGMENTS: "segment", DETECTS: "detect"}
    expected: list[Any] = []
    for number, (in_python, in_c) in enumerate(loaded):
        assert in_c.task == in_python.task
        assert in_c.labels == in_python.prompt.labels
        picture = photo(30 + number, 50, seed=number)
        call = calls[in_c.task]
        options = {"threshold": 0.0} if call == "detect" else {}
        expected.append(getattr(python, call)(picture, prompt=in_python, **options))
        same(getattr(c, call)(picture, prompt=in_c, **options), expected[-1])
        same(c.embed_image(picture, prompt=in_c), python.embed_image(picture, prompt=in_python))
        for other in {*calls.values()} - {call}:
            with pytest.raises(edgept.UsageError, match=f"so model.{other} has no use for it"):
                getattr(c, other)(picture, prompt=in_c)
    same(c.embed_image(photo()), python.embed_image(photo()))
    assert len({type(item) for item in expected}) == (3 if kind == "vit" else 1)
    requests = [
        (photo(30 + number, 50, seed=number), prompt) for number, (_, prompt) in enumerate(loaded)
    ]
    for found, alone in zip(c.see_batch(requests, threshold=0), expected, strict=True):
        same(found, alone)
    if labels:  # a head of its own
        same(c.classify_image(photo()), python.classify_image(photo()))
        assert [item.labels for item in c.classify_image_batch([(photo(), None)])] == [OWN]
    else:
        for model in (python, c):
            with pytest.raises(edgept.UsageError, match="no head of its own"):
                model.see(photo())


def test_features_alone(image_bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    """In C itself: whatever the prompt is for, its head is not run."""
    pair = Both(image_bundle_of("vit"), tmp_path)
    for prompt in prompts_for(pair.python.manifest):
        in_python, in_c = pair.load(prompt)
        sight, found = pair.c.see(PIXELS, in_c, features=2)
        assert (sight.task, sight.classes, sight.first, sight.count, {*found}) == (
            *(3, 0, 0, 1),
            {"features"},
        )
        np.testing.assert_array_equal(found["features"], pair.outputs(in_python)["features"])
    huge = {"head.weight": np.full((3, HIDDEN), 3e38, np.float32)}
    _, in_c = pair.load(
        edgept.Prompt(huge, task=CLASSIFIES, fingerprint=pair.python.manifest.fingerprint)
    )
    assert np.isfinite(pair.c.see(PIXELS, in_c, features=2)[1]["features"]).all()
    pair.c.close()


def test_example_sees_what_the_python_runtime_sees(
    image_bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    """Frames of a camera: raw RGB in, labels and boxes out."""
    example = (SOURCE / "example_picture.c").read_text()
    assert len(example.splitlines()) <= 60
    assert f"```c\n{example}```" in (SOURCE / "README.md").read_text()
    make("all")
    bundle = image_bundle_of("vit")
    model = edgept.load(bundle, threads=1)
    frames = [photo(32, 32, seed=seed) for seed in range(3)]
    for prompt in prompts_for(model.manifest):
        path = tmp_path / "prompt.safetensors"
        write_prompt(prompt, path, overwrite=True)
        done = subprocess.run(
            [BUILD / "example_picture", bundle, path],
            input=b"".join(frame.tobytes() for frame in frames) + b"half a frame",
            capture_output=True,
        )
        if prompt.task == SEGMENTS:
            assert (done.returncode, done.stdout) == (2, b"")
            assert b"is for image-segmentation" in done.stderr
            continue
        assert done.returncode == 0, done.stderr
        expected = []
        for frame in frames:
            found = model.see(frame, prompt=model.load_prompt(path))
            if isinstance(found, edgept.ImageClassification):
                expected.append(f"{found.label} {found.probability:.3f}")
                continue
            assert isinstance(found, edgept.Detections)
            for item in found.found:
                box = " ".join(f"{side / 32:.3f}" for side in item.box)
                expected.append(f"{item.label} {item.score:.3f} at {box}")
        assert done.stdout.decode().splitlines() == expected
        assert expected
