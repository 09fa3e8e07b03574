"""Prompts for pictures, tuned for every family, and measured on what will run them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgept
from edgept.errors import IncompatibleError, UsageError

pytest.importorskip("torch", reason="needs the workstation's extra")

from edgept.tune import Settings, tune
from tests.image_models import KINDS, save_image_model
from tests.test_tune_images import CLASSES, write_coco, write_folder

TASKS = ("image-classification", "image-segmentation", "object-detection")


def quick(**options: Any) -> Settings:
    chosen: dict[str, Any] = {"steps": 6, "batch_size": 3, "virtual_tokens": 2, "eval_every": 3}
    return Settings(**{**chosen, **options})


def write_data(root: Path, task: str) -> Path:
    return write_folder(root, 6) if task == "image-classification" else write_coco(root, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_is_tuned(kind: str, tmp_path: Path) -> None:
    save_image_model(kind, tmp_path / "model")
    for task in TASKS:
        data = write_data(tmp_path / task, task)
        for method in ("vpt-deep", "vpt-shallow"):
            output = tmp_path / f"{task}-{method}.safetensors"
            settings = quick(task=task, method=method, patience=0)
            record = tune(str(tmp_path / "model"), data, output, settings, evaluation=data).record
            assert record["best_step"] > 0, (task, method)  # better than untrained
            assert all(norm > 0 for norm in record["gradient_norms"])


@pytest.mark.parametrize(
    ("kind", "task", "method", "precision"),
    [
        *[("vit", task, "vpt-deep", "fp32") for task in TASKS],
        ("vit", "image-classification", "head", "fp32"),
        ("vit", "image-segmentation", "vpt-shallow", "int8"),
        ("owlv2", "object-detection", "head", "fp32"),
    ],
)
def test_the_bundle_gives_what_pytorch_gave(
    kind: str,
    task: str,
    method: str,
    precision: str,
    tmp_path: Path,
    image_bundle_of: Callable[..., Path],
) -> None:
    bundle = image_bundle_of(kind, precision=precision)
    folder = image_bundle_of(kind).with_suffix(".model")
    data = write_data(tmp_path / "train", task)
    output = tmp_path / "p.safetensors"
    record = tune(
        str(folder), data, output, quick(task=task, method=method), evaluation=data, bundle=bundle
    ).record
    found = record["bundle"]
    assert set(found["metric"]) == set(record["best"]["metric"])
    is_float = precision == "fp32"
    assert record["trained_against"]["weights"] == ("float" if is_float else "bundle")
    assert abs(found["gap"]["loss"]) < (1e-4 if is_float else 0.02)
    if is_float:
        assert all(abs(gap) < 1e-4 for gap in found["gap"].values())
    prompt = edgept.read_prompt(output)
    model = edgept.load(bundle)
    seen = model.see(tmp_path / "train" / path_of(task), prompt=model.load_prompt(prompt))
    assert set(CLASSES) <= set(getattr(seen, "labels", ()))


def path_of(task: str) -> str:
    return "blue/0.png" if task == "image-classification" else "images/0.png"


def test_other_bundles_are_refused(tmp_path: Path, image_bundle_of: Callable[..., Path]) -> None:
    bundle = image_bundle_of("vit")
    save_image_model("dinov2", tmp_path / "other")
    data = write_folder(tmp_path / "train", 6)
    output = tmp_path / "p.safetensors"
    with pytest.raises(IncompatibleError, match="another model's bundle"):
        tune(str(tmp_path / "other"), data, output, quick(), evaluation=data, bundle=bundle)
    folder = str(bundle.with_suffix(".model"))
    with pytest.raises(UsageError, match="compared on held-out rows"):
        tune(folder, data, output, quick(), bundle=bundle)
    settings = quick(virtual_tokens=5000)
    with pytest.raises(IncompatibleError, match="takes prompts of"):
        tune(folder, data, output, settings, evaluation=data, bundle=bundle)
