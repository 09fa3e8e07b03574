"""What one family of image models is described by, and how features are read off its last layer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch.nn.functional import normalize

__all__ = [
    "Readout",
    "RunLayer",
    "VisionFamily",
    "attention_pooled",
    "first_and_mean",
    "first_token",
    "first_two",
    "mean_of_patches",
    "normalized",
]

Readout: TypeAlias = Callable[[Any, torch.Tensor, int, Any], torch.Tensor]
"""Makes features of the last layer's tokens.

Args: the transformers model; its tokens (batch, first + prompt + patches, hidden), normalised; how many
come first; how many virtual tokens follow (a number, or a symbol while the model is traced).
Returns (batch, 1 + prompt + patches, head_size): the picture's own vector, then one a token.
"""


RunLayer: TypeAlias = Callable[[Any, Any, torch.Tensor, Any], torch.Tensor]
"""Runs a layer.

Args: the transformers model; the layer; tokens (batch, first + prompt + patches, hidden); how many of them are
virtual (a number, or a symbol while the model is traced).
Returns the tokens behind it.
"""


def run_as_it_is(_: Any, layer: Any, tokens: torch.Tensor, __: Any) -> torch.Tensor:
    """A layer that takes any tokens."""
    run: torch.Tensor = layer(tokens, attention_mask=None)
    return run


def first_token(_: Any, tokens: torch.Tensor, first: int, __: Any) -> torch.Tensor:
    """The picture's vector is its class token; others that come first, as registers, are left out."""
    return tokens if first == 1 else torch.cat([tokens[:, :1], tokens[:, first:]], 1)


def first_and_mean(model: Any, tokens: torch.Tensor, first: int, prompt: Any) -> torch.Tensor:
    """The class token and, behind it, the mean of the patches, as DINOv2's own classifier reads them."""
    each = first_token(model, tokens, first, prompt)
    mean = tokens[:, first + prompt :].mean(1, keepdim=True)
    return torch.cat([each, mean.expand_as(each)], -1)


def first_two(_: Any, tokens: torch.Tensor, first: int, __: Any) -> torch.Tensor:
    """The class token and the distillation token side by side, as DeiT's two classifiers read them."""
    picture = torch.cat([tokens[:, :1], tokens[:, 1:2]], -1)
    return torch.cat([picture, tokens[:, first:].repeat(1, 1, 2)], 1)


def attention_pooled(model: Any, tokens: torch.Tensor, _: int, __: Any) -> torch.Tensor:
    """The picture's vector is what SigLIP's attention makes of all tokens."""
    tower = getattr(model, "vision_model", model)
    return torch.cat([tower.head(tokens)[:, None], tokens], 1)


def mean_of_patches(_: Any, tokens: torch.Tensor, first: int, prompt: Any) -> torch.Tensor:
    """The picture's vector is the mean of its patches."""
    return torch.cat([tokens[:, first + prompt :].mean(1, keepdim=True), tokens[:, first:]], 1)


def normalized(readout: Readout, projection: str | None = None) -> Readout:
    """Vectors of length one in the space that an image model shares with a text model.

    Args:
        readout: makes them.
        projection: name of the model's layer that brings them there; None where they are there.
    """

    def read(model: Any, tokens: torch.Tensor, first: int, prompt: Any) -> torch.Tensor:
        found = readout(model, tokens, first, prompt)
        if projection is not None:
            found = getattr(model, projection)(found)
        return normalize(found, dim=-1)

    return read


@dataclass(frozen=True)
class VisionFamily:
    """A family of image models; the defaults are what most families have.

    Attributes:
        model_types: transformers' names of its models.
        layers: where the image tower's layers are, a path of attributes.
        norm: name of the normalisation behind them.
        norm_first: name of that between embeddings and layers, in families that have one.
        takes_any_size: whether its models stretch their table of positions to a picture of another size than
            that of their configuration.
        run_layer: runs a layer, where one needs more than tokens.
        has_pooler: whether its bare model has a layer over the class token, which nothing here reads.
        readout: makes features of the tokens.
        readouts: by the model's class, where it is another one.
        heads: by the model's class, names of the linear layers that are its own head; where there are
            two, the picture's logits are the mean of theirs, each on its half of the features.
        boxes: of detectors, makes each token's box of the tokens, (batch, 1 + prompt + patches, 4); their
            patches find things, where those of others leave it to virtual tokens.
    """

    model_types: tuple[str, ...]
    layers: str = "layers"
    norm: str = "layernorm"
    norm_first: str | None = None
    takes_any_size: bool = False
    run_layer: RunLayer = run_as_it_is
    has_pooler: bool = False
    readout: Readout = first_token
    readouts: Mapping[str, Readout] = field(default_factory=dict)
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    boxes: Readout | None = None

    def tower(self, model: Any) -> Any:
        """The part of a transformers model that reads the picture."""
        base = model.base_model
        return next(
            (item.vision_model for item in (model, base) if hasattr(item, "vision_model")), base
        )

    def head_layers(self, model: Any) -> tuple[str, ...]:
        """Names of the layers that are a model's own head; none of a bare model."""
        return self.heads.get(type(model).__name__, ())

    def features(self, model: Any, tokens: torch.Tensor, first: int, prompt: Any) -> torch.Tensor:
        """Features of the last layer's tokens; see `Readout`."""
        readout = self.readouts.get(type(model).__name__, self.readout)
        return readout(model, tokens, first, prompt)
