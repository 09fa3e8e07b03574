"""Tuning against a quantised bundle, and on from a prompt that is there."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgept
from edgept.errors import IncompatibleError, UsageError
from edgept.prompt import Prompt
from edgept.prompt_file import write_prompt

pytest.importorskip("torch", reason="needs the workstation's extra")

from edgept.export.fingerprint import fingerprint
from edgept.tune import Settings, load_backbone, tune
from edgept.tune.head import Head
from edgept.tune.start import put_start

QUICK: dict[str, Any] = {
    "steps": 12,
    "batch_size": 4,
    "virtual_tokens": 5,
    "eval_every": 4,
    "eval_split": 0.25,
    "learning_rate": 0.05,
    "patience": 0,
}
STILL = 1e-9  # a learning rate that changes nothing that shows


def quick(**options: Any) -> Settings:
    return Settings(**{**QUICK, **options})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Short questions with one of three answers."""
    words = ["where", "is", "my", "parcel", "and", "when", "will", "it", "come"]
    rows = [
        {
            "input": f"{words[i % 9]} {words[(i * 2 + 1) % 9]}",
            "output": ["will come", "my parcel", "when"][i % 3],
        }
        for i in range(24)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Texts, each with the word that is its class."""
    labels = ("come", "parcel", "when")
    rows = [
        {"text": f"it {labels[i % 3]} {'is ' * (i % 4)}", "label": labels[i % 3]} for i in range(24)
    ]
    path = tmp_path / "classes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_quantised_bundle_is_trained_against_and_the_file_fits_all(
    tmp_path: Path,
    data: Path,
    model_folder: Callable[[str], Path],
    bundle_of: Callable[..., Path],
) -> None:
    backbone = load_backbone(str(model_folder("llama")))
    int4 = bundle_of("llama", "int4")
    made = tune(backbone, data, tmp_path / "p.safetensors", quick(), bundle=int4).record
    control = tune(
        *(backbone, data, tmp_path / "f.safetensors", quick(weights="float")), bundle=int4
    ).record
    assert made["trained_against"]["weights"] == "bundle"
    assert made["trained_against"]["precision"] == "int4"
    assert made["trained_against"]["matrices"] == 3 * 5 + 2  # q, k and v are one in the graph
    assert 0.03 < made["trained_against"]["relative_error"] < 0.15
    assert control["trained_against"] == {"weights": "float"}
    assert made["bundle"]["before"] is None
    # PyTorch saw what the bundle computes
    assert abs(made["bundle"]["gap"]["loss"]) < 0.2 * abs(control["bundle"]["gap"]["loss"])
    assert fingerprint(backbone.model) == backbone.fingerprint
    prompt = edgept.read_prompt(tmp_path / "p.safetensors")
    assert prompt.fingerprint == backbone.fingerprint
    for bundle in (int4, bundle_of("llama")):
        model = edgept.load(bundle)
        model.generate("where is", prompt=model.load_prompt(prompt), max_new_tokens=2)
    plain = tune(
        *(backbone, data, tmp_path / "q.safetensors", quick(steps=2)), bundle=bundle_of("llama")
    ).record
    assert plain["trained_against"] == {"weights": "float"}


@pytest.mark.parametrize("method", ["prompt-tuning", "prefix-tuning"])
def test_a_run_goes_on_from_a_prompt(
    method: str,
    tmp_path: Path,
    data: Path,
    model_folder: Callable[[str], Path],
    bundle_of: Callable[..., Path],
) -> None:
    backbone = load_backbone(str(model_folder("llama")))
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    made = tune(backbone, data, first, quick(method=method)).record
    options: dict[str, Any] = {"method": method, "virtual_tokens": 16}  # the default
    init = f"prompt:{first}"
    still = quick(**options, init=init, learning_rate=STILL, steps=2)
    again = tune(backbone, data, second, still, bundle=bundle_of("llama")).record
    assert again["validations"][0]["loss"] == pytest.approx(made["best"]["loss"], abs=1e-5)
    assert again["settings"]["virtual_tokens"] == 5
    for name, array in edgept.read_prompt(first).tensors.items():
        np.testing.assert_allclose(
            edgept.read_prompt(second).tensors[name], array, rtol=0, atol=1e-6
        )
    before = again["bundle"]["before"]
    assert before["loss"] == pytest.approx(again["bundle"]["loss"], abs=1e-5)
    better = tune(
        *(backbone, data, tmp_path / "third.safetensors", quick(**options, init=init)),
        bundle=bundle_of("llama"),
    ).record
    assert better["bundle"]["loss"] < better["bundle"]["before"]["loss"]
    assert better["bundle"]["before"]["loss"] == pytest.approx(before["loss"])


@pytest.mark.parametrize(("kind", "method"), [("bert", "prompt-tuning"), ("llama", "head")])
def test_a_head_goes_on_with_its_own_order_of_classes(
    kind: str, method: str, tmp_path: Path, classes: Path, model_folder: Callable[[str], Path]
) -> None:
    backbone = load_backbone(str(model_folder(kind)), task="text-classification")
    rates = {"learning_rate": None if method == "head" else 0.02, "head_learning_rate": 0.05}
    options: dict[str, Any] = {"method": method, "task": "text-classification", **rates}
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    made = tune(backbone, classes, first, quick(**options)).record
    prompt = edgept.read_prompt(first)
    order = [2, 0, 1]
    turned = {
        name: array[order] if name in ("head.weight", "head.bias") else array
        for name, array in prompt.tensors.items()
    }
    labels = tuple(prompt.labels[index] for index in order)
    moved = tmp_path / "moved.safetensors"
    write_prompt(replace(prompt, tensors=turned, labels=labels), moved)
    rates = {name: STILL if rate else None for name, rate in rates.items()}
    settings = quick(**{**options, **rates, "init": f"prompt:{moved}", "steps": 1})
    record = tune(backbone, classes, second, settings).record
    assert record["labels"] == list(labels)
    assert record["validations"][0]["loss"] == pytest.approx(made["best"]["loss"], abs=1e-5)
    np.testing.assert_allclose(
        edgept.read_prompt(second).tensors["head.weight"], turned["head.weight"], atol=1e-6
    )
    more = tmp_path / "more.jsonl"
    more.write_text(classes.read_text() + '{"text": "it is", "label": "another"}\n')
    with pytest.raises(UsageError, match=r"'another'.*no row for"):
        tune(backbone, more, tmp_path / "x.safetensors", replace(settings, eval_split=None))


def test_what_a_run_cannot_go_on_from(
    tmp_path: Path, data: Path, classes: Path, model_folder: Callable[[str], Path]
) -> None:
    backbone = load_backbone(str(model_folder("llama")))
    first, output = tmp_path / "first.safetensors", tmp_path / "x.safetensors"
    tune(backbone, data, first, quick(steps=1))
    init = f"prompt:{first}"
    with pytest.raises(UsageError, match=r"prompt_embeds.*--method prompt-tuning"):
        tune(backbone, data, output, quick(init=init, method="prefix-tuning"))
    with pytest.raises(UsageError, match="5 virtual tokens, and 7"):
        tune(backbone, data, output, quick(init=init, virtual_tokens=7))
    with pytest.raises(UsageError, match="--method prompt-tuning"):
        quick(init=init, method="p-tuning")
    with pytest.raises(UsageError, match="a file behind 'prompt:'"):
        quick(init="prompt:")
    with pytest.raises(UsageError, match="No such file"):
        tune(backbone, data, output, quick(init=f"prompt:{tmp_path / 'none.pt'}"))
    with pytest.raises(IncompatibleError, match="another model"):
        tune(load_backbone(str(model_folder("qwen2"))), data, output, quick(init=init))
    with pytest.raises(UsageError, match="has no head"):
        tune(
            load_backbone(str(model_folder("llama")), task="text-classification"),
            *(classes, output, quick(init=init, task="text-classification")),
        )
    with pytest.raises(UsageError, match="weights is"):
        quick(weights="int4")


def test_a_resumed_run_wants_the_same_start_and_bundle(
    tmp_path: Path,
    data: Path,
    model_folder: Callable[[str], Path],
    bundle_of: Callable[..., Path],
) -> None:
    backbone = load_backbone(str(model_folder("llama")))
    first, output = tmp_path / "first.safetensors", tmp_path / "p.safetensors"
    tune(backbone, data, first, quick(steps=1))
    settings = quick(steps=2, init=f"prompt:{first}")
    made = tune(backbone, data, output, settings, bundle=bundle_of("llama", "int4"))
    again = tune(backbone, data, output, settings, bundle=bundle_of("llama", "int4"), resume=True)
    assert again.record == made.record
    with pytest.raises(UsageError, match="is not this run's"):
        tune(backbone, data, output, settings, bundle=bundle_of("llama"), resume=True)
    tune(backbone, data, first, quick(steps=2), force=True)
    with pytest.raises(UsageError, match="is not this run's"):
        tune(backbone, data, output, settings, bundle=bundle_of("llama", "int4"), resume=True)


def test_a_head_without_a_bias_is_one_of_zeros() -> None:
    """A decoder's head has none, and so has a prompt file of it."""
    weight = np.arange(24, dtype=np.float32).reshape(3, 8)
    start = Prompt({"head.weight": weight}, name="start", task="text-classification")
    for bias in (False, True):
        head = Head(8, 3, bias=bias)
        put_start(head, start)
        np.testing.assert_array_equal(head.weight.detach().numpy(), weight)
        assert head.bias is None or not head.bias.detach().any()
    dense = replace(start, tensors={**start.tensors, "head.dense.weight": weight})
    with pytest.raises(IncompatibleError, match=r"head\.dense\.weight, which this model"):
        put_start(Head(8, 3), dense)
