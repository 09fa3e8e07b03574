"""The head that a classification task trains beside its prompt, and brings along in its file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from edgept.export.heads import find_layers, head_name
from edgept.tune.backbone import Backbone
from edgept.tune.encode import Example

__all__ = [
    "Head",
    "feature_rms",
    "head_tensors",
    "keep_head",
    "name_layers",
    "put_head",
    "trained_heads",
]

_SAMPLED_ROWS = 16


class Head(torch.nn.Linear):
    """A linear layer of a task's head, in float32 behind a backbone of any precision.

    AdamW's steps are lost in a bfloat16 weight. peft keeps its prompts in float32, too.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's own name
        """Logits (…, classes), float32, of hidden states (…, head_size)."""
        return super().forward(input.to(self.weight.dtype))


def put_head(backbone: Backbone, num_labels: int) -> None:
    """Give the model a fresh head, drawn from PyTorch's random numbers as transformers draws it.

    Of two layers, both are fresh and trained: the frozen model has no part in either.
    """
    model = backbone.model
    layers = find_layers(model)
    for name, own in layers.items():
        size = num_labels if name == head_name(model) else own.out_features
        # from "meta", since a Linear that is made elsewhere draws numbers that are thrown away
        head = Head(own.in_features, size, bias=own.bias is not None, device="meta")
        head.to_empty(device="cpu")
        model._init_weights(head)  # normal, as wide as the family's config says; zeros for the bias
        model.set_submodule(name, head.to(backbone.device))
    model.config.num_labels = model.num_labels = num_labels
    # Decoders refuse batches without one. What they pool is not used, see classify.py, where this one,
    # which is no token's, means none.
    if model.config.pad_token_id is None:
        model.config.pad_token_id = -1


@contextmanager
def keep_head(backbone: Backbone) -> Iterator[None]:
    """Give the model back the head that it came with, however the block ends.

    peft puts a wrapper in the head's place, and the next task has other classes.
    """
    if backbone.task != "text-classification":
        yield
        return
    model, config = backbone.model, backbone.model.config
    layers, num_labels = find_layers(model), model.num_labels
    # RoBERTa's two layers are within a module, which peft wraps
    modules = {name.partition(".")[0]: None for name in layers}
    own = {name: getattr(model, name) for name in modules}
    before = {key: getattr(config, key) for key in ("id2label", "label2id", "pad_token_id")}
    try:
        yield
    finally:
        for name, module in own.items():
            setattr(model, name, module)
        for name, layer in layers.items():
            model.set_submodule(name, layer)
        model.num_labels = num_labels
        for key, value in before.items():
            setattr(config, key, value)


def feature_rms(backbone: Backbone, examples: Sequence[Example]) -> float:
    """Root mean square of what the head reads of a few rows; models differ by a factor of thirty."""
    model = backbone.model
    seen: list[torch.Tensor] = []
    first = next(iter(find_layers(model).values()))
    handle = first.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    try:
        with torch.no_grad():
            for example in examples[:_SAMPLED_ROWS]:
                model(input_ids=torch.tensor([example.ids], device=backbone.device))
    finally:
        handle.remove()
    # each: (1, head_size), or of decoders (1, tokens, head_size)
    rows = [features.float().reshape(-1, features.shape[-1])[-1] for features in seen]
    return float(torch.stack(rows).square().mean().sqrt())


def trained_heads(adapted: Any) -> list[Head]:
    """The layers of the head that is trained, in the order in which they compute; none in text generation.

    peft's copies, or the model's own.
    """
    heads = [module for module in adapted.modules() if isinstance(module, Head)]
    return [head for head in heads if head.weight.requires_grad]


def name_layers(adapted: Any) -> dict[str, Head]:
    """The same by their names in a prompt file: head, and head.dense in front of it where there are two."""
    return dict(zip(("head", "head.dense"), reversed(trained_heads(adapted)), strict=False))


def head_tensors(adapted: Any) -> dict[str, Any]:
    """The head as a prompt file holds it; nothing where there is none.

    Returns:
        head.weight (classes, head_size) and head.bias (classes,), and of a layer in front of it
        head.dense.weight (head_size, head_size) and head.dense.bias (head_size,), float32. A head
        without a bias, as those of decoders are, has one of zeros.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, head in name_layers(adapted).items():
        weight = head.weight.detach()
        bias = torch.zeros(len(weight)) if head.bias is None else head.bias.detach()
        tensors |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return {name: tensor.cpu().numpy().copy() for name, tensor in tensors.items()}
