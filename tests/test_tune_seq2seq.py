"""Tuning encoder-decoders: what is learnt is what peft computes, and the bundle computes it, too."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgept
from edgept.errors import UsageError
from edgept.manifest import SEQ2SEQ_TASK

pytest.importorskip("torch", reason="needs the workstation's extra")

from edgept.tune import Settings, load_backbone, tune
from tests.seq2seq_models import LAYERS

QUICK: dict[str, Any] = {
    "steps": 20,
    "batch_size": 4,
    "virtual_tokens": 5,
    "eval_every": 10,
    "eval_split": 0.25,
    "patience": 0,
}
# (family, method): rows of both kinds, prefixes of an odd and an even number of layers, an own scale
CASES = [
    ("t5", "prompt-tuning"),
    ("t5", "prefix-tuning"),
    ("bart", "p-tuning"),
    ("bart", "prefix-tuning"),
    ("marian", "prompt-tuning"),
]
RATES = {"p-tuning": 0.01, "prefix-tuning": 0.5}


@pytest.fixture
def folders(
    model_folder: Callable[[str], Path], bundle_of: Callable[..., Path]
) -> Callable[[str], tuple[Path, Path]]:
    """A function from a family to a saved random model and its bundle."""
    return lambda kind: (model_folder(kind), bundle_of(kind))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Requests of different lengths, each with one of three answers."""
    words = ["where", "is", "my", "parcel", "and", "when", "will", "it", "come"]
    rows = [
        {
            "input": " ".join(words[i % 9 : i % 9 + 1 + i % 4]),
            "output": ["will come", "my parcel", "when"][i % 3],
        }
        for i in range(24)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def quick(**options: Any) -> Settings:
    return Settings(**{**QUICK, **options})


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_each_method_learns_and_runs_on_the_bundle(
    kind: str,
    method: str,
    tmp_path: Path,
    data: Path,
    folders: Callable[[str], tuple[Path, Path]],
) -> None:
    model, bundle = folders(kind)
    output = tmp_path / "p.safetensors"
    settings = quick(method=method, learning_rate=RATES.get(method, 0.1))
    record = tune(str(model), data, output, settings, bundle=bundle).record
    assert record["settings"]["task"] == SEQ2SEQ_TASK
    assert record["best"]["loss"] < record["validations"][0]["loss"] - 0.01
    # the device computes what was trained
    assert abs(record["bundle"]["gap"]["loss"]) < 1e-4
    assert record["bundle"]["gap"]["exact_match"] == 0
    plain = record["without_prompt"]["loss"]
    assert record["bundle"]["loss_without_prompt"] == pytest.approx(plain, abs=1e-4)
    prompt = edgept.read_prompt(output)
    assert (prompt.task, prompt.num_virtual_tokens) == (SEQ2SEQ_TASK, 5)
    if method == "prefix-tuning":
        cache = prompt.tensors["prompt_kv"]
        assert len(cache) == LAYERS[kind][1]
        # each layer learns by itself
        assert len({layer.tobytes() for layer in cache}) == len(cache)
    device = edgept.load(bundle)
    found = device.generate("where is", prompt=device.load_prompt(prompt), max_new_tokens=4)
    assert found.token_ids


def test_it_goes_on_from_a_prefix(
    tmp_path: Path, data: Path, folders: Callable[[str], tuple[Path, Path]]
) -> None:
    backbone = load_backbone(str(folders("bart")[0]))
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    method: dict[str, Any] = {"method": "prefix-tuning", "steps": 2}
    made = tune(backbone, data, first, quick(**method)).record
    again = quick(**method, init=f"prompt:{first}", learning_rate=1e-9)
    record = tune(backbone, data, second, again).record
    assert record["validations"][0]["loss"] == pytest.approx(made["best"]["loss"], abs=1e-5)
    np.testing.assert_allclose(
        edgept.read_prompt(second).tensors["prompt_kv"],
        edgept.read_prompt(first).tensors["prompt_kv"],
        atol=1e-6,
    )


def test_what_is_refused(
    tmp_path: Path, data: Path, folders: Callable[[str], tuple[Path, Path]]
) -> None:
    backbone = load_backbone(str(folders("bart")[0]))
    output = tmp_path / "p.safetensors"
    for method, words in (("cpt", "reads no answers there"), ("head", "has no head")):
        with pytest.raises(UsageError, match=words):
            tune(backbone, data, output, quick(method=method, init=None))
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "where is my parcel"}\n' * 8)
    with pytest.raises(UsageError, match="columns input and output"):
        tune(backbone, text, output, quick())
