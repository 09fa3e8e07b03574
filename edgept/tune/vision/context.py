"""Context vectors in front of the classes' names, learnt (CoOp, Zhou et al. 2022).

What the text tower makes of them is computed once, when the file is written: a head.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from edgept.errors import UsageError
from edgept.export.class_head import TextTower, check_template, spoken

__all__ = ["ContextPrompt"]

_STD = 0.02  # of vectors that no words give
_PLACEHOLDER = "x"


class ContextPrompt(torch.nn.Module):
    """The vectors, and the head that follows from them.

    Args:
        tower: reads texts; frozen.
        labels: names of the classes; "_" stands for a space.
        template: "a photo of a {}.": the words before {} are where the vectors begin; None takes random
            ones.
        num_vectors: how many, where there is no template.

    Raises:
        UsageError: the template has no {}, or no word before it; or a text is too long for the model.
    """

    prompt: None = None  # the image model reads no rows
    finds_boxes = False

    def __init__(
        self, tower: TextTower, labels: Sequence[str], template: str | None, num_vectors: int
    ) -> None:
        super().__init__()
        self._towers = (tower,)  # not a module of this one: it is not trained
        embedding = tower.embedding
        before, after = "", "."
        if template is not None:
            check_template(template)
            before, _, after = template.partition("{}")
        if before.strip():
            ids = tower.tokenizer(before.strip(), add_special_tokens=False).input_ids
            context = embedding(torch.tensor(ids, device=embedding.weight.device)).detach()
        elif template is not None:
            raise UsageError(
                f"the template {template!r} has no word before the class's name, where the vectors begin. "
                "Write 'a photo of a {}.', or leave it out for random ones."
            )
        else:
            context = torch.empty(num_vectors, embedding.embedding_dim).normal_(std=_STD)
        self.context = torch.nn.Parameter(context.float().clone())  # (vectors, width)
        names = [f"{spoken(name)}{after}" for name in labels]
        words = " ".join([_PLACEHOLDER] * len(self.context))
        self._ids = tower.encode([f"{words} {name}" for name in names])  # (classes, longest)
        is_word = self._ids[0] == _word_id(tower)
        self._first = int(is_word.int().argmax())
        places = self._ids[:, self._first : self._first + len(self.context)]
        if not bool((places == _word_id(tower)).all()):
            raise UsageError(
                f"the model's tokenizer does not take {_PLACEHOLDER!r} as one token each time, so there is no "
                "place for vectors. Use --method head or vpt-deep."
            )

    def rows(self) -> None:
        """None: the image model reads no rows."""

    def make_head(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The head as the vectors are now: features (…, head_size) to logits (…, classes)."""
        weight, bias = self._head()
        return lambda features: torch.nn.functional.linear(features, weight, bias)

    def tensors(self) -> dict[str, Any]:
        """The head as a prompt file holds it, float32."""
        with torch.no_grad():
            weight, bias = self._head()
        return {
            "head.weight": np.array(weight.cpu().numpy(), dtype=np.float32),
            "head.bias": np.array(bias.cpu().numpy(), dtype=np.float32),
        }

    def _head(self) -> tuple[torch.Tensor, torch.Tensor]:
        (tower,) = self._towers
        handle = tower.embedding.register_forward_hook(self._put_in)
        try:
            return tower.head(tower.features(self._ids))
        finally:
            handle.remove()

    def _put_in(self, _module: Any, _given: Any, embedded: torch.Tensor) -> torch.Tensor:
        """The vectors in the places of their words; embedded: (classes, longest, width)."""
        last = self._first + len(self.context)
        rows = self.context.to(embedded.dtype).expand(len(embedded), -1, -1)
        return torch.cat([embedded[:, : self._first], rows, embedded[:, last:]], dim=1)


def _word_id(tower: TextTower) -> int:
    ids = tower.tokenizer(_PLACEHOLDER, add_special_tokens=False).input_ids
    return int(ids[0]) if len(ids) == 1 else -1
