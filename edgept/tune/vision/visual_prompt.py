"""What is trained for a task on pictures: rows for the virtual tokens, and the task's head.

Visual prompt tuning, Jia et al. 2022 (https://arxiv.org/abs/2203.12119).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from edgept.prompt import Prompt
from edgept.tune.head import Head
from edgept.tune.start import copy_start

__all__ = ["QueryPrompt", "VisualPrompt", "put_visual_start"]

_HEAD_STD = 0.02  # as transformers draws a vision model's classifier


class VisualPrompt(torch.nn.Module):
    """A prompt and a head, both float32.

    Args:
        layers: tables of the prompt: 1, or one for every layer of the model.
        num_virtual_tokens: rows of each; 0 trains a head alone.
        hidden: width of the model's layers.
        patch_size: of the model; with the width it says how large rows are at first.
        num_labels: rows of the head.
        head_size: what it reads of a position.
        projection: width of the rows that are learnt and made as wide as the model by a linear layer; the
            file holds its output. None learns the rows themselves.
        finds_boxes: whether there are four more outputs, a box.
    """

    def __init__(
        self,
        *,
        layers: int,
        num_virtual_tokens: int,
        hidden: int,
        patch_size: int,
        num_labels: int,
        head_size: int,
        projection: int | None = None,
        finds_boxes: bool = False,
    ) -> None:
        super().__init__()
        self.prompt: torch.nn.Parameter | None = None
        self.projection: torch.nn.Linear | None = None
        if num_virtual_tokens:
            width = projection or hidden
            bound = math.sqrt(6 / (3 * patch_size**2 + width))  # Xavier's, of a patch
            rows = torch.empty(layers, num_virtual_tokens, width).uniform_(-bound, bound)
            self.prompt = torch.nn.Parameter(rows)
            if projection is not None:
                self.projection = torch.nn.Linear(projection, hidden)
                torch.nn.init.kaiming_normal_(self.projection.weight, mode="fan_out")
                torch.nn.init.zeros_(self.projection.bias)
        self.finds_boxes = finds_boxes
        self.head = _fresh_head(head_size, num_labels)
        self.box = _fresh_head(head_size, 4) if finds_boxes else None

    def rows(self) -> torch.Tensor | None:
        """The prompt, (layers, num_virtual_tokens, hidden); None of a head alone."""
        if self.prompt is None or self.projection is None:
            return self.prompt
        projected: torch.Tensor = self.projection(self.prompt)
        return projected

    def make_head(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The head: features (…, head_size) to logits (…, labels)."""
        return self.head

    def boxes(self, features: torch.Tensor) -> torch.Tensor:
        """Centre x, centre y, width, height of each position as shares of the picture, (…, 4)."""
        assert self.box is not None  # noqa: S101 - the type checker's
        found: torch.Tensor = self.box(features)
        return found.sigmoid()

    def tensors(self) -> dict[str, Any]:
        """All of it as a prompt file holds it, float32."""
        with torch.no_grad():
            made: dict[str, torch.Tensor | None] = {"prompt_embeds": self.rows()}
            for name, head in (("head", self.head), ("box", self.box)):
                if head is not None:
                    made |= {f"{name}.weight": head.weight, f"{name}.bias": head.bias}
        return {
            name: np.array(tensor.detach().cpu().numpy(), dtype=np.float32)
            for name, tensor in made.items()
            if tensor is not None
        }


class QueryPrompt(VisualPrompt):
    """What is trained for a model whose patches find things with boxes of their own (OWL-ViT).

    Each row of the head is what is looked for. What it reads of a patch has the patch's box behind it.

    Args:
        **sizes: as of a VisualPrompt.
    """

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.finds_boxes = True
        with torch.no_grad():
            self.head.weight[:, -1] = 1  # the model's own shift, as under a text

    def make_head(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The head: features with boxes (…, head_size + 4) to logits (…, labels)."""
        return lambda features: self.head(features[..., :-4])

    def boxes(self, features: torch.Tensor) -> torch.Tensor:
        """The model's own boxes, (…, 4)."""
        return features[..., -4:]


def put_visual_start(module: VisualPrompt, start: Prompt) -> None:
    """Put a prompt's tensors where the training begins.

    Raises:
        IncompatibleError: its sizes are not the model's.
    """
    layers = {"head": module.head, "box": module.box}
    places: dict[str, Any] = {
        f"{name}.{part}": getattr(layer, part, None)
        for name, layer in layers.items()
        for part in ("weight", "bias")
    }
    places["prompt_embeds"] = module.prompt
    tensors = {"head.bias": np.zeros(len(module.head.bias), np.float32), **start.tensors}
    for name, array in tensors.items():
        copy_start(places.get(name), array, name, start)


def _fresh_head(inputs: int, outputs: int) -> Head:
    head = Head(inputs, outputs)
    torch.nn.init.normal_(head.weight, std=_HEAD_STD)
    torch.nn.init.zeros_(head.bias)
    return head
