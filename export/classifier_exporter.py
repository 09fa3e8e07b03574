"""Sequence classifiers through torch.onnx, the head an input of the graph like the prompt.

An encoder pools as its own forward does (BERT's pooler reads the first position, which is a
prompt's first virtual token, as in peft). A decoder-only model is pooled at the last token of each
row that the mask leaves. Where transformers would skip pads at a text's end, which it does when it is
given ids, the runtime leaves them out.
"""

import inspect
from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from torch.func import functional_call

from edgept.bundle import KVGeometry
from edgept.export.heads import find_head, head_name
from edgept.export.torch_exporter import (
    decode,
    decoder_inputs,
    present_dims,
    prompt_input,
    refuse_length_dependence,
    virtual_embeds,
)
from edgept.export.tracing import Dims, GraphInput, trace

__all__ = [
    "DecoderClassifier",
    "EncoderClassifier",
    "export_decoder_classifier",
    "export_encoder_classifier",
]


class EncoderClassifier(nn.Module):
    """An encoder whose ids from the vocabulary's end on are rows of a prompt, and whose head is given."""

    def __init__(self, model: Any, extra_inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.embedding = model.get_input_embeddings()
        self.head = head_name(model)
        self.extra_inputs = extra_inputs

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        extra: list[torch.Tensor],
        prompt_embeds: torch.Tensor,
        head_weight: torch.Tensor,
        head_bias: torch.Tensor,
    ) -> torch.Tensor:
        """Logits of each text.

        Args:
            input_ids: (batch, sequence) int64.
            attention_mask: (batch, sequence) int64, 0 for padding.
            extra: the family's extra inputs, (batch, sequence) int64 each.
            prompt_embeds: (num_virtual_tokens, hidden).
            head_weight: (classes, head_size).
            head_bias: (classes,)

        Returns:
            (batch, classes)
        """
        weights = {f"{self.head}.weight": head_weight, f"{self.head}.bias": head_bias}
        inputs = {
            "inputs_embeds": virtual_embeds(self.embedding, input_ids, prompt_embeds),
            "attention_mask": attention_mask,
            **dict(zip(self.extra_inputs, extra, strict=True)),
        }
        logits: torch.Tensor = functional_call(self.model, weights, (), inputs).logits
        return logits


class DecoderClassifier(nn.Module):
    """The same for a decoder-only model, with its key/value cache."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.base_model
        self.embedding = model.get_input_embeddings()
        self.takes_positions = "position_ids" in inspect.signature(self.model.forward).parameters

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        past: list[torch.Tensor],
        prompt_embeds: torch.Tensor,
        head_weight: torch.Tensor,
        head_bias: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Logits (batch, classes) and the cache; arguments as in PromptedDecoder and EncoderClassifier."""
        embeds = virtual_embeds(self.embedding, input_ids, prompt_embeds)
        output, present = decode(
            self.model, embeds, attention_mask, past, takes_positions=self.takes_positions
        )
        hidden = output.last_hidden_state  # (batch, sequence, hidden)
        sequence = hidden.shape[1]
        columns = torch.arange(sequence, device=hidden.device)
        last = (attention_mask[:, -sequence:] * columns).amax(-1)  # (batch,) the last real position
        where = last[:, None, None].expand(-1, 1, hidden.shape[2])
        pooled = hidden.gather(1, where).squeeze(1)  # (batch, hidden)
        return (nn.functional.linear(pooled, head_weight, head_bias), *present)


def export_encoder_classifier(model: Any, extra_inputs: tuple[str, ...]) -> ir.Model:
    """Export an encoder: input_ids, attention_mask, the extra inputs, prompt_embeds and head to logits.

    Args:
        model: a frozen transformers sequence classifier; its float type becomes the graph's.
        extra_inputs: of its family.

    Raises:
        ExportError: torch cannot trace the model, or fixed a dimension that must be free.
    """
    ids = torch.zeros((2, 3), dtype=torch.long)
    dims: Dims = ("batch_size", "sequence_length")
    return trace(
        EncoderClassifier(model, extra_inputs).eval(),
        [
            GraphInput("input_ids", dims, ids),
            GraphInput("attention_mask", dims, torch.ones_like(ids)),
            [GraphInput(name, dims, ids.clone()) for name in extra_inputs],
            prompt_input(model),
            *_head_inputs(model),
        ],
        {"logits": ("batch_size", "num_classes")},
        name=type(model).__name__,
    )


def export_decoder_classifier(model: Any, kv: KVGeometry) -> ir.Model:
    """Export a decoder-only classifier; inputs and outputs as `export_decoder`, and the head.

    Args:
        model: a frozen transformers sequence classifier; its float type becomes the graph's.
        kv: its cache's geometry.

    Raises:
        ExportError: torch cannot trace the model, or fixed a dimension that must be free.
    """
    refuse_length_dependence(model, kv)
    return trace(
        DecoderClassifier(model).eval(),
        [*decoder_inputs(model, kv), prompt_input(model), *_head_inputs(model)],
        {"logits": ("batch_size", "num_classes"), **present_dims(kv)},
        name=type(model).__name__,
    )


def _head_inputs(model: Any) -> list[GraphInput]:
    dtype = model.get_input_embeddings().weight.dtype
    width, classes = find_head(model).in_features, 6
    weight, bias = torch.zeros((classes, width), dtype=dtype), torch.zeros(classes, dtype=dtype)
    return [
        GraphInput("head.weight", ("num_classes", width), weight),
        GraphInput("head.bias", ("num_classes",), bias),
    ]
