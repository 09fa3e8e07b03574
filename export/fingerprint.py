"""What identifies a frozen model: not its name or file layout, but what it computes with."""

import hashlib
import json
from typing import Any

import torch

__all__ = ["fingerprint"]

# What decides a computation besides the weights, under transformers' standard names.
_CONFIG_FIELDS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "sliding_window",
)


def fingerprint(model: Any) -> str:
    """SHA-256 over a frozen model's configuration and float weights.

    It is the same for a checkpoint saved in float32, or in bfloat16 or float16 and loaded from
    there, for sharded and single files, and whatever an export quantises to. Weights count by
    shape and value and not by name, since transformers renames them between versions; a tensor
    that is tied counts once.

    Args:
        model: a transformers model with its weights as loaded.

    Returns:
        64 hex digits.
    """
    config = model.config.get_text_config()
    identity = {name: getattr(config, name, None) for name in _CONFIG_FIELDS}
    rope = getattr(config, "rope_parameters", None) or {}
    identity["rope"] = {key: rope[key] for key in sorted(rope)}
    digest = hashlib.sha256(
        json.dumps(identity, sort_keys=True, separators=(",", ":"), default=str).encode()
    )
    for weight in sorted(_weight_digests(model)):
        digest.update(weight)
    return digest.hexdigest()


def _weight_digests(model: Any) -> list[bytes]:
    seen: set[int] = set()
    digests = []
    for parameter in model.parameters():
        if parameter.data_ptr() in seen:
            continue
        seen.add(parameter.data_ptr())
        values = parameter.detach().to(torch.float32).contiguous().numpy()
        digest = hashlib.sha256(repr(tuple(values.shape)).encode())
        digest.update(values.data)
        digests.append(digest.digest())
    return digests
