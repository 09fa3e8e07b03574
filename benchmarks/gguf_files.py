"""The same weights as llama.cpp reads them: GGUF in float16, Q4_0 and Q8_0, and LoRA adapters."""

import ctypes
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.files import Files

__all__ = ["KINDS", "make_gguf", "make_loras"]

# llama.h's enum llama_ftype
KINDS = {"Q4_0": 2, "Q8_0": 7}
_F16 = 1
_LORA_RANK = 8
_LORA_ALPHA = 16.0
_LAYER = {
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_v.bias": "self_attn.v_proj.bias",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}


def make_gguf(files: Files) -> None:
    """Write the model in float16 and let llama.cpp quantise it."""
    llama: Any = import_module("llama_cpp")
    source = files.gguf("F16")
    if not source.is_file():
        _write_model(files.model, source)
    for kind, number in KINDS.items():
        if not files.gguf(kind).is_file():
            parameters = llama.llama_model_quantize_default_params()
            parameters.ftype = number
            paths = str(source).encode(), str(files.gguf(kind)).encode()
            if llama.llama_model_quantize(*paths, ctypes.byref(parameters)) != 0:
                raise RuntimeError(f"llama.cpp could not quantise {source} to {kind}")


def make_loras(files: Files) -> None:
    """Write a random LoRA adapter of rank 8 on queries and values for each task."""
    gguf: Any = import_module("gguf")
    config = _read_config(files.model)
    hidden, kv = config["hidden_size"], _head_size(config) * config["num_key_value_heads"]
    for number, path in enumerate(files.loras):
        if path.is_file():
            continue
        random = np.random.default_rng(number)
        writer = gguf.GGUFWriter(str(path), config["model_type"])
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", _LORA_ALPHA)
        for layer in range(config["num_hidden_layers"]):
            for name, size in (("attn_q", hidden), ("attn_v", kv)):
                for end, shape in (("a", (_LORA_RANK, hidden)), ("b", (size, _LORA_RANK))):
                    values = random.normal(0, 0.02, shape).astype(np.float32)
                    writer.add_tensor(f"blk.{layer}.{name}.weight.lora_{end}", values)
        _write(writer)


def _write_model(model: Path, path: Path) -> None:
    from safetensors.numpy import load_file

    gguf: Any = import_module("gguf")
    config, weights = _read_config(model), load_file(model / "model.safetensors")
    family, heads = config["model_type"], config["num_attention_heads"]
    writer = gguf.GGUFWriter(str(path), family)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(_F16)
    # requests are token ids, so any vocabulary of the right size; OpenVINO wants a sound one
    tokens, kinds = _vocabulary(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm" if family == "llama" else "qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])

    def add(name: str, source: str, rotated_heads: int = 0) -> None:
        values = weights[source]
        if rotated_heads:
            values = _interleave(values, rotated_heads)
        is_matrix = values.ndim == 2
        writer.add_tensor(name, values.astype(np.float16 if is_matrix else np.float32))

    add("token_embd.weight", "model.embed_tokens.weight")
    add("output_norm.weight", "model.norm.weight")
    for layer in range(config["num_hidden_layers"]):
        for name, source in _LAYER.items():
            full = f"model.layers.{layer}.{source}"
            # llama.cpp rotates neighbours in Llama's heads, and halves as transformers does elsewhere
            rotated = {"attn_q.weight": heads, "attn_k.weight": config["num_key_value_heads"]}
            if full in weights:
                add(f"blk.{layer}.{name}", full, rotated.get(name, 0) if family == "llama" else 0)
    _write(writer)


def _vocabulary(size: int) -> tuple[list[str], list[int]]:
    """Three special tokens, a byte-level alphabet, one merged pair, and names to fill the rest."""
    from tokenizers.pre_tokenizers import ByteLevel

    special = ["<unk>", "<s>", "</s>"]
    known = [*special, *sorted(ByteLevel.alphabet()), "ab"]
    tokens = [*known, *(f"token{number}" for number in range(size - len(known)))]
    normal, control = 1, 3  # gguf's token types
    return tokens, [control] * len(special) + [normal] * (size - len(special))


def _write(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleave(weight: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """(heads · size, hidden): each head's two halves, row by row in turn."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])  # (heads, halves, size / 2, hidden)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def _read_config(model: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return config


def _head_size(config: dict[str, Any]) -> int:
    size: int = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return size
