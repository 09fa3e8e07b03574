"""Encoder-decoders through torch.onnx: two graphs, named as optimum names theirs.

The encoder's graph ends in the keys and values of every decoder layer's cross-attention, so that they
are computed once a request; the decoder's takes them beside its own cache, which grows.
"""

from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from edgept.errors import ExportError
from edgept.export.families import Seq2SeqFamily
from edgept.export.torch_exporter import prompt_input, virtual_embeds
from edgept.export.tracing import Dims, GraphInput, trace
from edgept.manifest import KVGeometry

__all__ = ["CrossDecoder", "PromptedEncoder", "export_seq2seq", "probe_seq2seq_kv"]

_SOURCE: Dims = ("batch_size", "encoder_sequence_length")


class PromptedEncoder(nn.Module):
    """An encoder whose ids from the vocabulary's end on are rows of a prompt, down to the decoder's keys."""

    def __init__(self, model: Any, family: Seq2SeqFamily, kv: KVGeometry) -> None:
        super().__init__()
        self.encoder = model.get_encoder()
        self.embedding = model.get_input_embeddings()
        self.scale = float(self.encoder.embed_scale) if family.scales_own_rows else 1.0
        attentions = [
            module
            for name, module in model.get_decoder().named_modules()
            if name.rsplit(".", 1)[-1] == family.cross_attention
        ]
        self.keys = nn.ModuleList(getattr(module, family.key) for module in attentions)
        self.values = nn.ModuleList(getattr(module, family.value) for module in attentions)
        self.heads, self.head_dim = kv.num_kv_heads, kv.head_dim

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, prompt_embeds: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Key and value of each decoder layer in turn, (batch, heads, sequence, head_dim).

        Args:
            input_ids: (batch, sequence) int64.
            attention_mask: (batch, sequence) int64, 0 for padding.
            prompt_embeds: (num_virtual_tokens, hidden).
        """
        embeds = virtual_embeds(self.embedding, input_ids, prompt_embeds)
        if self.scale != 1.0:
            first_virtual = int(self.embedding.num_embeddings)
            is_prompted = (input_ids >= first_virtual).any(dim=1)[:, None, None]  # (batch, 1, 1)
            embeds = torch.where(is_prompted, embeds, embeds * self.scale)
        output = self.encoder(inputs_embeds=embeds, attention_mask=attention_mask)
        hidden = output.last_hidden_state  # (batch, sequence, hidden)
        return tuple(
            layer(hidden).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
            for pair in zip(self.keys, self.values, strict=True)
            for layer in pair
        )


class CrossDecoder(nn.Module):
    """A decoder that is given the keys and values of its cross-attention."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.float_type = model.get_input_embeddings().weight.dtype

    def forward(
        self,
        input_ids: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
        past: list[torch.Tensor],
        cross: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """Logits (batch, sequence, vocabulary), then the cache of self-attention after these tokens.

        Args:
            input_ids: (batch, sequence) int64, of the answer.
            encoder_attention_mask: (batch, encoder sequence) int64, 0 for padding.
            past: key and value of each layer's self-attention in turn, (batch, heads, past, head_dim).
            cross: and of its cross-attention, (batch, heads, encoder sequence, head_dim).
        """
        cache = EncoderDecoderCache(
            DynamicCache(list(zip(past[::2], past[1::2], strict=True))),
            DynamicCache(list(zip(cross[::2], cross[1::2], strict=True))),
        )
        # only its length is looked at, since every layer's keys and values are there
        hidden = encoder_attention_mask[..., None].to(self.float_type)
        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            attention_mask=encoder_attention_mask,
            decoder_input_ids=input_ids,
            past_key_values=cache,
            use_cache=True,
        )
        layers = output.past_key_values.self_attention_cache.layers
        return (output.logits, *(item for layer in layers for item in (layer.keys, layer.values)))


def probe_seq2seq_kv(model: Any) -> KVGeometry:
    """Find the geometry of the decoder's cache by running the model on two tokens.

    Raises:
        ExportError: the layers are not alike.
    """
    ids = torch.zeros((1, 2), dtype=torch.long)
    with torch.no_grad():
        cache = model(input_ids=ids, decoder_input_ids=ids, use_cache=True).past_key_values
    layers = [*cache.self_attention_cache.layers, *cache.cross_attention_cache.layers]
    shapes = {tuple(item.shape) for layer in layers for item in (layer.keys, layer.values)}
    if len(shapes) != 1:
        raise ExportError(
            f"{type(model).__name__}'s decoder has caches of different shapes ({sorted(shapes)}); this "
            "version exports models whose layers are alike."
        )
    _, num_kv_heads, _, head_dim = shapes.pop()
    return KVGeometry(
        len(cache.self_attention_cache.layers), num_kv_heads, head_dim, shared_buffer=False
    )


def export_seq2seq(model: Any, family: Seq2SeqFamily, kv: KVGeometry) -> tuple[ir.Model, ir.Model]:
    """Export an encoder-decoder.

    Args:
        model: a frozen transformers model; its float type becomes the graphs'.
        family: that it is of.
        kv: its decoder's cache's geometry.

    Returns:
        The encoder's model, from input_ids, attention_mask and prompt_embeds to present.*.encoder.*, and
        the decoder's, from input_ids, encoder_attention_mask, past_key_values.*.decoder.* and
        past_key_values.*.encoder.* to logits and present.*.decoder.*; weights in memory. What both use
        (the embedding, where it is tied) is in both.

    Raises:
        ExportError: torch cannot trace the model, or fixed a dimension that must be free.
    """
    name = type(model).__name__
    ids = torch.zeros((2, 4), dtype=torch.long)
    cross: Dims = ("batch_size", kv.num_kv_heads, "encoder_sequence_length", kv.head_dim)
    encoder = trace(
        PromptedEncoder(model, family, kv).eval(),
        [
            GraphInput("input_ids", _SOURCE, ids),
            GraphInput("attention_mask", _SOURCE, torch.ones_like(ids)),
            prompt_input(model),
        ],
        dict.fromkeys(kv.names("present", "encoder"), cross),
        name=name,
    )
    total: Dims = ("batch_size", kv.num_kv_heads, "total_sequence_length", kv.head_dim)
    decoder = trace(
        CrossDecoder(model).eval(),
        [
            GraphInput(
                "input_ids", ("batch_size", "sequence_length"), torch.zeros_like(ids[:, 1:])
            ),
            GraphInput("encoder_attention_mask", _SOURCE, torch.ones_like(ids)),
            _cache(model, kv, "decoder", 5, "past_sequence_length"),
            _cache(model, kv, "encoder", ids.shape[1], "encoder_sequence_length"),
        ],
        {
            "logits": ("batch_size", "sequence_length", ""),
            **dict.fromkeys(kv.names("present", "decoder"), total),
        },
        name=name,
    )
    return encoder, decoder


def _cache(model: Any, kv: KVGeometry, attention: str, length: int, dim: str) -> list[GraphInput]:
    dtype = model.get_input_embeddings().weight.dtype
    example = torch.zeros(2, kv.num_kv_heads, length, kv.head_dim, dtype=dtype)
    dims: Dims = ("batch_size", kv.num_kv_heads, dim, kv.head_dim)
    return [
        GraphInput(name, dims, example.clone()) for name in kv.names("past_key_values", attention)
    ]
