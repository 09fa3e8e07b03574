"""Encoder-decoders in C against the Python runtime, greedy, under their own rules."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgept
from edgept.manifest import SEQ2SEQ_TASK, Manifest
from edgept.prompt import Prompt
from edgept.prompt_file import write_prompt
from tests.c_library import CModel, CStatusError

pytest.importorskip("torch", reason="needs edgept[export]")

from tests.conftest import matrix
from tests.seq2seq_models import VOCABULARY
from tests.test_c_runtime import set_metadata


def texts() -> list[list[int]]:
    chosen = np.random.default_rng(3)
    return [chosen.integers(14, VOCABULARY, length).tolist() for length in (1, 4, 12, 30)]


def prompts(manifest: Manifest) -> list[Prompt]:
    chosen = np.random.default_rng(4)
    assert manifest.kv is not None
    kv = manifest.kv
    tensors: list[dict[str, Any]] = [
        {"prompt_embeds": chosen.standard_normal((5, manifest.hidden_size))},
        {"prompt_kv": chosen.standard_normal((kv.num_layers, 2, kv.num_kv_heads, 5, kv.head_dim))},
    ]
    return [
        Prompt(
            {name: array.astype(np.float32) for name, array in item.items()},
            fingerprint=manifest.fingerprint,
            task=SEQ2SEQ_TASK,
        )
        for item in tensors
    ]


# Bart: first and last tokens, repeated n-grams, least lengths; Marian: words never said; Pegasus: others.
@pytest.mark.parametrize("kind", matrix(["bart", "marian"], ["pegasus"]))
def test_greedy_answers_are_the_same(
    kind: str, bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    model, in_c = edgept.load(bundle_of(kind), threads=1), CModel(bundle_of(kind))
    resident: list[tuple[Any, Any]] = [(None, None)]
    for number, prompt in enumerate(prompts(model.manifest)):
        path = tmp_path / f"{number}.safetensors"
        write_prompt(prompt, path)
        resident.append((model.load_prompt(path), in_c.load_prompt(path)))
    ends = set()
    for ids in texts():
        for in_python, prompt_in_c in resident:
            for options in (
                {"max_new_tokens": 64},
                {"max_new_tokens": 9, "repetition_penalty": 1.2},
                {"max_new_tokens": 500},
            ):
                expected = model.generate(ids, prompt=in_python, num_beams=1, **options)
                tokens, finish, latency = in_c.generate(ids, prompt_in_c, **options)
                assert tokens == expected.token_ids
                assert finish == expected.finish_reason
                assert latency.virtual_tokens == expected.latency.virtual_tokens
                ends.add(finish)
    assert ends <= {"eos", "length", "full"}
    logits = [in_c.prefill(texts()[1]), in_c.step(20), in_c.step(30)]
    runner: Any = model._runner
    expected_logits = runner.logits(model._compose(texts()[1], None), [20, 30])
    np.testing.assert_allclose(np.stack(logits), expected_logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(CStatusError, match="positions"):
        in_c.generate([20] * (model.max_length + 1))
    in_c.close()


def test_graphs_that_do_not_belong_together(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    """The decoder is of another model, or the start token is none that it writes."""
    changes: dict[str, dict[str, str]] = {
        "decoder.onnx": {"edgept.fingerprint": "0" * 64},
        "encoder.onnx": {
            "edgept.vocab_size": "9999",
            "edgept.decoding.start_token_id": "9998",
        },
    }
    CModel(bundle_of("bart")).close()
    for name, entries in changes.items():
        folder = tmp_path / name
        shutil.copytree(bundle_of("bart"), folder)
        set_metadata(folder / name, entries)
        with pytest.raises(CStatusError) as caught:
            CModel(folder)
        assert caught.value.reason == "manifest-malformed"
