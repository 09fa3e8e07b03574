"""Encoders through torch.onnx, for all their tasks; the head is an input of the graph like the prompt.

What is computed is the transformers model's own forward, given embeddings. So a pooler reads the first
position, which is a prompt's first virtual token, as in peft; and what has a value at each position has
one at those of the prompt, too.
"""

from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from torch.func import functional_call
from transformers import DynamicCache

from edgept.export import attention_layout
from edgept.export.families import EncoderFamily
from edgept.export.heads import head_layers, head_tensors, task_of
from edgept.export.torch_exporter import prompt_input, virtual_embeds
from edgept.export.tracing import Dims, GraphInput, trace
from edgept.manifest import KVGeometry

__all__ = [
    "PromptedEncoder",
    "export_encoder",
    "head_inputs",
    "padding_id",
    "prefix_geometry",
    "read_output",
]

_OUTPUTS: dict[str, dict[str, Dims]] = {
    "text-classification": {"logits": ("batch_size", "num_classes")},
    "token-classification": {"logits": ("batch_size", "sequence_length", "num_classes")},
    "question-answering": {"logits": ("batch_size", "sequence_length", "")},
    "feature-extraction": {"last_hidden_state": ("batch_size", "sequence_length", "")},
}


def export_encoder(model: Any, family: EncoderFamily, task: str) -> ir.Model:
    """Export an encoder.

    Args:
        model: a frozen transformers model of the task; its float type becomes the graph's.
        family: that it is of.
        task: as transformers names it.

    Returns:
        A model with the inputs input_ids, attention_mask, token_type_ids where the model has them,
        prompt_embeds, prompt_kv where the family takes it, and the head's, and the output logits, (batch, classes) or
        (batch, sequence, classes), or last_hidden_state (batch, sequence, hidden). Weights in memory.

    Raises:
        ExportError: torch cannot trace the model, or fixed a dimension that must be free.
    """
    ids = torch.zeros((2, 3), dtype=torch.long)
    dims: Dims = ("batch_size", "sequence_length")
    prefix = _prefix_inputs(model, family)
    mask_dims = ("batch_size", "total_sequence_length") if prefix else dims
    mask_size = (2, 3 + (prefix[0].example.shape[3] if prefix else 0))
    # DeBERTa-v3 takes types and has none
    has_types = family.has_token_types and model.config.type_vocab_size > 0
    traced = trace(
        PromptedEncoder(model, family, task).eval(),
        [
            GraphInput("input_ids", dims, ids),
            GraphInput("attention_mask", mask_dims, torch.ones(mask_size, dtype=torch.long)),
            [GraphInput("token_type_ids", dims, ids.clone())] if has_types else [],
            prompt_input(model),
            prefix,
            head_inputs(model),
        ],
        _OUTPUTS[task],
        name=type(model).__name__,
        opset=family.opset,
    )
    attention_layout.join_heads(traced)
    return traced


class PromptedEncoder(nn.Module):
    """An encoder whose ids from the vocabulary's end on are rows of a prompt, and whose head is given."""

    def __init__(self, model: Any, family: EncoderFamily, task: str) -> None:
        super().__init__()
        self.model, self.task = model, task
        self.embedding = model.get_input_embeddings()
        layers = head_layers(model).values()
        self.head = [f"{name}.{part}" for name, _ in layers for part in ("weight", "bias")]
        self.padding = padding_id(model, family)
        self.adds_mask = family.adds_mask

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_types: list[torch.Tensor],
        prompt_embeds: torch.Tensor,
        prefix: list[torch.Tensor],
        head: list[torch.Tensor],
    ) -> torch.Tensor:
        """What the task reads.

        Args:
            input_ids: (batch, sequence) int64.
            attention_mask: (batch, prefix + sequence) int64, 0 for padding.
            token_types: (batch, sequence) int64, of a family that has them; else nothing.
            prompt_embeds: (num_virtual_tokens, hidden).
            prefix: of a family that takes it, (layers, 2, heads, prefix, head_dim), keys and values that
                stand in front of every row; else nothing.
            head: as `head_inputs`.

        Returns:
            As `read_output`.
        """
        embeds = virtual_embeds(self.embedding, input_ids, prompt_embeds)
        inputs: dict[str, Any] = {
            "inputs_embeds": embeds,
            "attention_mask": _additive_mask(attention_mask, embeds)
            if self.adds_mask
            else attention_mask,
            **dict(zip(("token_type_ids",), token_types, strict=False)),
        }
        length: Any = 0
        if prefix:
            length = prefix[0].shape[3]
            inputs["past_key_values"] = _cache(prefix[0], input_ids.shape[0])
        if self.padding is not None:
            inputs["position_ids"] = self._positions(input_ids, self.padding, length)
        weights = dict(zip(self.head, head, strict=True))
        return read_output(functional_call(self.model, weights, (), inputs), self.task)

    def _positions(self, input_ids: torch.Tensor, padding: int, first: Any) -> torch.Tensor:
        """Positions (batch, sequence) as such a model counts them, row by row, behind a prefix.

        A row without virtual tokens is one that transformers is given as ids, so padding is skipped.
        """
        vocab_size = int(self.embedding.num_embeddings)
        has_prompt = (input_ids >= vocab_size).any(-1, keepdim=True)  # (batch, 1)
        counts = ((input_ids != padding) | has_prompt).long()
        positions: torch.Tensor = (counts.cumsum(-1) + first) * counts + padding
        return positions


