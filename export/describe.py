"""What a bundle's manifest says of the model that was exported into it."""

from typing import Any

import onnx_ir as ir
import torch

from edgept import __version__
from edgept.errors import UsageError
from edgept.export.build import Built
from edgept.export.encoder_exporter import padding_id
from edgept.export.families import ENCODERS, VISION
from edgept.export.fingerprint import fingerprint
from edgept.export.generation_rules import read_decoding
from edgept.export.heads import find_head, head_labels, head_tensors
from edgept.export.pooling import read_pooling
from edgept.export.prompted_vision import PromptedVision
from edgept.export.source import ModelSource
from edgept.export.vision_exporter import vision_labels
from edgept.export.weights import WeightFormat
from edgept.manifest import Manifest

__all__ = ["check_longest_prompt", "describe"]

_PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "jetson": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}
_MIN_ONNXRUNTIME = "1.23.0"
_MAX_VIRTUAL_TOKENS = 1024


def check_longest_prompt(source: ModelSource, max_virtual_tokens: int | None) -> None:
    """Refuse what no model of these sequences takes, before it is built.

    Raises:
        UsageError: `max_virtual_tokens` is out of range.
    """
    if max_virtual_tokens is None:
        return
    if source.is_image:
        if max_virtual_tokens < 1:
            raise UsageError(f"--max-virtual-tokens {max_virtual_tokens}, expected at least 1.")
    else:
        _check_room(source, max_virtual_tokens, _longest_sequence(source))


def describe(
    source: ModelSource, built: Built, weights: WeightFormat, max_virtual_tokens: int | None
) -> Manifest:
    """The manifest, but for its files and what the parity check measures.

    Raises:
        UsageError: the model's longest sequence leaves no place for so long a prompt.
    """
    describe_kind = _describe_vision if source.is_image else _describe_text
    return describe_kind(source, built, weights, max_virtual_tokens)


def _describe_text(
    source: ModelSource, built: Built, weights: WeightFormat, max_virtual_tokens: int | None
) -> Manifest:
    reference = built.reference
    config = source.config.get_text_config()
    embedding = reference.get_input_embeddings()
    max_positions = _longest_sequence(source)
    family = ENCODERS.get(source.config.model_type)
    padding = None if family is None else padding_id(reference, family)
    if padding is not None:
        max_positions -= padding + 1  # rows of the table that no token's position takes
    head = head_tensors(reference)
    pooling, normalize = None, False
    if source.task == "feature-extraction":
        pooling, normalize = read_pooling(source.folder)
    limit = max_virtual_tokens or min(_MAX_VIRTUAL_TOKENS, max(1, max_positions - 1))
    _check_room(source, limit, max_positions)  # of positions without padding's, too
    bos, pad = source.generation.bos_token_id, getattr(config, "pad_token_id", None)
    return Manifest(
        source=source.name,
        architecture=type(reference).__name__,
        model_type=source.config.model_type,
        task=source.task,
        vocab_size=embedding.num_embeddings,
        hidden_size=embedding.embedding_dim,
        max_positions=max_positions,
        max_virtual_tokens=limit,
        kv=built.kv,
        bos_token_id=bos if isinstance(bos, int) else None,
        eos_token_ids=source.eos_token_ids,
        **_provenance(built, weights),
        head_precision=weights.head_precision,
        head_size=find_head(reference).in_features if head else None,
        head_dense="head.dense.weight" in head,
        labels=head_labels(reference) if head else [],
        pooling=pooling,
        normalize=normalize,
        # where transformers looks for it, too; an encoder pools its first position
        pad_token_id=pad if head and not source.is_encoder and isinstance(pad, int) else None,
        decoding=read_decoding(reference.generation_config, source.eos_token_ids)
        if source.is_seq2seq
        else None,
    )


def _longest_sequence(source: ModelSource) -> int:
    # BLOOM has no longest sequence of its own: its positions are biases of the attention
    config = source.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 2048)


def _check_room(source: ModelSource, limit: int, max_positions: int) -> None:
    if not 1 <= limit < max(2, max_positions):
        raise UsageError(
            f"--max-virtual-tokens {limit}: {source.name} takes sequences of {max_positions} tokens, so "
            f"expected 1 to {max_positions - 1}."
        )


def _describe_vision(
    source: ModelSource, built: Built, weights: WeightFormat, max_virtual_tokens: int | None
) -> Manifest:
    reference = built.reference
    prompted = PromptedVision(reference, VISION[source.config.model_type])
    limit = max_virtual_tokens or _MAX_VIRTUAL_TOKENS
    return Manifest(
        source=source.name,
        architecture=type(reference).__name__,
        model_type=source.config.model_type,
        task=source.task,
        vocab_size=0,
        hidden_size=prompted.hidden_size,
        max_positions=1 + limit + prompted.geometry.num_patches,
        max_virtual_tokens=limit,
        kv=None,
        bos_token_id=None,
        eos_token_ids=[],
        **_provenance(built, weights),
        head_size=prompted.head_size,
        labels=vision_labels(reference),
        image=prompted.geometry,
    )


def _provenance(built: Built, weights: WeightFormat) -> dict[str, Any]:
    """What is said of every bundle alike: weights, provider, versions, fingerprint."""
    graph = built.graphs[0]
    rows = next(item for item in graph.graph.inputs if item.name == "prompt_embeds")
    return {
        "precision": weights.precision,
        "block_size": weights.block_size if weights.bits and not weights.dynamic else None,
        "exclude_modules": list(weights.exclude_modules),
        "float_type": "float16" if rows.dtype == ir.DataType.FLOAT16 else "float32",
        "target": weights.target,
        "providers": _PROVIDERS[weights.target],
        "opset": dict(graph.opset_imports),
        "min_onnxruntime": _MIN_ONNXRUNTIME,
        "fingerprint": fingerprint(built.reference),
        "created_by": f"edgept {__version__}, PyTorch {torch.__version__}",
    }
