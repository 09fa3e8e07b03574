"""The layers that a task ends in: the part of a model that every prompt may bring its own of."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
)

from edgept.errors import ExportError
from edgept.export.families import ENCODERS, VISION

__all__ = [
    "find_head",
    "find_layers",
    "head_labels",
    "head_layers",
    "head_name",
    "head_tensors",
    "task_of",
]

_TASKS: dict[str, Any] = {
    "text-classification": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token-classification": MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "question-answering": MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "image-classification": MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
}
# What sequence classifiers of other families call their last layer: decoder-only models have a score.
_OTHER_NAMES = ("classifier", "score")
# In a prompt file, from the last layer back.
_PREFIXES = ("head", "head.dense")


def task_of(model: Any) -> str | None:
    """The task that a transformers model has a head for; None of one without."""
    name = type(model).__name__
    return next((task for task, names in _TASKS.items() if name in _flat(names.values())), None)


def _flat(names: Iterable[str | tuple[str, ...]]) -> list[str]:
    """Names of classes; a family may have several for a task."""
    return [item for name in names for item in ((name,) if isinstance(name, str) else name)]


def find_layers(model: Any) -> dict[str, nn.Linear]:
    """The layers of a model's head by their names in it, in the order in which they compute.

    Returns:
        Nothing for a model without a head. The last layer has the weight (classes, head_size), the one
        in front of it, if any, (head_size, head_size).

    Raises:
        ExportError: the model has a head that is not known, or one of other layers.
    """
    task = task_of(model)
    if task is None:
        return {}
    family, image = (families.get(model.config.model_type) for families in (ENCODERS, VISION))
    if image is not None:
        names = image.head_layers(model)
    elif family is not None:
        names = family.head_layers(task)
    else:
        names = tuple(name for name in _OTHER_NAMES if hasattr(model, name))[:1]
    if not names:
        raise ExportError(
            f"{type(model).__name__} has no head called {' or '.join(_OTHER_NAMES)}, which is what this "
            "version swaps. Please report this model's config.json."
        )
    layers = {}
    for name in names:
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            raise ExportError(
                f"{type(model).__name__}.{name} is a {type(layer).__name__}; a head that travels in a "
                "prompt file is made of linear layers. This model needs support of its own: please "
                "report its config.json."
            )
        layers[name] = layer
    return layers


def head_name(model: Any) -> str:
    """Name of the last layer of a model's head, "classifier".

    Raises:
        ExportError: it has no head, or one that is not known.
    """
    layers = find_layers(model)
    if not layers:
        raise ExportError(
            f"{type(model).__name__} has no head: it is for no task. Load it for one."
        )
    return list(layers)[-1]


def find_head(model: Any) -> nn.Linear:
    """The last layer of a model's head: weight (classes, head_size), bias (classes,) or none.

    Raises:
        ExportError: as `head_name`.
    """
    return find_layers(model)[head_name(model)]


def head_layers(model: Any) -> dict[str, tuple[str, nn.Linear]]:
    """The layers of a model's head by their names in a prompt file, from the last one back.

    Returns:
        By "head" and, where there is one, "head.dense": the layer's name in the model, and the layer.
    """
    return dict(zip(_PREFIXES, reversed(find_layers(model).items()), strict=False))


def head_tensors(model: Any) -> dict[str, torch.Tensor]:
    """A model's own head as a prompt file holds it: head.weight, head.bias, and of head.dense the same.

    The order is that in which the graph takes them. A bias that the model lacks is zeros.
    """
    tensors = {}
    for prefix, (_, layer) in head_layers(model).items():
        bias = layer.bias
        if bias is None:
            bias = torch.zeros(layer.out_features, dtype=layer.weight.dtype)
        tensors[f"{prefix}.weight"], tensors[f"{prefix}.bias"] = (
            layer.weight.detach(),
            bias.detach(),
        )
    return tensors


def head_labels(model: Any) -> list[str]:
    """Class names of the model's own head, in order; empty where it has none.

    A head that the checkpoint lacks is all zeros, see `load_frozen`; one output is a score (a
    regression, a reward) and names no class. An answer's two are where it starts and ends.
    """
    head = find_head(model)
    if head.out_features < 2 or not head.weight.any():
        return []
    if task_of(model) == "question-answering":
        return ["start", "end"]
    names = model.config.id2label
    return [str(names.get(index, f"LABEL_{index}")) for index in range(head.out_features)]
