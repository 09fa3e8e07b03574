"""Decoder-only sequence classifiers through torch.onnx, the head an input of the graph like the prompt.

What is pooled is the last token of each row that the mask leaves. Where transformers would skip pads at
a text's end, which it does when it is given ids, the runtime leaves them out.
"""

import inspect
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from edgept.export.encoder_exporter import head_inputs
from edgept.export.torch_exporter import (
    decode,
    decoder_inputs,
    present_dims,
    prompt_input,
    refuse_length_dependence,
    virtual_embeds,
)
from edgept.export.tracing import trace
from edgept.manifest import KVGeometry

__all__ = ["DecoderClassifier", "export_decoder_classifier"]


class DecoderClassifier(nn.Module):
    """A decoder-only model whose ids from the vocabulary's end on are rows of a prompt, and whose head is given."""

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
        head: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """Logits (batch, classes) and the cache; arguments as in PromptedDecoder and PromptedEncoder."""
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
        return (nn.functional.linear(pooled, *head), *present)


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
        [*decoder_inputs(model, kv), prompt_input(model), head_inputs(model)],
        {"logits": ("batch_size", "num_classes"), **present_dims(kv)},
        name=type(model).__name__,
    )
