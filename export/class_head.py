"""A head from the names of classes: what a model for images and texts makes of them (CLIP, SigLIP, OWL).

A class's row is the vector of its text, so that a picture's vector, of length one, times the head is what the
model itself computes of the picture and the texts: at run time no text is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import normalize
from transformers import AutoTokenizer

from edgept.errors import MissingDependencyError, UsageError

__all__ = ["PLAIN_TEMPLATE", "TextTower", "check_template", "open_text_tower", "spoken"]

PLAIN_TEMPLATE = "a photo of a {}."  # CLIP's own


@dataclass(frozen=True, eq=False)
class TextTower:
    """The part of a model that reads texts.

    Attributes:
        model: the frozen transformers model for images and texts.
        tokenizer: the model's own.
        length: that each text is padded to; None pads to the longest.
        finds_things: whether a text says what is looked for (OWL-ViT, OWLv2), and not what a picture is of.
    """

    model: Any
    tokenizer: Any
    length: int | None
    finds_things: bool = False

    @property
    def embedding(self) -> Any:
        """The layer that makes vectors of token ids."""
        return self.model.text_model.embeddings.token_embedding

    @property
    def max_tokens(self) -> int:
        """Longest text."""
        return int(self.model.config.text_config.max_position_embeddings)

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Token ids (texts, longest) int64, special tokens and pads included.

        Raises:
            UsageError: a text is longer than the model reads.
        """
        for text in texts:
            found = len(self.tokenizer(text).input_ids)
            if found > self.max_tokens:
                raise UsageError(
                    f"{text[:60]!r} has {found} tokens, the model reads {self.max_tokens}. Shorten the name or "
                    "the template."
                )
        padding: dict[str, Any] = {"padding": True}
        if self.length is not None:
            padding = {"padding": "max_length", "max_length": self.length}
        encoded = self.tokenizer(list(texts), return_tensors="pt", **padding)
        ids: torch.Tensor = encoded.input_ids.to(self.embedding.weight.device)
        return ids

    def features(self, ids: torch.Tensor) -> torch.Tensor:
        """A vector of length one for each text, (texts, head_size), float32.

        Args:
            ids: see `encode`. CLIP's texts end at their end-of-text token and see nothing behind it; SigLIP
                sees the pads, as it was trained to.
        """
        found = self.model.get_text_features(input_ids=ids).pooler_output
        return normalize(found.float(), dim=-1)

    def head(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A head's weight (classes, head_size) and bias (classes,) from the vectors of its classes.

        The scale and the bias that the model learnt for similarities are in it; OWL-ViT's are in what a
        patch gives, and the weight has a last column for the shift.
        """
        if self.finds_things:
            ones = torch.ones(len(features), 1, device=features.device)
            return torch.cat([features, ones], dim=1), torch.zeros(len(features))
        scale = self.model.logit_scale.detach().float().exp()
        bias = getattr(self.model, "logit_bias", None)
        shift = torch.zeros(()) if bias is None else bias.detach().float()
        return features * scale, shift.to(features.device).expand(len(features)).clone()

    def of_classes(
        self, labels: Sequence[str], templates: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The head for classes by their names (zero-shot).

        Args:
            labels: names of the classes, see `spoken`.
            templates: texts with {} where the name belongs; of several, the mean of their vectors counts.

        Raises:
            UsageError: a template has no {}, or a text is too long.
        """
        for template in templates:
            check_template(template)
        with torch.no_grad():
            found = [
                self.features(
                    self.encode([template.replace("{}", spoken(name)) for name in labels])
                )
                for template in templates
            ]
            return self.head(normalize(torch.stack(found).mean(dim=0), dim=-1))


def spoken(label: str) -> str:
    """A class's name as a text has it: "_", which folders and lists have for a space, is one."""
    return label.replace("_", " ")


def check_template(template: str) -> None:
    """Refuse a template that does not say where the class's name belongs.

    Raises:
        UsageError: it has no {}, or several.
    """
    if template.count("{}") != 1:
        raise UsageError(
            f"the template {template!r} has {template.count('{}')} places for a class's name; expected one: "
            "'a photo of a {}.'"
        )


def open_text_tower(model: Any, folder: Any) -> TextTower:
    """The part of a model that reads texts.

    Args:
        model: a frozen transformers model for images and texts.
        folder: with its tokenizer.

    Raises:
        UsageError: it reads no texts, or has no tokenizer.
    """
    inner = next(
        (getattr(model, name) for name in ("owlvit", "owlv2") if hasattr(model, name)), None
    )
    finds_things = inner is not None
    model = model if inner is None else inner
    if not hasattr(model, "get_text_features") or not hasattr(model, "logit_scale"):
        raise UsageError(
            f"{type(model).__name__} reads no texts, so it knows no class by its name. Give a whole CLIP or "
            "SigLIP model, or tune with pictures of the classes."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except ImportError as error:
        raise MissingDependencyError(
            f"the tokenizer of {folder} needs a package: {error}"
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{folder} has no tokenizer that transformers can load ({error}). Put tokenizer.json and "
            "tokenizer_config.json beside the weights."
        ) from error
    sees_pads = hasattr(model, "logit_bias")  # SigLIP
    length = int(model.config.text_config.max_position_embeddings) if sees_pads else None
    return TextTower(model, tokenizer, length, finds_things)
