"""A classifier's logits, loss and validation, as the device computes them: each row as if alone."""

from collections.abc import Sequence
from typing import Any

import torch

from edgept.errors import UsageError
from edgept.tune.backbone import Backbone
from edgept.tune.batches import Batch, eval_batches
from edgept.tune.encode import Example
from edgept.tune.evaluate import Validation
from edgept.tune.head import trained_heads
from edgept.tune.methods import inputs
from edgept.tune.metrics import score
from edgept.tune.settings import Settings

__all__ = ["check_method", "classifier_loss", "classify", "validate_classifier"]


def check_method(backbone: Backbone, settings: Settings) -> None:
    """Refuse what cannot be trained for the model's task.

    Raises:
        UsageError: with the reason.
    """
    if backbone.task != "text-classification":
        if settings.method == "head":
            raise UsageError(
                f"a head alone classifies, and {backbone.task} has no head. Say --task text-classification, "
                "or take another method."
            )
        if settings.head_learning_rate is not None:
            raise UsageError(
                f"{backbone.task} has no head, so there is no --head-learning-rate. Say --task "
                "text-classification, or leave it out."
            )
        if backbone.source.is_seq2seq and settings.method == "cpt":
            raise UsageError(
                "cpt learns from the answers in its context, and an encoder-decoder reads no answers there. "
                "Use prompt-tuning or p-tuning."
            )
    elif settings.method == "cpt":
        raise UsageError(
            "cpt learns from the answers in its context, which a model that classifies does not give. "
            "Use prompt-tuning or p-tuning, or --task text-generation."
        )
    elif settings.method == "prefix-tuning" and backbone.source.is_encoder:
        raise UsageError(
            f"this version does not tune the keys and values of an encoder, which {backbone.source.name} is. "
            "Use prompt-tuning or p-tuning, or tune with peft, whose folder is a prompt here."
        )


def classify(adapted: Any, batch: Batch, settings: Settings) -> torch.Tensor:
    """Logits (batch, classes), float32, of the class of each row.

    An encoder under peft pools its first position, the first virtual token. A decoder pools the last
    one: given embeddings, as by peft, it cannot tell pads, and in a padded batch it would pool one.
    Pads on the left would stand between prompt and text and shift the positions, which the device
    does not do. So rows are padded on the right, where a causal model never looks, and the head's
    output is read where the text ends. Given ids, as under a prefix or with a head alone, it skips the
    model's pad token at a text's end, and the first one of pads alone is read.
    """
    seen: list[torch.Tensor] = []
    handle = trained_heads(adapted)[-1].register_forward_hook(
        lambda _module, _inputs, output: seen.append(output)
    )
    try:
        adapted(**inputs(batch, adapted, settings, labels=False))
    finally:
        handle.remove()
    (logits,) = seen  # (batch, classes), or of decoders (batch, prompt or none + longest, classes)
    if logits.ndim == 2:
        return logits
    mask = batch["attention_mask"]  # (batch, longest)
    prompt = logits.shape[1] - mask.shape[1]
    if settings.method in ("prefix-tuning", "head"):
        mask = mask * (batch["input_ids"] != adapted.config.pad_token_id)
    columns = torch.arange(mask.shape[1], device=mask.device)
    last = prompt + (mask * columns).amax(dim=1)  # (batch,)
    return logits[torch.arange(len(last), device=last.device), last]


def classifier_loss(adapted: Any, batch: Batch, settings: Settings) -> torch.Tensor:
    """Mean cross-entropy of the rows' classes, in nats."""
    return torch.nn.functional.cross_entropy(classify(adapted, batch, settings), batch["classes"])


def validate_classifier(
    step: int,
    backbone: Backbone,
    adapted: Any,
    settings: Settings,
    examples: Sequence[Example],
    labels: Sequence[str],
) -> Validation:
    """Loss, accuracy and macro-F1 over held-out examples, leaving every random state as it is.

    Args:
        step: of the training.
        backbone: the frozen model.
        adapted: the model with prompt and head.
        settings: of the run.
        examples: held out.
        labels: names of the classes.
    """
    was_training = adapted.training
    adapted.eval()
    total = 0.0
    found: list[int] = []
    expected: list[int] = []
    try:
        with torch.no_grad():
            for batch in eval_batches(examples, settings.batch_size, backbone.device):
                logits = classify(adapted, batch, settings)
                classes = batch["classes"]
                total += float(torch.nn.functional.cross_entropy(logits, classes, reduction="sum"))
                found += logits.argmax(dim=1).tolist()
                expected += classes.tolist()
    finally:
        adapted.train(was_training)
    metric = score("label", [labels[i] for i in found], [labels[i] for i in expected])
    return Validation(step, total / len(examples), metric)
