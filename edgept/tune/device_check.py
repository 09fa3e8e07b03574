"""The tuned prompt on what will run it: the same held-out rows, on an exported bundle."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from edgept.prompt import Prompt
from edgept.runtime.classifier import Classification
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model, load
from edgept.tune.encode import Example
from edgept.tune.evaluate import Validation, answer_room, measured_rows
from edgept.tune.metrics import score

__all__ = ["answer_losses", "class_losses", "measure_on_bundle"]


def measure_on_bundle(
    bundle: str,
    prompts: Sequence[Prompt],
    examples: Sequence[Example],
    kind: str,
    metric_rows: int,
    reference: Validation,
    labels: Sequence[str] = (),
    before: Sequence[Prompt] | None = None,
) -> dict[str, Any]:
    """Validate the prompt on the bundle.

    Args:
        bundle: its folder.
        prompts: one for every task.
        examples: held out.
        kind: of the data.
        metric_rows: rows for which answers are generated.
        reference: what PyTorch found on the same rows.
        labels: of a classifier, which classifies all rows; empty where the model answers in words.
        before: the prompts that the training began from, where these were somebody's.

    Returns:
        precision, loss, loss_without_prompt (None of a classifier), metric; gap: the bundle's
        figures less PyTorch's; and before: loss and metric of the prompts that it began from, or None.
    """
    model = load(bundle)

    def measure(chosen: Sequence[Prompt]) -> tuple[float, dict[str, float]]:
        loaded = [model.load_prompt(prompt) for prompt in chosen]
        if labels:
            return _classify(model, examples, loaded)
        return _loss(model, examples, loaded), _generate(model, examples, loaded, kind, metric_rows)

    plain = None if labels else _loss(model, examples, None)
    loss, metric = measure(prompts)
    first = None
    if before is not None:
        first = dict(zip(("loss", "metric"), measure(before), strict=True))
    gap = {name: value - reference.metric[name] for name, value in metric.items()}
    return {
        "bundle": bundle,
        "precision": model.manifest.precision,
        "loss": loss,
        "loss_without_prompt": plain,
        "metric": metric,
        "gap": {"loss": loss - reference.loss, **gap},
        "before": first,
    }


def _classify(
    model: Model, examples: Sequence[Example], prompts: Sequence[LoadedPrompt]
) -> tuple[float, dict[str, float]]:
    """Mean cross-entropy of the rows' classes, in nats; accuracy and macro-F1."""
    made = model.classify_batch([(list(row.ids), prompts[row.task]) for row in examples])
    found = [answer.label for answer in made]
    metric = score("label", found, [row.answer for row in examples])
    return fmean(class_losses(made, examples)), metric


def class_losses(made: Sequence[Classification], examples: Sequence[Example]) -> list[float]:
    """Cross-entropy of each row's class, in nats."""
    losses = []
    for row, answer in zip(examples, made, strict=True):
        logits = answer.logits.astype(np.float64)  # (classes,)
        logits -= logits.max()
        losses.append(float(np.log(np.exp(logits).sum()) - logits[row.label]))
    return losses


def _generate(
    model: Model,
    examples: Sequence[Example],
    prompts: Sequence[LoadedPrompt],
    kind: str,
    metric_rows: int,
) -> dict[str, float]:
    """The task's metric over generated answers; nothing where they are long."""
    rows = measured_rows(examples, kind, metric_rows)
    if not rows:
        return {}
    room = answer_room(examples)
    found = [
        model.generate(
            list(row.ids[: row.start]), prompt=prompts[row.task], max_new_tokens=room
        ).text
        for row in rows
    ]
    return score(kind, found, [row.answer for row in rows])


def _loss(
    model: Model, examples: Sequence[Example], prompts: Sequence[LoadedPrompt] | None
) -> float:
    """Mean cross-entropy of the answers' tokens, in nats."""
    tokens = sum(len(example.answer_ids) for example in examples)
    return sum(answer_losses(model, examples, prompts)) / tokens


def answer_losses(
    model: Model, examples: Sequence[Example], prompts: Sequence[LoadedPrompt] | None
) -> list[float]:
    """Cross-entropy of each row's answer, in nats over all its tokens.

    Args:
        model: the bundle.
        examples: the rows.
        prompts: one for every task; None is the plain model.
    """
    losses = []
    for example in examples:
        prompt = None if prompts is None else prompts[example.task]
        if example.target:
            request = model._compose(list(example.ids), prompt)
            logits = model._seq2seq("logits").logits(request, example.target[:-1])
            chosen = logits.astype(np.float64)  # (answer, vocabulary)
        else:
            logits = model.logits(list(example.ids), prompt=prompt)  # (tokens, vocabulary)
            chosen = logits[example.start - 1 : -1].astype(np.float64)  # (answer, vocabulary)
        chosen -= chosen.max(axis=1, keepdims=True)
        labels = np.asarray(example.answer_ids)
        picked = chosen[np.arange(len(labels)), labels]  # (answer,)
        losses.append(float((np.log(np.exp(chosen).sum(axis=1)) - picked).sum()))
    return losses
