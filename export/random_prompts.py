"""Prompts of random tensors, under which a bundle is compared with PyTorch."""

from typing import Any

import numpy as np
import numpy.typing as npt

from edgept.runtime.model import Model

__all__ = ["random_prefix", "random_rows"]

Tensors = dict[str, npt.NDArray[np.float32]]


def random_rows(reference: Any, model: Model, count: int, random: np.random.Generator) -> Tensors:
    """prompt_embeds (num_virtual_tokens, hidden), spread as the model's own embeddings.

    Args:
        reference: the frozen PyTorch model.
        model: the bundle.
        count: of virtual tokens; fewer where the longest sequence leaves no room for them.
        random: draws them.
    """
    spread = float(reference.get_input_embeddings().weight.detach().float().std())
    rows = random.normal(size=(min(count, _most(model)), model.manifest.hidden_size)) * spread
    return {"prompt_embeds": rows.astype(np.float32)}


def random_prefix(model: Model, count: int, random: np.random.Generator) -> Tensors:
    """prompt_kv (layers, 2, kv_heads, num_virtual_tokens, head_dim) of a model with a cache."""
    kv = model.manifest.kv
    if kv is None:
        raise AssertionError("an encoder has no keys and values to start from")
    shape = (kv.num_layers, 2, kv.num_kv_heads, min(count, _most(model)), kv.head_dim)
    return {"prompt_kv": random.normal(size=shape).astype(np.float32)}


def _most(model: Model) -> int:
    return min(model.manifest.max_virtual_tokens, max(1, model.max_length // 3))
