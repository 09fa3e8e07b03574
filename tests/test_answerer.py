"""Question answering on the device, against what transformers' pipeline computed until version 4.

Version 5 of transformers has no such pipeline any more, so its rules are written out here plainly, over
PyTorch's logits and the windows of transformers' tokenizer.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgept
from edgept import Model, Prompt, UsageError
from tests.encoder_bundles import TEXTS, fine_tuned, own_head, with_tokenizer, word_pieces
from tests.peft_adapters import other_peoples_warnings

pytest.importorskip("torch", reason="needs edgept[export]")

TASK = "question-answering"
QUESTION = "where is Anna"
SHORT = TEXTS[0]
LONG = " ".join([*TEXTS, *TEXTS[::-1], TEXTS[3]])


@pytest.fixture(scope="module")
def model(bundle_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("answerer") / "bundle"
    bundle = bundle_of("bert", "fp32", TASK)
    return edgept.load(with_tokenizer(bundle, word_pieces(), folder), threads=1)


@pytest.fixture(scope="module")
def reference(model_folder: Callable[[str], Path]) -> Any:
    return fine_tuned(model_folder("bert"), "AutoModelForQuestionAnswering", "start", "end")


def pipeline(
    reference: Any,
    context: str,
    *,
    top_k: int = 1,
    max_answer_len: int = 15,
    handle_impossible_answer: bool = False,
    align_to_words: bool = True,
    max_seq_len: int = 256,
    doc_stride: int = 128,
) -> list[tuple[str, float, int, int]]:
    """The pipeline's answers: text, score, start and end."""
    import torch

    encoded = word_pieces()(
        QUESTION,
        context,
        truncation="only_second",
        max_length=max_seq_len,
        stride=doc_stride,
        return_overflowing_tokens=True,
    )
    found: list[list[Any]] = []
    none = 1e6
    for window in encoded.encodings:
        tensors = {
            "input_ids": torch.tensor([window.ids]),
            "attention_mask": torch.tensor([window.attention_mask]),
            "token_type_ids": torch.tensor([window.type_ids]),
        }
        with torch.no_grad():
            output = reference(**tensors)
        sides = []
        for logits in (output.start_logits[0].numpy(), output.end_logits[0].numpy()):
            allowed = [index == 0 or text == 1 for index, text in enumerate(window.sequence_ids)]
            scores = np.exp(np.where(allowed, logits, -1e4).astype(np.float64))
            sides.append(scores / scores.sum())
        none = min(none, sides[0][0] * sides[1][0])
        spans = [
            (sides[0][first] * sides[1][last], first, last)
            for first in range(1, len(window.ids))
            for last in range(first, min(first + max_answer_len, len(window.ids)))
        ]
        count = top_k * 2 + 10 if align_to_words else top_k
        for score, first, last in sorted(spans, reverse=True)[:count]:
            start, end = window.offsets[first][0], window.offsets[last][1]
            if align_to_words:
                start = window.word_to_chars(window.token_to_word(first), 1)[0]
                end = window.word_to_chars(window.token_to_word(last), 1)[1]
            text = context[start:end]
            same = [item for item in found if item[0].lower() == text.lower()]
            if same:
                same[0][1] += score
            else:
                found.append([text, score, start, end])
    if handle_impossible_answer:
        found.append(["", none, 0, 0])
    ordered = sorted(found, key=lambda item: item[1], reverse=True)[:top_k]
    return [(text, score, start, end) for text, score, start, end in ordered]


@pytest.mark.parametrize("context", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 5},
        {"top_k": 4, "handle_impossible_answer": True, "max_answer_len": 3},
        {"top_k": 6, "align_to_words": False, "max_seq_len": 64, "doc_stride": 20},
        {"top_k": 3, "max_seq_len": 40, "doc_stride": 0},
    ],
    ids=str,
)
def test_answers_are_those_of_the_pipeline(
    context: str, options: dict[str, Any], model: Model, reference: Any
) -> None:
    expected = pipeline(reference, context, **options)
    prompt = own_head(model, reference)
    found = model.answer(QUESTION, context, prompt=prompt, **options)
    assert [(span.text, span.start, span.end) for span in found.spans] == [
        (text, start, end) for text, _, start, end in expected
    ]
    scores = [score for _, score, _, _ in expected]
    np.testing.assert_allclose([span.score for span in found.spans], scores, rtol=1e-3)
    best = found.spans[0]
    assert (found.text, found.score) == (best.text, best.score)
    assert (found.start, found.end) == (best.start, best.end)
    assert found.text == context[found.start : found.end]
    assert (found.windows > 1) == (context is LONG)


