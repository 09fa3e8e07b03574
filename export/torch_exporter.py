"""Decoder-only models through torch.onnx: any that transformers runs with a DynamicCache.

The prompt's rows go in where peft puts them, at `inputs_embeds`; past and present are separate
tensors.
"""

import inspect
from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from transformers import DynamicCache

from edgept.errors import ExportError
from edgept.export.families import ENCODERS
from edgept.export.tracing import Dims, GraphInput, trace
from edgept.manifest import KVGeometry

__all__ = [
    "PromptedDecoder",
    "decode",
    "decoder_inputs",
    "export_decoder",
    "present_dims",
    "probe_kv",
    "prompt_input",
    "refuse_length_dependence",
    "virtual_embeds",
]


def probe_kv(model: Any, *, shared_buffer: bool) -> KVGeometry:
    """Find the key/value cache's geometry by running the model on two tokens.

    Raises:
        ExportError: the model has no cache, or not one plain key and value tensor of equal shape a
            layer.
    """
    with torch.no_grad():
        output = model(torch.zeros((1, 2), dtype=torch.long), use_cache=True)
    cache = getattr(output, "past_key_values", None)
    if cache is None:
        raise ExportError(
            f"{type(model).__name__} keeps no keys and values, so it is no decoder-only model; the "
            f"encoders that this version exports are {', '.join(ENCODERS)}."
        )
    shapes = set()
    for layer in getattr(cache, "layers", [None]):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None or keys.shape != values.shape:
            raise ExportError(
                f"{type(model).__name__} keeps another state than keys and values of equal shape in "
                "every layer; this version exports plain attention decoders."
            )
        shapes.add(tuple(keys.shape))
    if len(shapes) != 1:
        raise ExportError(
            f"{type(model).__name__}'s layers have caches of different shapes ({sorted(shapes)}); this "
            "version exports models whose layers are alike."
        )
    _, num_kv_heads, _, head_dim = shapes.pop()
    return KVGeometry(
        len(cache.layers),
        num_kv_heads,
        head_dim,
        shared_buffer,
        depends_on_length=_rope_types(model.config) & {"dynamic", "longrope"} != set(),
    )


def _rope_types(config: Any) -> set[str]:
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope, *(item for item in rope.values() if isinstance(item, dict))]
    return {str(item["rope_type"]) for item in kinds if "rope_type" in item}


def virtual_embeds(
    embedding: nn.Module, input_ids: torch.Tensor, prompt_embeds: torch.Tensor
) -> torch.Tensor:
    """Rows of the embedding for ids in its vocabulary, rows of the prompt for those behind it.

    Args:
        embedding: the model's input embedding.
        input_ids: (batch, sequence) int64.
        prompt_embeds: (num_virtual_tokens, hidden).

    Returns:
        (batch, sequence, hidden)
    """
    vocab_size = int(embedding.num_embeddings)  # type: ignore[arg-type]  # an Embedding has an int
    is_virtual = input_ids >= vocab_size
    tokens = embedding(torch.where(is_virtual, 0, input_ids))
    offsets = torch.clamp(input_ids - vocab_size, min=0)
    rows = nn.functional.embedding(offsets, prompt_embeds)
    return torch.where(is_virtual.unsqueeze(-1), rows, tokens)


def decode(
    model: Any,
    embeds: torch.Tensor,
    attention_mask: torch.Tensor,
    past: list[torch.Tensor],
    *,
    takes_positions: bool,
) -> tuple[Any, list[torch.Tensor]]:
    """Run a decoder-only model behind a cache.

    Args:
        model: with a head or without.
        embeds: (batch, sequence, hidden).
        attention_mask: (batch, past + sequence) int64; zeros are skipped in counting positions.
        past: key and value of each layer in turn, (batch, kv_heads, past, head_dim).
        takes_positions: whether its forward has position_ids.

    Returns:
        The model's output, and key and value of each layer in turn,
        (batch, kv_heads, past + sequence, head_dim).
    """
    cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
    positions = {}
    if takes_positions:
        counted = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        positions["position_ids"] = counted[:, -embeds.shape[1] :]
    output = model(
        inputs_embeds=embeds,
        attention_mask=attention_mask,
        past_key_values=cache,
        use_cache=True,
        **positions,
    )
    present = [
        item for layer in output.past_key_values.layers for item in (layer.keys, layer.values)
    ]
    return output, present


