"""OWL-ViT and OWLv2 (Minderer et al. 2022 and 2023): each patch finds one thing, named by a text's vector.

What is looked for is the head: a row for each text, its vector of length one and behind it a 1, so that
the model's own scale and shift of a patch's similarities are a linear layer's, too. OWLv2 says of a patch,
besides, whether it shows anything at all (objectness); transformers' detections do not read it, whatever text
they are for, and neither does a head.
"""

from typing import Any

import torch
from torch.nn.functional import pad

from edgept.export.families.vision import VisionFamily

__all__ = ["FAMILY"]


def _merged(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (batch, 1 + prompt + patches, hidden), each seen together with the class token."""
    merged: torch.Tensor = model.layer_norm(tokens * tokens[:, :1])
    return merged


def _features(model: Any, tokens: torch.Tensor, _: int, __: Any) -> torch.Tensor:
    merged = _merged(model, tokens)
    head = model.class_head
    vectors = head.dense0(merged)
    vectors = vectors / (torch.linalg.norm(vectors, dim=-1, keepdim=True) + 1e-6)
    scale = head.elu(head.logit_scale(merged)) + 1
    return torch.cat([vectors * scale, head.logit_shift(merged) * scale], -1)


def _boxes(model: Any, tokens: torch.Tensor, first: int, prompt: Any) -> torch.Tensor:
    """The model's own boxes, near their patches; of what is no patch they mean nothing."""
    places = pad(model.box_bias, (0, 0, first + prompt, 0))  # (first + prompt + patches, 4)
    return torch.sigmoid(model.box_head(_merged(model, tokens)) + places)


FAMILY = VisionFamily(
    model_types=("owlvit", "owlv2"),
    layers="encoder.layers",
    norm="post_layernorm",
    norm_first="pre_layernorm",
    readout=_features,
    boxes=_boxes,
)
