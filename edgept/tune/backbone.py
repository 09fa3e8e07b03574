"""The frozen model, loaded once for any number of tasks."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.utils import logging

from edgept.errors import MissingDependencyError, UsageError
from edgept.export.encoder_exporter import padding_id
from edgept.export.families import ENCODERS, VISION
from edgept.export.fingerprint import fingerprint
from edgept.export.source import ModelSource, find_config, find_model, load_frozen
from edgept.tune.settings import PICTURE_TASKS

__all__ = ["Backbone", "load_backbone", "reads_pictures", "silent"]

_SAMPLED_TOKENS = 4096
_messages: Any = logging  # some of its functions have no types


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen model: a causal language model, an encoder-decoder, an image model, or what a head reads.

    Attributes:
        source: where it came from.
        model: the transformers model, in evaluation mode, without gradients.
        tokenizer: the model's own.
        fingerprint: of the weights as loaded, before they are cast.
        device: that it is on.
        precision: fp32 or bf16, of its weights.
        max_positions: longest sequence that it was made for; 0 of an image model.
        vision: an image model with its prompt and head as inputs; else None.
        preprocessor: what makes an image model's input of a picture; else None.
    """

    source: ModelSource
    model: Any
    tokenizer: Any
    fingerprint: str
    device: torch.device
    precision: str
    max_positions: int
    vision: Any = None
    preprocessor: Any = None

    @property
    def task(self) -> str:
        """text-generation, text2text-generation or text-classification; of an image model, its own."""
        return self.source.task

    @property
    def embedding_rms(self) -> float:
        """Root mean square of the tokens' embeddings; models differ by a factor of twenty."""
        embedding = self.model.get_input_embeddings()
        ids = torch.arange(min(embedding.num_embeddings, _SAMPLED_TOKENS), device=self.device)
        with torch.no_grad():
            rows = embedding(ids).float()  # (tokens, hidden), scaled where the model scales there
        return float(rows.square().mean().sqrt())

    @property
    def eos_token_ids(self) -> list[int]:
        """Ids that end a generation; the tokenizer's where the model names none."""
        ids = self.source.eos_token_ids
        if ids:
            return ids
        eos = self.tokenizer.eos_token_id
        return [] if eos is None else [int(eos)]


def reads_pictures(model: str | Backbone, data: str | os.PathLike[str]) -> bool:
    """Whether a model is one for pictures, by its configuration, which is all that is read of it.

    Args:
        model: local transformers folder, hub id, or a loaded model.
        data: to learn from; .jsonl has no pictures, so the hub is not asked, and what is wrong with its rows
            is said before anything is fetched.

    Raises:
        UsageError: there is no such model.
    """
    if isinstance(model, Backbone):
        return model.vision is not None
    if Path(data).suffix.lower() in (".jsonl", ".ndjson") and _may_be_on_hub(model):
        return False
    return find_config(model).model_type in VISION


def _may_be_on_hub(model: str) -> bool:
    """Whether it is a name there, or a name and its owner's, and no path."""
    is_path = Path(model).exists() or model.startswith((".", "~", os.sep))
    return not is_path and model.count("/") <= 1


def load_backbone(
    model: str, *, task: str | None = None, precision: str = "auto", device: str = "auto"
) -> Backbone:
    """Load a model to tune prompts for.

    Args:
        model: local transformers folder or hub id.
        task: text-generation, text2text-generation or text-classification; None or "auto" is the one
            that the model was saved for, and text-classification for an encoder, which cannot generate.
            An image model is loaded for all of its tasks.
        precision: fp32, bf16, or auto: bf16 on a GPU that has it, else fp32.
        device: cpu, cuda, or auto.

    Raises:
        UsageError: there is no such model, it has no tokenizer, or the device is not there.
        ExportError: its weights cannot be loaded.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("PyTorch finds no GPU here. Use --device cpu.")
    if precision == "auto":
        has_bf16 = device == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if has_bf16 else "fp32"
    source = _find(model, None if task in ("auto", *PICTURE_TASKS) else task)
    if source.is_image:
        return _load_vision(source, precision, device)
    with silent():
        frozen = load_frozen(source)
        try:
            tokenizer = AutoTokenizer.from_pretrained(source.location, trust_remote_code=False)
        except ImportError as error:
            raise MissingDependencyError(
                f"the tokenizer of {model} needs a package: {error}"
            ) from error
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(
                f"{model} has no tokenizer that transformers can load ({error}). Put tokenizer.json "
                "and tokenizer_config.json beside the weights."
            ) from error
    identity = fingerprint(frozen)  # of the float32 weights: bf16 would be another model's
    frozen.to(device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    config = frozen.config.get_text_config()
    # BLOOM has no longest sequence of its own, as in export
    max_positions = int(getattr(config, "max_position_embeddings", None) or 2048)
    family = ENCODERS.get(frozen.config.model_type)
    padding = None if family is None else padding_id(frozen, family)
    if padding is not None:
        max_positions -= padding + 1  # rows of the table that no token's position takes
    return Backbone(
        source, frozen, tokenizer, identity, torch.device(device), precision, max_positions
    )


def _load_vision(source: ModelSource, precision: str, device: str) -> Backbone:
    from edgept.export.image_preprocessor import read_preprocessor
    from edgept.export.prompted_vision import PromptedVision

    with silent():
        frozen = load_frozen(source)
    identity = fingerprint(frozen)
    vision = PromptedVision(frozen)
    preprocessor, _ = read_preprocessor(source)
    frozen.to(device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    return Backbone(
        source,
        frozen,
        None,
        identity,
        torch.device(device),
        precision,
        0,
        vision=vision,
        preprocessor=preprocessor,
    )


def _find(model: str, task: str | None) -> ModelSource:
    if task is not None:
        return find_model(model, task)
    try:
        source = find_model(model)
    except UsageError:
        if not _is_encoder(model):
            raise
    else:
        if source.is_image or not source.is_encoder:
            return source
    # an encoder is tuned to classify, whatever it was saved for
    return find_model(model, "text-classification")


def _is_encoder(model: str) -> bool:
    try:
        return find_model(model, "text-classification").is_encoder
    except UsageError:
        return False


@contextmanager
def silent() -> Iterator[None]:
    """Without transformers' bars and messages, and the warnings that it and peft raise of each other."""
    level = _messages.get_verbosity()
    has_bars = _messages.is_progress_bar_enabled()
    _messages.set_verbosity_error()
    _messages.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _messages.set_verbosity(level)
        if has_bars:
            _messages.enable_progress_bar()
