"""Token classification on the device, against transformers' pipeline and against peft."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgept
from edgept import Model, Prompt, UsageError
from edgept.runtime.tagger import AGGREGATIONS
from tests.encoder_bundles import TEXTS, fine_tuned, own_head, with_tokenizer, word_pieces
from tests.peft_adapters import other_peoples_warnings

pytest.importorskip("torch", reason="needs edgept[export]")

TASK = "token-classification"
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
AUTO = "AutoModelForTokenClassification"


@pytest.fixture(scope="module")
def plain_bundle(bundle_of: Callable[..., Path]) -> Path:
    """With a byte-level tokenizer, which marks no words."""
    return bundle_of("bert", "fp32", TASK)


@pytest.fixture(scope="module")
def model(plain_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("tagger") / "bundle"
    return edgept.load(with_tokenizer(plain_bundle, word_pieces(), folder), threads=1)


@pytest.fixture(scope="module")
def reference(model_folder: Callable[[str], Path]) -> Any:
    return fine_tuned(model_folder("bert"), AUTO, *LABELS)


def rows(count: int = 5, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=(count, 64)).astype(np.float32)


def pipeline(reference: Any, tokenizer: Any, aggregation: str, text: str) -> list[dict[str, Any]]:
    from transformers import TokenClassificationPipeline

    tagger: Any = TokenClassificationPipeline(model=reference, tokenizer=tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of heuristics for tokenizers that mark no words
        found: list[dict[str, Any]] = tagger(text, aggregation_strategy=aggregation)
    return found


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("kind", ["word pieces", "bytes"])
def test_entities_are_those_of_transformers(
    kind: str, aggregation: str, model: Model, plain_bundle: Path, reference: Any
) -> None:
    from transformers import AutoTokenizer

    if kind == "bytes":
        model = edgept.load(plain_bundle, threads=1)
    tokenizer: Any = AutoTokenizer.from_pretrained(model.bundle)
    tokenizer.model_max_length = 256
    prompt = own_head(model, reference)
    texts = [*TEXTS, " ".join(TEXTS)]
    batch = model.tag_batch([(text, prompt) for text in texts], aggregation=aggregation)
    total = 0
    for text, tagging in zip(texts, batch, strict=True):
        expected = pipeline(reference, tokenizer, aggregation, text)
        for found in (tagging, model.tag(text, prompt=prompt, aggregation=aggregation)):
            assert [(item.start, item.end) for item in found.entities] == [
                (item["start"], item["end"]) for item in expected
            ]
            named = "entity" if aggregation == "none" else "entity_group"
            assert [item.label for item in found.entities] == [item[named] for item in expected]
            scores = [float(item["score"]) for item in expected]
            np.testing.assert_allclose([item.score for item in found.entities], scores, rtol=1e-4)
            for item in found.entities:
                assert item.text == text[item.start : item.end]
            assert (found.truncated, found.prompt) == (0, "p")
        total += len(expected)
    assert total > 5


def test_virtual_tokens_have_logits_as_in_peft_and_no_entities(
    model: Model, reference: Any, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    import peft
    import torch

    torch.manual_seed(17)
    config = peft.PromptTuningConfig(task_type="TOKEN_CLS", num_virtual_tokens=7)
    with other_peoples_warnings(), torch.no_grad():
        adapted: Any = peft.get_peft_model(copy.deepcopy(reference), config)
        for parameter in adapted.prompt_encoder.parameters():
            parameter.normal_(std=0.4)
        adapted.eval().save_pretrained(str(tmp_path / "adapter"))
    prompt = model.load_prompt(tmp_path / "adapter")
    assert prompt.num_virtual_tokens == 7
    batch = model.outputs_batch([(text, prompt) for text in TEXTS])
    for text, found in zip(TEXTS, batch, strict=True):
        encoded = word_pieces()(text, return_tensors="pt")
        with other_peoples_warnings(), torch.no_grad():
            expected = adapted(**encoded).logits[0].numpy()  # (virtual + text tokens, classes)
        assert found.shape == expected.shape == (7 + encoded.input_ids.shape[1], len(LABELS))
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
        # a word's class is that of its own row, behind the virtual tokens and [CLS]
        offsets = word_pieces()(text, return_offsets_mapping=True).offset_mapping
        classes = expected[7:].argmax(-1).tolist()
        wanted = [
            (*place, prompt.prompt.class_names[index])
            for place, index in zip(offsets[1:-1], classes[1:-1], strict=True)
        ]
        tagging = model.tag(text, prompt=prompt, aggregation="none")
        entities = {(item.start, item.end, item.label) for item in tagging.entities}
        assert entities == {item for item in wanted if item[2] != "O"}
        assert tagging.latency.virtual_tokens == 7
        assert tagging.latency.input_tokens == len(offsets)
    plain = own_head(model, reference)
    assert np.abs(model.outputs(TEXTS[0], prompt=plain) - batch[0][7:]).max() > 1e-2


def test_heads_of_2_and_9_classes_swap_and_come_back_exactly(model: Model) -> None:
    random = np.random.default_rng(0)

    def load(classes: int, name: str) -> edgept.LoadedPrompt:
        head = random.normal(size=(classes, 64)).astype(np.float32)
        tensors = {"head.weight": head, "prompt_embeds": rows(classes)}
        return model.load_prompt(Prompt(tensors, name, task=TASK))

    small, large = load(2, "small"), load(9, "large")
    before = model.tag(TEXTS[0], prompt=small, aggregation="none")
    between = model.tag(TEXTS[0], prompt=large, aggregation="none")
    after = model.tag(TEXTS[0], prompt=small, aggregation="none")
    assert before.entities == after.entities
    assert between.entities != before.entities
    assert model.outputs(TEXTS[0], prompt=large).shape[1] == 9
    mixed = model.tag_batch(
        [(text, prompt) for text in TEXTS for prompt in (small, large)], aggregation="none"
    )
    for tagging, (text, prompt) in zip(
        mixed, ((text, prompt) for text in TEXTS for prompt in (small, large)), strict=True
    ):
        alone = model.tag(text, prompt=prompt, aggregation="none")
        assert [item.label for item in tagging.entities] == [item.label for item in alone.entities]
        assert tagging.prompt == prompt.name
    assert model.tag_batch([]) == []


def test_prompts_whose_heads_agree_share_a_run(model: Model, reference: Any) -> None:
    """Rows of other prompts, equal heads: one run, in which each row is what it is alone."""
    prompts = [
        own_head(model, reference, rows(3, 1), "a"),
        own_head(model, reference, rows(8, 2), "b"),
        own_head(model, reference, None, "c"),
    ]
    requests = [(text, prompt) for text in TEXTS for prompt in prompts]
    outputs = model.outputs_batch(requests)
    for (text, prompt), found in zip(requests, outputs, strict=True):
        alone = model.outputs(text, prompt=prompt)
        assert found.shape == alone.shape
        assert np.abs(found - alone).max() < 1e-5 * np.abs(alone).max()
    batch = model.tag_batch(requests)  # 15 rows
    assert len({tagging.latency.prefill_ms for tagging in batch}) == 1
    assert [tagging.prompt for tagging in batch] == ["a", "b", "c"] * len(TEXTS)


def test_long_texts_are_refused_or_cut_and_say_so(model: Model, reference: Any) -> None:
    prompt = own_head(model, reference, rows(6))
    text = "where is Anna " * 100
    with pytest.raises(UsageError, match=r"takes 408 positions .*truncate=True"):
        model.tag(text, prompt=prompt)
    found = model.tag(text, prompt=prompt, aggregation="none", truncate=True)
    tokens = len(word_pieces()(text).input_ids)
    assert found.truncated == tokens - (256 - 6)
    assert found.latency.input_tokens == 250
    kept = word_pieces()(text, truncation=True, max_length=250)
    np.testing.assert_array_equal(
        model.outputs(text, prompt=prompt, truncate=True),
        model.outputs(kept.input_ids, prompt=prompt),
    )
    assert all(item.end is not None and item.end < 0.65 * len(text) for item in found.entities)
    assert model.tag(TEXTS[0], prompt=prompt, truncate=True).truncated == 0


def test_ids_have_entities_without_a_place(model: Model, reference: Any) -> None:
    prompt = own_head(model, reference)
    from_text = model.tag(TEXTS[0], prompt=prompt)
    from_ids = model.tag(word_pieces()(TEXTS[0]).input_ids, prompt=prompt)
    assert [item.label for item in from_ids.entities] == [item.label for item in from_text.entities]
    assert {(item.start, item.end) for item in from_ids.entities} == {(None, None)}
    assert all(item.text for item in from_ids.entities)


def test_what_cannot_be_tagged(model: Model, reference: Any) -> None:
    prompt = own_head(model, reference)
    with pytest.raises(UsageError, match="no token classification head of its own"):
        model.tag("a")
    with pytest.raises(UsageError, match="expected one of none, simple"):
        model.tag("a", prompt=prompt, aggregation="best")
    with pytest.raises(UsageError, match="a pair, which a classifier of texts takes"):
        model.tag(("a", "b"), prompt=prompt)
    calls: dict[str, Callable[[], object]] = {
        "classify": lambda: model.classify("a", prompt=prompt),
        "answer_batch": lambda: model.answer_batch([(("a", "b"), prompt)]),
        "embed": lambda: model.embed("a"),
        "generate": lambda: model.generate("a"),
    }
    for name, call in calls.items():
        with pytest.raises(UsageError, match=rf"model\.{name} on .*Call model\.tag or model\.tag_"):
            call()