def test_batch_and_latency(model: Model, reference: Any) -> None:
    prompts = [own_head(model, reference, None, "a"), own_head(model, reference, rows(), "b")]
    requests = [
        ((QUESTION, context), prompt)
        for prompt in prompts
        for context in (LONG, SHORT, TEXTS[1], LONG + SHORT)
    ]
    batch = model.answer_batch(requests, top_k=3)
    for ((question, context), prompt), found in zip(requests, batch, strict=True):
        alone = model.answer(question, context, prompt=prompt, top_k=3)
        assert [span.text for span in found.spans] == [span.text for span in alone.spans]
        assert found.score == pytest.approx(alone.score, rel=1e-4)
        assert (found.prompt, found.windows) == (prompt.name, alone.windows)
        assert found.latency.virtual_tokens == found.windows * prompt.num_virtual_tokens
        assert 0 < found.latency.prefill_ms <= found.latency.total_ms
    assert model.answer_batch([]) == []


def rows(count: int = 5, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=(count, 64)).astype(np.float32)


def test_virtual_tokens_have_logits_as_in_peft_and_are_no_answer(
    model: Model, reference: Any, tmp_path: Path
) -> None:
    import peft
    import torch

    torch.manual_seed(17)
    config = peft.PromptTuningConfig(task_type="QUESTION_ANS", num_virtual_tokens=6)
    with other_peoples_warnings(), torch.no_grad():
        adapted: Any = peft.get_peft_model(copy.deepcopy(reference), config)
        for parameter in adapted.prompt_encoder.parameters():
            parameter.normal_(std=0.4)
        adapted.eval().save_pretrained(str(tmp_path / "adapter"))
    prompt = model.load_prompt(tmp_path / "adapter")
    pair = word_pieces()(QUESTION, SHORT, return_tensors="pt", return_offsets_mapping=True)
    offsets = pair.pop("offset_mapping")[0].tolist()
    with other_peoples_warnings(), torch.no_grad():
        output = adapted(**pair)
    # token types count: this is what peft computes of the pair
    expected = torch.stack([output.start_logits, output.end_logits], -1)[0].numpy()
    assert expected.shape == (6 + len(offsets), 2)
    found = model.answer(QUESTION, SHORT, prompt=prompt, align_to_words=False, max_answer_len=500)
    assert found.prompt == prompt.name
    begin = pair.token_type_ids[0].tolist().index(1)
    context = expected[6 + begin : -1]  # (context tokens, 2)
    best = max(
        (context[first, 0] + context[last, 1], first, last)
        for first in range(len(context))
        for last in range(first, len(context))
    )
    assert found.start == offsets[begin + best[1]][0]
    assert found.end == offsets[begin + best[2]][1]
    plain = model.answer(QUESTION, SHORT, prompt=own_head(model, reference))
    assert plain.score != pytest.approx(found.score, rel=1e-3)


def test_a_prompt_takes_room_in_each_window(model: Model, reference: Any) -> None:
    prompt = own_head(model, reference, rows(110))
    found = model.answer(QUESTION, LONG, prompt=prompt)
    assert found.windows > model.answer(QUESTION, LONG, prompt=own_head(model, reference)).windows
    assert found.text == LONG[found.start : found.end]
    with pytest.raises(UsageError, match="max_seq_len is 147; the model has 146"):
        model.answer(QUESTION, LONG, prompt=prompt, max_seq_len=147)


def test_there_and_back_is_exact(model: Model, reference: Any) -> None:
    head = np.random.default_rng(4).normal(size=(2, 64)).astype(np.float32)
    other = model.load_prompt(
        Prompt({"head.weight": head, "prompt_embeds": rows(9)}, "other", task=TASK)
    )
    prompt = own_head(model, reference, rows())
    before = model.answer(QUESTION, LONG, prompt=prompt, top_k=4)
    between = model.answer(QUESTION, LONG, prompt=other, top_k=4)
    after = model.answer(QUESTION, LONG, prompt=prompt, top_k=4)
    assert before.spans == after.spans != between.spans


def test_questions_that_cannot_be_answered(model: Model, reference: Any) -> None:
    prompt = own_head(model, reference)
    with pytest.raises(UsageError, match="the context is empty"):
        model.answer(QUESTION, " ", prompt=prompt)
    with pytest.raises(UsageError, match="the question is empty"):
        model.answer("", SHORT, prompt=prompt)
    with pytest.raises(UsageError, match="nothing of the context fits"):
        model.answer(LONG, SHORT, prompt=prompt)
    with pytest.raises(UsageError, match="top_k is 0"):
        model.answer(QUESTION, SHORT, prompt=prompt, top_k=0)
    with pytest.raises(UsageError, match="the stride is 300"):
        model.answer(QUESTION, SHORT, prompt=prompt, doc_stride=300)
    with pytest.raises(UsageError, match="no question answering head of its own"):
        model.answer(QUESTION, SHORT)
    with pytest.raises(UsageError, match=r"\(question, context\)"):
        model.answer_batch([(QUESTION, prompt)])  # type: ignore[list-item]
    with pytest.raises(UsageError, match=r"model\.embed on .*Call model\.answer"):
        model.embed("a")
    with pytest.raises(TypeError, match="topk"):
        model.answer(QUESTION, SHORT, prompt=prompt, topk=3)  # type: ignore[call-arg]