def prefix_geometry(model: Any, family: EncoderFamily) -> KVGeometry | None:
    """Of the keys and values that may stand in front of a text; None where none may."""
    if not family.takes_prefix:
        return None
    config = model.config
    return KVGeometry(
        num_layers=config.num_hidden_layers,
        num_kv_heads=config.num_attention_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        shared_buffer=False,
        prefix_only=True,
    )


def _prefix_inputs(model: Any, family: EncoderFamily) -> list[GraphInput]:
    kv = prefix_geometry(model, family)
    if kv is None:
        return []
    dims: Dims = (kv.num_layers, 2, kv.num_kv_heads, "num_prefix_tokens", kv.head_dim)
    dtype = model.get_input_embeddings().weight.dtype
    example = torch.zeros((kv.num_layers, 2, kv.num_kv_heads, 5, kv.head_dim), dtype=dtype)
    return [GraphInput("prompt_kv", dims, example)]


def _cache(prefix: torch.Tensor, batch: int) -> DynamicCache:
    """Keys and values of each layer, (batch, heads, prefix, head_dim)."""
    spread = prefix.flatten(0, 1)[:, None].expand(-1, batch, -1, -1, -1)  # (2 · layers, batch, …)
    return DynamicCache(
        [(spread[2 * layer], spread[2 * layer + 1]) for layer in range(len(prefix))]
    )


def _additive_mask(attention_mask: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
    """What is added to the scores, (batch, 1, sequence, prefix + sequence): 0, or the lowest number for padding.

    transformers would make a boolean one of it with a dozen operators, and onnxruntime's attention a float
    one of that in every layer. It wants a row for each query.
    """
    lowest = torch.full((), torch.finfo(embeds.dtype).min, dtype=embeds.dtype)
    added = torch.where(attention_mask.bool(), torch.zeros((), dtype=embeds.dtype), lowest)
    return added[:, None, None, :].expand(-1, 1, embeds.shape[1], -1)


def padding_id(model: Any, family: EncoderFamily) -> int | None:
    """The id behind which positions begin; None of a model that counts them from 0."""
    return int(model.base_model.embeddings.padding_idx) if family.skips_pads else None


def read_output(output: Any, task: str) -> torch.Tensor:
    """What a task reads of a transformers model's output.

    Returns:
        text-classification: (batch, classes); token-classification: (batch, sequence, classes);
        question-answering: (batch, sequence, 2), start and end; feature-extraction:
        (batch, sequence, hidden).
    """
    found: torch.Tensor
    if task == "question-answering":
        found = torch.stack([output.start_logits, output.end_logits], -1)
    elif task == "feature-extraction":
        found = output.last_hidden_state
    else:
        found = output.logits
    return found


def head_inputs(model: Any) -> list[GraphInput]:
    """The head as inputs: weight (classes, head_size), bias (classes,), and the layer in front of it."""
    # an answer has a start and an end, whatever the prompt
    label: str | int = 2 if task_of(model) == "question-answering" else "num_classes"
    inputs = []
    for name, tensor in head_tensors(model).items():
        is_last = not name.startswith("head.dense.")
        dims: Dims = (label, *tensor.shape[1:]) if is_last else tuple(tensor.shape)
        sizes = [6 if isinstance(size, str) else size for size in dims]
        inputs.append(GraphInput(name, dims, torch.zeros(sizes, dtype=tensor.dtype)))
    return inputs
