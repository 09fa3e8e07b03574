"""The linear layer that a sequence classifier ends in: the part that every task brings its own of."""

from typing import Any

from torch import nn

from edgept.errors import ExportError

__all__ = ["HEAD_NAMES", "find_head", "head_labels", "head_name"]

# As transformers names it: encoders have a classifier, decoder-only models a score.
HEAD_NAMES = ("classifier", "score")


def head_name(model: Any) -> str:
    """Name of a sequence classifier's last layer, "classifier" or "score".

    Raises:
        ExportError: it has none of that name.
    """
    for name in HEAD_NAMES:
        if hasattr(model, name):
            return name
    raise ExportError(
        f"{type(model).__name__} has no head called {' or '.join(HEAD_NAMES)}, which is what this "
        "version swaps. Please report this model's config.json."
    )


def find_head(model: Any) -> nn.Linear:
    """A sequence classifier's last layer: weight (classes, head_size), bias (classes,) or none.

    Raises:
        ExportError: it is not one linear layer.
    """
    name = head_name(model)
    head = getattr(model, name)
    if type(head) is not nn.Linear:
        raise ExportError(
            f"{type(model).__name__}.{name} is a {type(head).__name__}; a head that travels in a prompt "
            "file is one linear layer. This model needs support of its own: please report its "
            "config.json."
        )
    return head


def head_labels(model: Any) -> list[str]:
    """Class names of the model's own head, in order; empty where it has none.

    A head that the checkpoint lacks is all zeros, see `load_frozen`; one output is a score (a
    regression, a reward) and names no class.
    """
    head = find_head(model)
    if head.out_features < 2 or not head.weight.any():
        return []
    names = model.config.id2label
    return [str(names.get(index, f"LABEL_{index}")) for index in range(head.out_features)]
