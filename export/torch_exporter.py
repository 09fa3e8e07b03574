"""Decoder-only models through torch.onnx: any that transformers runs with a DynamicCache.

The prompt's rows go in where peft puts them, at `inputs_embeds`; past and present are separate
tensors. Dimensions are left to the exporter (Dim.AUTO) and attention is scaled-dot-product: with
named dimensions and eager attention a 12-layer GPT-Neo took 460 s, so it takes 30.
"""

import inspect
from typing import Any, cast

import onnx_ir as ir
import torch
from torch import nn
from transformers import DynamicCache

from edgept.bundle import KVGeometry
from edgept.errors import ExportError

__all__ = ["PromptedDecoder", "export_decoder", "probe_kv"]

_OPSET = 20


def probe_kv(model: Any, *, shared_buffer: bool) -> KVGeometry:
    """Find the key/value cache's geometry by running the model on two tokens.

    Raises:
        ExportError: the model's cache is not one plain key and value tensor of equal shape a layer.
    """
    with torch.no_grad():
        cache = model(torch.zeros((1, 2), dtype=torch.long), use_cache=True).past_key_values
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


class PromptedDecoder(nn.Module):
    """A causal language model whose ids from the vocabulary's end on are rows of a prompt."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.embedding = model.get_input_embeddings()
        self.vocab_size = self.embedding.num_embeddings
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        past: list[torch.Tensor],
        prompt_embeds: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Logits and the cache after these tokens.

        Args:
            input_ids: (batch, sequence) int64.
            attention_mask: (batch, past + sequence) int64; zeros are skipped in counting positions.
            past: key and value of each layer in turn, (batch, kv_heads, past, head_dim).
            prompt_embeds: (num_virtual_tokens, hidden).

        Returns:
            Logits (batch, sequence, vocabulary), then key and value of each layer in turn,
            (batch, kv_heads, past + sequence, head_dim).
        """
        is_virtual = input_ids >= self.vocab_size
        tokens = self.embedding(torch.where(is_virtual, 0, input_ids))
        offsets = torch.clamp(input_ids - self.vocab_size, min=0)
        rows = nn.functional.embedding(offsets, prompt_embeds)
        embeds = torch.where(is_virtual.unsqueeze(-1), rows, tokens)  # (batch, sequence, hidden)
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        positions = {}
        if self.takes_positions:
            counted = (attention_mask.cumsum(-1) - 1).clamp(min=0)
            positions["position_ids"] = counted[:, -input_ids.shape[1] :]
        output = self.model(
            inputs_embeds=embeds,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
            **positions,
        )
        present = [
            item for layer in output.past_key_values.layers for item in (layer.keys, layer.values)
        ]
        return (output.logits, *present)


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
    if kv.depends_on_length:
        raise ExportError(
            f"{type(model).__name__} rotates by the length of the sequence ({_rope_types(model.config)}), "
            "which torch.onnx fixes to that of its example. This version exports such models only where "
            "onnxruntime-genai's builder does."
        )
    decoder = PromptedDecoder(model).eval()
    dtype = decoder.embedding.weight.dtype
    batch, sequence, past = 2, 3, 5
    past_tensors = [
        torch.zeros(batch, kv.num_kv_heads, past, kv.head_dim, dtype=dtype)
        for _ in range(2 * kv.num_layers)
    ]
    example = (
        torch.zeros((batch, sequence), dtype=torch.long),
        torch.ones((batch, past + sequence), dtype=torch.long),
        past_tensors,
        torch.zeros((4, decoder.embedding.embedding_dim), dtype=dtype),
    )
    free = torch.export.Dim.AUTO
    free_cache = {0: free, 2: free}
    try:
        traced = torch.export.export(
            decoder,
            example,
            dynamic_shapes=(
                {0: free, 1: free},
                {0: free, 1: free},
                [free_cache] * len(past_tensors),
                {0: free},
            ),
            strict=False,
        )
        program = torch.onnx.export(
            traced,
            (),
            dynamo=True,
            opset_version=_OPSET,
            verbose=False,
            input_names=[
                "input_ids",
                "attention_mask",
                *kv.names("past_key_values"),
                "prompt_embeds",
            ],
            output_names=["logits", *kv.names("present")],
        )
    except Exception as error:  # torch raises many kinds here, none of them documented
        raise ExportError(
            f"torch could not export {type(model).__name__}: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        ) from error
    if program is None:
        raise ExportError(f"torch.onnx gave no program for {type(model).__name__}.")
    _name_dimensions(program.model, kv)
    return program.model


def _name_dimensions(model: ir.Model, kv: KVGeometry) -> None:
    """Replace torch's symbols (s43, s70) by names, after checking that each is still free."""
    shapes: dict[str, list[str | int]] = {
        "input_ids": ["batch_size", "sequence_length"],
        "attention_mask": ["batch_size", "total_sequence_length"],
    }
    cache: list[str | int] = ["batch_size", kv.num_kv_heads]
    for name in kv.names("past_key_values"):
        shapes[name] = [*cache, "past_sequence_length", kv.head_dim]
    for name in kv.names("present"):
        shapes[name] = [*cache, "total_sequence_length", kv.head_dim]
    shapes["logits"] = ["batch_size", "sequence_length", ""]
    for value in (*model.graph.inputs, *model.graph.outputs):
        wanted = shapes.get(value.name or "")
        if wanted is None or value.shape is None:
            continue
        dims: list[int | str] = []
        for axis, (label, dim) in enumerate(zip(wanted, value.shape, strict=True)):
            if isinstance(label, str) and label and isinstance(dim, int):
                raise ExportError(
                    f"torch fixed dimension {axis} of {value.name} to {dim}; it must be free "
                    f"({label}). This model needs support of its own: please report its config.json."
                )
            dims.append(label or int(cast(int, dim)))
        value.shape = ir.Shape(dims)