class PromptedDecoder(nn.Module):
    """A causal language model whose ids from the vocabulary's end on are rows of a prompt."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.embedding = model.get_input_embeddings()
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        past: list[torch.Tensor],
        prompt_embeds: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Logits (batch, sequence, vocabulary), then the cache after these tokens; as `decode`."""
        embeds = virtual_embeds(self.embedding, input_ids, prompt_embeds)
        output, present = decode(
            self.model, embeds, attention_mask, past, takes_positions=self.takes_positions
        )
        return (output.logits, *present)


def refuse_length_dependence(model: Any, kv: KVGeometry) -> None:
    """Refuse a model whose positions depend on the whole sequence's length.

    Raises:
        ExportError: they do.
    """
    if kv.depends_on_length:
        raise ExportError(
            f"{type(model).__name__} rotates by the length of the sequence ({_rope_types(model.config)}), "
            "which torch.onnx fixes to that of its example. This version exports such models only where "
            "onnxruntime-genai's builder does."
        )


def export_decoder(model: Any, kv: KVGeometry) -> ir.Model:
    """Export a decoder with its key/value cache as inputs and outputs.

    Args:
        model: a frozen transformers causal language model; its float type becomes the graph's.
        kv: its cache's geometry.

    Returns:
        A model with inputs input_ids, attention_mask, past_key_values.*, prompt_embeds and outputs
        logits, present.*; weights in memory.

    Raises:
        ExportError: torch cannot trace the model, or fixed a dimension that must be free.
    """
    refuse_length_dependence(model, kv)
    return trace(
        PromptedDecoder(model).eval(),
        [*decoder_inputs(model, kv), prompt_input(model)],
        {"logits": ("batch_size", "sequence_length", ""), **present_dims(kv)},
        name=type(model).__name__,
    )


def decoder_inputs(model: Any, kv: KVGeometry) -> list[GraphInput | list[GraphInput]]:
    """input_ids, attention_mask and past_key_values.* of a decoder-only graph."""
    dtype = model.get_input_embeddings().weight.dtype
    batch, sequence, past = 2, 3, 5
    cache: Dims = ("batch_size", kv.num_kv_heads, "past_sequence_length", kv.head_dim)
    return [
        GraphInput(
            "input_ids",
            ("batch_size", "sequence_length"),
            torch.zeros((batch, sequence), dtype=torch.long),
        ),
        GraphInput(
            "attention_mask",
            ("batch_size", "total_sequence_length"),
            torch.ones((batch, past + sequence), dtype=torch.long),
        ),
        [
            GraphInput(
                name, cache, torch.zeros(batch, kv.num_kv_heads, past, kv.head_dim, dtype=dtype)
            )
            for name in kv.names("past_key_values")
        ],
    ]


def present_dims(kv: KVGeometry) -> dict[str, Dims]:
    """Names and shapes of the present.* outputs."""
    dims: Dims = ("batch_size", kv.num_kv_heads, "total_sequence_length", kv.head_dim)
    return dict.fromkeys(kv.names("present"), dims)


def prompt_input(model: Any) -> GraphInput:
    """prompt_embeds (num_virtual_tokens, hidden)."""
    embedding = model.get_input_embeddings()
    example = torch.zeros((4, embedding.embedding_dim), dtype=embedding.weight.dtype)
    return GraphInput("prompt_embeds", ("num_virtual_tokens", embedding.embedding_dim), example)
