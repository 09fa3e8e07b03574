"""Validation in PyTorch: the loss over all rows, and the task's metric over generated answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from edgept.tune.backbone import Backbone
from edgept.tune.batches import eval_batches
from edgept.tune.encode import Example
from edgept.tune.methods import inputs
from edgept.tune.metrics import score
from edgept.tune.settings import Settings

__all__ = ["Validation", "answer_room", "measured_rows", "validate"]

# Longer answers are never repeated to the letter, so they are judged by their loss alone.
_LONGEST_ANSWER = 64


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        step: updates of the prompt before it.
        loss: mean cross-entropy of the answers' tokens, in nats.
        metric: exact_match, or accuracy and macro_f1, from 0 to 1; empty where answers are long.
    """

    step: int
    loss: float
    metric: dict[str, float]


def measured_rows(examples: Sequence[Example], kind: str, limit: int) -> list[Example]:
    """The examples for which answers are generated; none where the answers are long."""
    room = answer_room(examples)
    return [] if kind == "text" or room > _LONGEST_ANSWER else list(examples[:limit])


def answer_room(examples: Sequence[Example]) -> int:
    """Tokens of the longest answer, its end-of-text token included."""
    return max(len(example.answer_ids) for example in examples)


def validate(
    step: int,
    backbone: Backbone,
    adapted: Any | None,
    settings: Settings,
    examples: Sequence[Example],
    kind: str,
) -> Validation:
    """Measure the model on held-out examples, leaving every random state as it is.

    Args:
        step: of the training.
        backbone: the frozen model.
        adapted: with the prompt; None is the plain model.
        settings: of the run.
        examples: held out.
        kind: of the data.
    """
    model = backbone.model if adapted is None else adapted
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            loss = _loss(backbone, adapted, settings, examples)
            rows = measured_rows(examples, kind, settings.metric_rows)
            if not rows:
                return Validation(step, loss, {})
            found = _generate(backbone, adapted, settings, rows, answer_room(examples))
    finally:
        model.train(was_training)
    return Validation(step, loss, score(kind, found, [row.answer for row in rows]))


def _loss(
    backbone: Backbone, adapted: Any | None, settings: Settings, examples: Sequence[Example]
) -> float:
    total, tokens = 0.0, 0
    for batch in eval_batches(examples, settings.batch_size, backbone.device):
        is_seq2seq = backbone.source.is_seq2seq
        if adapted is None:
            plain = {name: batch[name] for name in ("input_ids", "attention_mask")}
            if is_seq2seq:
                plain["labels"] = batch["labels"]
            logits = backbone.model(**plain, use_cache=False).logits
        else:
            logits = adapted(**inputs(batch, adapted, settings, labels=is_seq2seq)).logits
        labels = batch["labels"]
        if is_seq2seq:  # each position of the answer predicts its own label
            logits = logits.float()  # (batch, longest answer, vocabulary)
        else:
            length = batch["input_ids"].shape[1]
            # (batch, longest - 1, vocabulary), without the prompt's
            logits = logits[:, -length:-1].float()
            labels = labels[:, 1:]  # (batch, longest - 1)
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), labels, ignore_index=-100, reduction="sum"
        )
        total += float(losses)
        tokens += int((labels != -100).sum())
    return total / tokens


def _generate(
    backbone: Backbone,
    adapted: Any | None,
    settings: Settings,
    rows: Sequence[Example],
    max_new_tokens: int,
) -> list[str]:
    """Greedy answers. Rows of one length go together, since peft lets pads stand behind a prompt."""
    order = sorted(range(len(rows)), key=lambda index: rows[index].start)
    answers = [""] * len(rows)
    is_seq2seq = backbone.source.is_seq2seq
    eos = backbone.eos_token_ids
    for start, group in groupby(order, key=lambda index: rows[index].start):
        same = list(group)
        for begin in range(0, len(same), settings.batch_size):
            chosen = same[begin : begin + settings.batch_size]
            ids = torch.tensor([rows[index].ids[:start] for index in chosen])  # (batch, start)
            ids = ids.to(backbone.device)
            extra: dict[str, Any] = {}
            if settings.method == "multitask" and adapted is not None:
                tasks = torch.tensor([rows[index].task for index in chosen])
                extra["task_ids"] = tasks.to(backbone.device)
            output = (backbone.model if adapted is None else adapted).generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                repetition_penalty=1.0,  # some models ask for one, and the device uses none
                eos_token_id=eos,
                pad_token_id=eos[0],
                **extra,
            )
            written = output[
                :, 1 if is_seq2seq else start :
            ]  # without the request, or the start token
            for index, tokens in zip(chosen, written.tolist(), strict=True):
                answers[index] = backbone.tokenizer.decode(tokens, skip_special_tokens=True)
    return answers
