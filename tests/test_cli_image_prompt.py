"""Prompts for image models: packed from bare tensors, inspected, and exported for onnxruntime."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import edgept
from edgept.cli import main
from edgept.errors import UsageError
from edgept.pictures import Preprocessor
from edgept.prompt_source import bind
from tests.image_models import HIDDEN, LAYERS
from tests.test_seeing import CLASSIFIES, DETECTS, SEGMENTS, make_prompt, photo


def edgept_main(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def bundle(image_bundle_of: Callable[..., Path]) -> Path:
    return image_bundle_of("vit")


def save(tensors: dict[str, Any], path: Path) -> Path:
    """Bare tensors as a training script leaves them."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file(tensors, path)
    elif path.suffix == ".npy":
        np.save(path, tensors["prompt_embeds"])
    else:
        import torch

        torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
@pytest.mark.parametrize("task", [CLASSIFIES, SEGMENTS, DETECTS])
def test_bare_tensors_are_packed(bundle: Path, tmp_path: Path, task: str, suffix: str) -> None:
    prompt = make_prompt(task, deep=True)
    source = save(dict(prompt.tensors), tmp_path / f"eyes{suffix}")
    packed = tmp_path / "packed" / "eyes.safetensors"
    packed.parent.mkdir()
    options = [] if task == DETECTS else ["--task", task]
    options += ["--labels", ",".join(prompt.labels)]
    result = edgept_main("prompt", "pack", source, "-b", bundle, "-o", packed, *options)
    assert result.exit_code == 0, result.output
    assert "eyes, 4 virtual tokens in each of 3 layers, 3 classes" in result.stdout
    read = edgept.read_prompt(packed)
    assert (read.task, read.labels, read.name) == (task, prompt.labels, "eyes")
    assert set(read.tensors) == set(prompt.tensors)
    model = edgept.load(bundle, threads=1)
    found = model.see(photo(), prompt=model.load_prompt(packed), threshold=0)
    expected = model.see(photo(), prompt=model.load_prompt(prompt), threshold=0)
    for one, other in zip(vars(found).items(), vars(expected).items(), strict=True):
        if one[0] not in ("latency", "prompt"):
            assert np.array_equal(one[1], other[1]), one[0]
    shown = json.loads(edgept_main("prompt", "inspect", packed, "--json").stdout)
    assert (shown["task"], shown["virtual_tokens"]) == (task, 4)
    assert shown["tensors"]["prompt_embeds"]["shape"] == [LAYERS, 4, HIDDEN]


