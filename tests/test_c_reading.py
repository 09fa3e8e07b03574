"""Models that read and do not write, in C against the Python runtime: classes, vectors, outputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgept
from edgept.manifest import Manifest
from edgept.prompt import Prompt
from edgept.prompt_file import write_prompt
from tests.c_library import CModel, CStatusError

TEXTS = [[5], [5, 9, 77, 130, 200, 31, 4], list(range(3, 90))]


def with_head(
    manifest: Manifest,
    classes: int,
    *,
    rows: int = 0,
    prefix: int = 0,
    labels: bool = True,
    bias: bool = True,
) -> Prompt:
    chosen = np.random.default_rng(classes + rows)
    size = manifest.head_size
    assert size is not None

    def array(*shape: int) -> Any:
        return chosen.standard_normal(shape).astype(np.float32) * 0.3

    tensors = {"head.weight": array(classes, size)}
    if bias:
        tensors["head.bias"] = array(classes)
    if manifest.head_dense:
        tensors |= {"head.dense.weight": array(size, size), "head.dense.bias": array(size)}
    if rows:
        tensors["prompt_embeds"] = array(rows, manifest.hidden_size)
    if prefix:
        kv = manifest.kv
        assert kv is not None
        tensors["prompt_kv"] = array(kv.num_layers, 2, kv.num_kv_heads, prefix, kv.head_dim)
    return Prompt(
        tensors,
        name=f"{classes} classes",
        fingerprint=manifest.fingerprint,
        task=manifest.task,
        labels=tuple(f"klaſſe {index}" for index in range(classes)) if labels else (),
    )


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama"])
def test_classes_are_the_same_under_any_head(
    kind: str, bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    """One layer, two layers, and a decoder, whose prompt's keys and values stand in front."""
    bundle = bundle_of(kind, "fp32", "text-classification")
    model, in_c = edgept.load(bundle, threads=1), CModel(bundle)
    with pytest.raises(CStatusError, match="no head of its own"):
        in_c.classify(TEXTS[0])
    for number, prompt in enumerate(
        [
            with_head(model.manifest, 2, rows=6),
            with_head(model.manifest, 5, bias=False),
            with_head(model.manifest, 3, rows=1, labels=False),
            with_head(model.manifest, 4, prefix=5),
        ]
    ):
        path = tmp_path / f"{number}.safetensors"
        write_prompt(prompt, path)
        resident, resident_in_c = model.load_prompt(path), in_c.load_prompt(path)
        padded = [] if model.manifest.pad_token_id is None else [[5, 9, 2, 2], [2, 2]]
        for ids in TEXTS + padded:
            expected = model.classify(ids, prompt=resident)
            label, logits, probabilities = in_c.classify(ids, resident_in_c)
            np.testing.assert_array_equal(logits, expected.logits)
            np.testing.assert_allclose(probabilities, expected.probabilities, rtol=1e-12)
            assert label == expected.label
            named = [
                in_c.library.edgept_bundle_label(in_c.bundle, resident_in_c, index).decode()
                for index in range(len(logits))
            ]
            assert tuple(named) == expected.labels
    with pytest.raises(CStatusError, match="positions"):
        in_c.classify([5] * 257, resident_in_c)
    in_c.close()


def test_heads_that_do_not_fit(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    bundle = bundle_of("roberta", "fp32", "text-classification")
    model, in_c = edgept.load(bundle, threads=1), CModel(bundle)
    whole = with_head(model.manifest, 2)
    parts: dict[str, Any] = dict(whole.tensors)
    wrong: dict[str, dict[str, Any]] = {
        "one layer": {name: parts[name] for name in ("head.weight", "head.bias")},
        "one class": {**parts, "head.weight": parts["head.weight"][:1], "head.bias": np.zeros(1)},
        "none of its own": {"prompt_embeds": np.ones((2, 64), np.float32)},
    }
    for number, (found, tensors) in enumerate(wrong.items()):
        path = tmp_path / f"{number}.safetensors"
        write_prompt(Prompt(tensors, fingerprint=whole.fingerprint, task=whole.task), path)
        with pytest.raises(edgept.IncompatibleError):
            model.load_prompt(path)
        with pytest.raises(CStatusError, match=found) as caught:
            in_c.load_prompt(path)
        assert caught.value.status == 4
    in_c.close()


def test_vectors_and_hidden_states(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    bundle = bundle_of("bert", "fp32", "feature-extraction")
    model, in_c = edgept.load(bundle, threads=1), CModel(bundle)
    rows = np.random.default_rng(0).standard_normal((7, 64)).astype(np.float32)
    path = tmp_path / "rows.safetensors"
    manifest = model.manifest
    write_prompt(
        Prompt({"prompt_embeds": rows}, fingerprint=manifest.fingerprint, task=manifest.task), path
    )
    prompts = [(None, None), (model.load_prompt(path), in_c.load_prompt(path))]
    for ids in TEXTS:
        for in_python, resident in prompts:
            expected = model.outputs(ids, prompt=in_python)
            np.testing.assert_array_equal(in_c.outputs(ids, resident), expected)
            vector = model.embed(ids, prompt=in_python).vector
            np.testing.assert_allclose(in_c.embed(ids, resident), vector, rtol=1e-5, atol=1e-6)
    types = [0, 0, 0, 0, 1, 1, 1]
    assert (in_c.outputs(TEXTS[1], None, types) != in_c.outputs(TEXTS[1])).any()
    np.testing.assert_array_equal(in_c.outputs(TEXTS[1], None, [0] * 7), in_c.outputs(TEXTS[1]))
    with pytest.raises(CStatusError, match="writes no text"):
        in_c.generate(TEXTS[1])
    in_c.close()
