"""The tuned prompt on what will run it: the same held-out rows, on an exported bundle."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgept.bundle import Manifest, find_bundle, read_manifest
from edgept.errors import IncompatibleError
from edgept.prompt import Prompt
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model, load
from edgept.tune.encode import Example
from edgept.tune.evaluate import Validation, answer_room, measured_rows
from edgept.tune.metrics import score

__all__ = ["check_bundle", "measure_on_bundle"]


def check_bundle(
    bundle: str | os.PathLike[str], fingerprint: str, virtual_tokens: int
) -> tuple[str, Manifest]:
    """Refuse a bundle that could not run the prompt, before anything is trained.

    Raises:
        IncompatibleError: it is another model's, or takes no prompt of this length.
        UsageError: there is no bundle.
        InvalidFileError: its manifest is malformed.
    """
    folder = find_bundle(bundle)
    manifest = read_manifest(folder)
    if manifest.fingerprint != fingerprint:
        raise IncompatibleError(
            f"{folder} is another model's bundle: its fingerprint ({manifest.source}) is "
            f"{manifest.fingerprint[:12]}…, this model's is {fingerprint[:12]}…. Export this model."
        )
    if virtual_tokens > manifest.max_virtual_tokens:
        raise IncompatibleError(
            f"{folder} takes prompts of {manifest.max_virtual_tokens} virtual tokens, this one is to have "
            f"{virtual_tokens}. Export again with --max-virtual-tokens {virtual_tokens}."
        )
    return str(folder), manifest


def measure_on_bundle(
    bundle: str,
    prompts: Sequence[Prompt],
    examples: Sequence[Example],
    kind: str,
    metric_rows: int,
    reference: Validation,
) -> dict[str, Any]:
    """Validate the prompt on the bundle.

    Args:
        bundle: its folder.
        prompts: one for every task.
        examples: held out.
        kind: of the data.
        metric_rows: rows for which answers are generated.
        reference: what PyTorch found on the same rows.

    Returns:
        precision, loss, loss_without_prompt, metric, and gap: the bundle's figures less PyTorch's.
    """
    model = load(bundle)
    loaded = [model.load_prompt(prompt) for prompt in prompts]
    loss = _loss(model, examples, loaded)
    metric: dict[str, float] = {}
    rows = measured_rows(examples, kind, metric_rows)
    if rows:
        requests = [(list(row.ids[: row.start]), loaded[row.task]) for row in rows]
        room = answer_room(examples)
        found = [
            model.generate(ids, prompt=prompt, max_new_tokens=room).text for ids, prompt in requests
        ]
        metric = score(kind, found, [row.answer for row in rows])
    gap = {name: value - reference.metric[name] for name, value in metric.items()}
    return {
        "bundle": bundle,
        "precision": model.manifest.precision,
        "loss": loss,
        "loss_without_prompt": _loss(model, examples, None),
        "metric": metric,
        "gap": {"loss": loss - reference.loss, **gap},
    }


def _loss(
    model: Model, examples: Sequence[Example], prompts: Sequence[LoadedPrompt] | None
) -> float:
    """Mean cross-entropy of the answers' tokens, in nats."""
    total, tokens = 0.0, 0
    for example in examples:
        prompt = None if prompts is None else prompts[example.task]
        logits = model.logits(list(example.ids), prompt=prompt)  # (tokens, vocabulary)
        chosen = logits[example.start - 1 : -1].astype(np.float64)  # (answer, vocabulary)
        chosen -= chosen.max(axis=1, keepdims=True)
        labels = np.asarray(example.ids[example.start :])
        picked = chosen[np.arange(len(labels)), labels]  # (answer,)
        total += float((np.log(np.exp(chosen).sum(axis=1)) - picked).sum())
        tokens += len(labels)
    return total / tokens
