"""genai_config.json for graphs from torch.onnx, so that stock onnxruntime-genai programs run them.

The builder writes its own for the models that it knows. The keys are onnxruntime-genai's.
"""

import json
from pathlib import Path

from edgept.manifest import Manifest

__all__ = ["write_genai_config"]


def write_genai_config(folder: Path, manifest: Manifest, num_attention_heads: int) -> None:
    """Describe a decoder whose past and present are separate tensors.

    Args:
        folder: of the bundle.
        manifest: with its cache's geometry.
        num_attention_heads: query heads of a layer.
    """
    kv = manifest.kv
    if kv is None:
        raise AssertionError("decoder-only bundles have a cache")
    eos = manifest.eos_token_ids
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": "model.onnx",
        "head_size": kv.head_dim,
        "hidden_size": manifest.hidden_size,
        "num_attention_heads": num_attention_heads,
        "num_hidden_layers": kv.num_layers,
        "num_key_value_heads": kv.num_kv_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    config = {
        "model": {
            "type": "decoder",
            "bos_token_id": manifest.bos_token_id or 0,
            "eos_token_id": eos or 0,
            "pad_token_id": eos[0] if eos else 0,
            "context_length": manifest.max_positions,
            "vocab_size": manifest.vocab_size,
            "decoder": decoder,
        },
        "search": {
            "do_sample": False,
            "max_length": manifest.max_positions,
            "past_present_share_buffer": False,
        },
    }
    text = json.dumps(config, indent=4) + "\n"
    (folder / "genai_config.json").write_text(text, encoding="utf-8")