def test_rows_alone_are_shallow(image_bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    bundle = image_bundle_of("vit", ("cat", "dog", "emu"))
    rows = np.ones((5, HIDDEN), np.float32)
    for name, array in (("flat.npy", rows), ("layered.npy", rows[None])):
        source = save({"prompt_embeds": array}, tmp_path / name)
        packed = tmp_path / f"{name}.safetensors"
        result = edgept_main("prompt", "pack", source, "-b", bundle, "-o", packed)
        assert result.exit_code == 0, result.output
        read = edgept.read_prompt(packed)
        assert read.tensors["prompt_embeds"].shape == (1, 5, HIDDEN)
        assert (read.task, read.labels) == (CLASSIFIES, ("cat", "dog", "emu"))
        direct = edgept.load(bundle, threads=1)
        assert direct.see(photo(), prompt=direct.load_prompt(source)).prompt == source.stem


@pytest.mark.parametrize(
    ("tensors", "options", "code", "says"),
    [
        ({"prompt_embeds": (5, HIDDEN)}, [], 4, "has no head"),
        ({"prompt_embeds": (5, HIDDEN + 1)}, [], 4, "prompt_embeds has shape"),
        ({"prompt_embeds": (2, 5, HIDDEN)}, [], 4, "prompt_embeds has shape"),
        ({"prompt_embeds": (1, 1, 5, HIDDEN)}, [], 3, "2 or 3 dimensions"),
        ({"head.weight": (3, HIDDEN)}, ["--task", DETECTS], 4, "lacks prompt_embeds, box.weight"),
        ({"head.weight": (3, HIDDEN)}, [], 2, "pack --task"),
        ({"head.weight": (3, HIDDEN)}, ["--task", "text-generation"], 2, "are for image-class"),
        ({"head.weight": (3, HIDDEN), "box.bias": (4,)}, [], 4, "carries box.bias"),
    ],
)
def test_what_does_not_fit_is_refused(
    bundle: Path,
    tmp_path: Path,
    tensors: dict[str, tuple[int, ...]],
    options: list[str],
    code: int,
    says: str,
) -> None:
    arrays = {name: np.ones(shape, np.float32) for name, shape in tensors.items()}
    source = save(arrays, tmp_path / "eyes.safetensors")
    target = tmp_path / "out.safetensors"
    result = edgept_main("prompt", "pack", source, "-b", bundle, "-o", target, *options)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert not target.exists()


def test_a_head_without_a_task_is_not_run_and_fits(bundle: Path, tmp_path: Path) -> None:
    source = save(dict(make_prompt(tokens=0).tensors), tmp_path / "head.safetensors")
    with pytest.raises(UsageError, match="nothing in it says what for"):
        edgept.load(bundle, threads=1).load_prompt(source)
    shown = edgept_main("prompt", "inspect", source, "--bundles", bundle.parent, "--json")
    assert shown.exit_code == 0, shown.output
    fits = {row["bundle"]: row["why"] for row in json.loads(shown.stdout)["bundles"] if row["fits"]}
    assert fits[str(bundle)] == "shape only"


@pytest.mark.parametrize(("task", "deep"), [(CLASSIFIES, False), (DETECTS, True)])
def test_onnxruntime_takes_the_exported_adapter(
    bundle: Path, tmp_path: Path, task: str, deep: bool
) -> None:
    import onnxruntime

    model = edgept.load(bundle, threads=1)
    prompt = bind(make_prompt(task, deep=deep), model.manifest)
    source = tmp_path / "eyes.safetensors"
    edgept.write_prompt(prompt, source)
    adapter = tmp_path / "eyes.onnx_adapter"
    arguments = ["prompt", "export", source, "-b", bundle, "-o", adapter]
    result = edgept_main(*arguments, "--format", "onnx-adapter")
    assert result.exit_code == 0, result.output
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(bundle / "model.onnx", options)
    active = onnxruntime.LoraAdapter()
    active.Load(str(adapter))
    run_options = onnxruntime.RunOptions()
    run_options.add_active_adapter(active)
    pixels = Preprocessor.from_bundle(bundle)(Image.fromarray(photo()), whole=task == DETECTS)
    logits, boxes = session.run(["logits", "boxes"], {"pixel_values": pixels[None]}, run_options)
    assert logits.shape == (1, 1 + 4 + 16, 3)
    loaded = model.load_prompt(prompt)
    if task == CLASSIFIES:
        classified = model.classify_image(photo(), prompt=loaded)
        assert np.abs(classified.logits - logits[0, 0]).max() < 1e-5
    else:
        found = model.detect(photo(), prompt=loaded, threshold=0)
        widths = sorted(right - left for left, _, right, _ in (item.box for item in found.found))
        x, side = boxes[0, 1:5, 0], boxes[0, 1:5, 2]
        shares = (x + side / 2).clip(0, 1) - (x - side / 2).clip(0, 1)
        assert np.allclose(widths, sorted(56 * shares), atol=1e-3)


def test_a_peft_folder_cannot_hold_one(bundle: Path, tmp_path: Path) -> None:
    model = edgept.load(bundle, threads=1)
    source = tmp_path / "eyes.safetensors"
    edgept.write_prompt(bind(make_prompt(), model.manifest), source)
    result = edgept_main(
        "prompt", "export", source, "-b", bundle, "-o", tmp_path / "folder", "--format", "peft"
    )
    assert result.exit_code == 4
    assert "Export it as onnx-adapter" in result.stderr
