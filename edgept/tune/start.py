"""A run that begins from a prompt that is there: `--init prompt:FILE`, to tune it on or anew for a bundle."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from edgept.errors import IncompatibleError, UsageError
from edgept.manifest import SEQ2SEQ_TASK
from edgept.prompt import Prompt
from edgept.prompt_source import load_prompt_source
from edgept.tune.backbone import Backbone
from edgept.tune.head import name_layers
from edgept.tune.methods import prefix_rows
from edgept.tune.settings import Settings

__all__ = ["check_start", "put_start", "read_start", "start_digest", "start_labels", "with_start"]

_TENSORS = {
    "prompt-tuning": "prompt_embeds",
    "prefix-tuning": "prompt_kv",
    "vpt-shallow": "prompt_embeds",
    "vpt-deep": "prompt_embeds",
    "head": None,
}


def read_start(settings: Settings) -> Prompt | None:
    """The prompt to begin from; None where the settings name none.

    Raises:
        UsageError: there is no such file, or it holds what the method does not train.
        InvalidFileError: it breaks its format's rules.
        IncompatibleError: it is a peft adapter of a method that edgept does not run.
    """
    kind, path = settings.initial()
    if kind != "prompt":
        return None
    prompt = load_prompt_source(path)
    held = next((name for name in ("prompt_embeds", "prompt_kv") if name in prompt.tensors), None)
    if held != _TENSORS[settings.method]:
        method = next(name for name, tensor in _TENSORS.items() if tensor == held)
        raise UsageError(
            f"{path} holds {held or 'a head alone'}, which --method {settings.method} does not begin from. "
            f"Use --method {method}."
        )
    return prompt


def with_start(settings: Settings, start: Prompt | None) -> Settings:
    """The settings with the length of the prompt that the run begins from, and a visual prompt's depth.

    Raises:
        UsageError: another one was asked for.
    """
    if start is None or settings.method == "head":
        return settings
    if settings.virtual_tokens not in (Settings.virtual_tokens, start.num_virtual_tokens):
        raise UsageError(
            f"the prompt {start.name!r} has {start.num_virtual_tokens} virtual tokens, and "
            f"{settings.virtual_tokens} were asked for. Leave --virtual-tokens out."
        )
    rows = start.tensors.get("prompt_embeds")
    if rows is not None and rows.ndim == 3:  # a visual prompt says by its tables which it is
        settings = replace(settings, method="vpt-deep" if len(rows) > 1 else "vpt-shallow")
    return replace(settings, virtual_tokens=start.num_virtual_tokens)


def start_labels(start: Prompt | None, labels: tuple[str, ...]) -> tuple[str, ...]:
    """A classifier's classes in the order of the head that the run begins from.

    Args:
        start: the prompt, if any.
        labels: of the training rows; empty where nothing is classified.

    Raises:
        UsageError: the prompt has no head, nobody named its classes, or rows are of another class.
    """
    if start is None or not labels:
        return labels
    if "head.weight" not in start.tensors or not start.labels:
        lacks = "names no classes" if "head.weight" in start.tensors else "has no head"
        raise UsageError(
            f"the prompt {start.name!r} {lacks}, and a task with labels goes on with both. Pack it with "
            "'edgept prompt pack --labels', or begin with another --init."
        )
    if unknown := [label for label in labels if label not in start.labels]:
        raise UsageError(
            f"the training rows have the label {unknown[0]!r}, which the head of the prompt {start.name!r} "
            f"has no row for ({len(start.labels)} classes). Correct the rows, or begin with another --init."
        )
    return start.labels


def check_start(start: Prompt | None, backbone: Backbone, task: str) -> None:
    """Refuse a prompt of another model or task.

    Args:
        start: the prompt; None is fine.
        backbone: the frozen model.
        task: that is learnt.

    Raises:
        IncompatibleError: with the reason.
    """
    if start is None:
        return
    if start.fingerprint is not None and start.fingerprint != backbone.fingerprint:
        raise IncompatibleError(
            f"the prompt {start.name!r} was made for another model: its fingerprint is "
            f"{start.fingerprint[:12]}…, that of {backbone.source.name} is {backbone.fingerprint[:12]}…. "
            "Give the model that it was trained for."
        )
    if start.task != task:
        raise IncompatibleError(
            f"the prompt {start.name!r} is for {start.task}, and what is learnt is {task}. "
            f"Say --task {start.task}, or begin with another --init."
        )


def put_start(adapted: Any, start: Prompt) -> None:
    """Put a prompt's tensors where the training begins.

    Args:
        adapted: the peft model with a fresh prompt and head; to train a head alone, the model.
        start: the prompt.

    Raises:
        IncompatibleError: its sizes are not the model's.
    """
    tensors = {name: np.asarray(array) for name, array in start.tensors.items()}
    if "prompt_kv" in tensors:
        rows = prefix_rows(tensors.pop("prompt_kv"), is_seq2seq=start.task == SEQ2SEQ_TASK)
        _copy(adapted.prompt_encoder["default"].embedding.weight, rows, "prompt_kv", start)
    if "prompt_embeds" in tensors:
        rows = tensors.pop("prompt_embeds")  # (num_virtual_tokens, hidden)
        _copy(adapted.prompt_encoder["default"].embedding.weight, rows, "prompt_embeds", start)
    for name, head in name_layers(adapted).items():
        if f"{name}.weight" not in tensors:
            raise IncompatibleError(
                f"the prompt {start.name!r} has a head of one layer, and that of this model has two. Begin "
                "with another --init."
            )
        weight = tensors.pop(f"{name}.weight")
        bias = tensors.pop(f"{name}.bias", np.zeros(len(weight), np.float32))  # as where it runs
        _copy(head.weight, weight, f"{name}.weight", start)
        if head.bias is not None:
            _copy(head.bias, bias, f"{name}.bias", start)
        elif bias.any():
            raise IncompatibleError(
                f"the prompt {start.name!r} has a head with a bias, and this model's has none, so it cannot "
                "be tuned further. Begin with another --init."
            )
    if tensors:
        raise IncompatibleError(
            f"the prompt {start.name!r} holds {', '.join(tensors)}, which this model does not learn. Begin "
            "with another --init."
        )


def start_digest(start: Prompt | None) -> str | None:
    """SHA-256 of a prompt's tensors, which tells whether a run that goes on began from the same."""
    if start is None:
        return None
    digest = hashlib.sha256()
    for name in sorted(start.tensors):
        array = np.ascontiguousarray(start.tensors[name])
        digest.update(f"{name} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _copy(parameter: Any, array: Any, name: str, start: Prompt) -> None:
    if tuple(parameter.shape) != array.shape:
        raise IncompatibleError(
            f"the prompt {start.name!r}: {name} gives {array.shape}, this model takes "
            f"{tuple(parameter.shape)}. It was trained for a model of another size."
        )
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))
