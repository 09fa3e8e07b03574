"""BEiT (Bao et al. 2021), whose attention knows how far two patches are apart.

A virtual token is at no place, so nothing is added to the attention that it gives or gets.
"""

from typing import Any

import torch

from edgept.export.families.vision import VisionFamily

__all__ = ["FAMILY"]


def _spread(bias: torch.Tensor, prompt: Any) -> torch.Tensor:
    """(1, heads, 1 + patches, 1 + patches) with zeros for the virtual tokens between."""
    _, heads, positions, _ = bias.shape
    none = bias.new_zeros(1, heads, positions, prompt)
    bias = torch.cat([bias[..., :1], none, bias[..., 1:]], -1)
    none = bias.new_zeros(1, heads, prompt, positions + prompt)
    return torch.cat([bias[:, :, :1], none, bias[:, :, 1:]], 2)


def _run_layer(model: Any, layer: Any, tokens: torch.Tensor, prompt: Any) -> torch.Tensor:
    """A layer by its parts: its own way takes patches and the class token only."""
    tables = (model.base_model.shared_position_bias, layer.relative_position_bias)
    biases = [table(table.window_size) for table in tables if table is not None]
    states = layer.layernorm_before(tokens)
    mask = _spread(sum(biases), prompt) if biases else None
    attended, _ = layer.attention(states, attention_mask=mask)
    tokens = tokens + layer.lambda_1 * attended
    behind: torch.Tensor = tokens + layer.lambda_2 * layer.mlp(layer.layernorm_after(tokens))
    return behind


def _features(model: Any, tokens: torch.Tensor, first: int, prompt: Any) -> torch.Tensor:
    """The picture's vector is the mean of its patches, normalised behind it, or else the class token."""
    norm = model.base_model.pooler.layernorm
    if norm is None:
        return tokens
    mean = tokens[:, first + prompt :].mean(1, keepdim=True)
    normalized: torch.Tensor = norm(torch.cat([mean, tokens[:, first:]], 1))
    return normalized


FAMILY = VisionFamily(
    model_types=("beit",),
    run_layer=_run_layer,
    readout=_features,
    heads={"BeitForImageClassification": ("classifier",)},
)
