"""An image model with its visual prompt and its head as inputs: what is exported, and what is tuned.

Visual prompt tuning (Jia et al. 2022): virtual tokens stand between the tokens that come first (the class
token) and the patches; before the first layer (shallow), or before every layer anew (deep). The layers
themselves are the transformers model's own.
"""

from functools import reduce
from typing import Any

import torch
from torch import nn

from edgept.errors import ExportError
from edgept.export.families import VisionFamily
from edgept.manifest import ImageGeometry

__all__ = ["PromptedVision"]


class PromptedVision(nn.Module):
    """A frozen image model under a prompt, with a head on every token.

    Attributes:
        geometry: of the pictures that the model takes, and of its layers.
        hidden_size: width of its tokens, so of a prompt's rows.
        head_size: width of its features, so of a head's rows.
    """

    def __init__(self, model: Any, family: VisionFamily) -> None:
        """Find the parts of a transformers model.

        Args:
            model: frozen, in evaluation mode.
            family: that it is of.

        Raises:
            ExportError: the model's tokens are not its patches and some in front of them.
        """
        super().__init__()
        self.model, self.family = model, family
        tower = family.tower(model)
        config = tower.config
        self.embeddings = tower.embeddings
        self.layers: Any = reduce(getattr, family.layers.split("."), tower)
        self.norm = getattr(tower, family.norm)
        self.norm_first = getattr(tower, family.norm_first) if family.norm_first else None
        height, width = _pair(config.image_size)
        patch = _pair(config.patch_size)
        if patch[0] != patch[1]:
            raise ExportError(
                f"{type(model).__name__} has patches of {patch[1]} x {patch[0]} pixels; this version exports "
                "models whose patches are square."
            )
        self.geometry = ImageGeometry(
            len(self.layers),
            height,
            width,
            patch[0],
            detects="tokens" if family.boxes is None else "patches",
        )
        self.hidden_size = int(config.hidden_size)
        dtype = next(model.parameters()).dtype
        with torch.no_grad():
            tokens = self.embeddings(torch.zeros(1, 3, height, width, dtype=dtype))
            self.num_first = int(tokens.shape[1]) - self.geometry.num_patches
            if self.num_first < 0:
                raise ExportError(
                    f"{type(model).__name__} makes {tokens.shape[1]} tokens of a picture, fewer than its "
                    f"{self.geometry.num_patches} patches. Please report this model's config.json."
                )
            features = family.features(model, tokens, self.num_first, 0)
        self.head_size = int(features.shape[-1])

    def forward(
        self,
        pixel_values: torch.Tensor,
        prompt_embeds: torch.Tensor,
        head_weight: torch.Tensor,
        head_bias: torch.Tensor,
        box_weight: torch.Tensor,
        box_bias: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What every task reads; positions are the picture's own, the virtual tokens', the patches'.

        Args:
            pixel_values: (batch, 3, height, width), normalised.
            prompt_embeds: (layers or 1, batch or 1, num_virtual_tokens, hidden).
            head_weight: (classes, head_size).
            head_bias: (classes,).
            box_weight: (4, head_size).
            box_bias: (4,).

        Returns:
            logits (batch, positions, classes); boxes (batch, positions, 4), centre x, centre y, width
            and height as shares of the picture; features (batch, positions, head_size).
        """
        tokens, count = self.tokens(pixel_values, prompt_embeds)
        features = self.family.features(self.model, tokens, self.num_first, count)
        logits = nn.functional.linear(features, head_weight, head_bias)
        if self.family.boxes is None:
            boxes = torch.sigmoid(nn.functional.linear(features, box_weight, box_bias))
        else:
            boxes = self.family.boxes(self.model, tokens, self.num_first, count)
        return logits, boxes, features

    def features(self, pixel_values: torch.Tensor, prompt_embeds: torch.Tensor) -> torch.Tensor:
        """The vectors that a head reads, (batch, 1 + virtual tokens + patches, head_size); as `forward`."""
        tokens, count = self.tokens(pixel_values, prompt_embeds)
        return self.family.features(self.model, tokens, self.num_first, count)

    def tokens(
        self, pixel_values: torch.Tensor, prompt_embeds: torch.Tensor
    ) -> tuple[torch.Tensor, Any]:
        """The last layer's tokens, normalised, and how many of them are virtual.

        Args:
            pixel_values: (batch, 3, height, width), normalised.
            prompt_embeds: (layers or 1, batch or 1, num_virtual_tokens, hidden).

        Returns:
            (batch, first + virtual tokens + patches, hidden), and a number or, traced, a symbol.
        """
        tokens = self.embeddings(pixel_values)  # (batch, first + patches, hidden)
        if self.norm_first is not None:
            tokens = self.norm_first(tokens)
        depth, count = prompt_embeds.shape[0], prompt_embeds.shape[2]
        sizes = [self.num_first, count, self.geometry.num_patches]
        # one table a layer; of a shallow prompt, the same one, which only the first layer takes
        device = prompt_embeds.device
        layer = torch.arange(len(self.layers), device=device).clamp(max=depth - 1)
        tables = prompt_embeds[layer].unbind(0)  # each (batch or 1, virtual tokens, hidden)
        is_deep = torch.scalar_tensor(depth, device=device) > 1
        first, patches = tokens.split([sizes[0], sizes[2]], 1)
        rows = tables[0].expand(tokens.shape[0], -1, -1)
        for index, block in enumerate(self.layers):
            if index:
                first, rows, patches = tokens.split(sizes, 1)
                rows = torch.where(is_deep, tables[index], rows)
            joined = torch.cat([first, rows, patches], 1)
            tokens = self.family.run_layer(self.model, block, joined, count)
        return self.norm(tokens), count


def _pair(size: Any) -> tuple[int, int]:
    """A side, or height and width, as transformers' configurations give an image's size."""
    if isinstance(size, (list, tuple)):
        return int(size[0]), int(size[1])
    return int(size), int(size)
