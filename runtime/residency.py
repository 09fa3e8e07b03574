"""From a prompt as read to one that is resident: its tensors in the graph's type, computed once."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgept.manifest import Manifest
from edgept.prompt import Prompt
from edgept.runtime.content import Head

__all__ = ["make_head", "rows_and_keys", "share_tensors"]

# The layer in front of the last one, in heads that have one (RoBERTa's), and that of a detector's boxes.
_BESIDE = ("head.dense.weight", "head.dense.bias", "box.weight", "box.bias")


def rows_and_keys(
    prompt: Prompt,
    manifest: Manifest,
    keys_and_values: Callable[[npt.NDArray[Any]], npt.NDArray[Any] | None],
    *,
    owned: bool,
) -> tuple[npt.NDArray[Any] | None, npt.NDArray[Any] | None]:
    """A prompt's rows and its keys and values, as in `LoadedPrompt`.

    Args:
        prompt: that fits the bundle.
        manifest: of the bundle.
        keys_and_values: computes them from rows; not called where they depend on the text's length.
        owned: nobody else can write to the prompt's tensors, so they need not be copied.
    """
    rows, kv = None, None
    if "prompt_embeds" in prompt.tensors:
        rows = _frozen(prompt.tensors["prompt_embeds"], manifest.float_type, owned)
        if manifest.kv is not None and not manifest.kv.depends_on_length:
            kv = keys_and_values(rows)
    elif "prompt_kv" in prompt.tensors:
        stored = prompt.tensors["prompt_kv"]  # (layers, 2, kv_heads, virtual tokens, head_dim)
        kv = _frozen(stored.reshape(-1, *stored.shape[2:]), manifest.float_type, owned)
    if kv is not None:
        kv.flags.writeable = False
    return rows, kv


def make_head(prompt: Prompt, manifest: Manifest, *, owned: bool) -> Head | None:
    """A prompt's head as the graph takes it; None where the prompt has none."""
    weight, bias = prompt.tensors.get("head.weight"), prompt.tensors.get("head.bias")
    if weight is None:
        return None
    if bias is None:
        bias = np.zeros(len(weight), np.float32)
    tensors = {"head.weight": weight, "head.bias": bias}
    tensors |= {name: prompt.tensors[name] for name in _BESIDE if name in prompt.tensors}
    frozen = {name: _frozen(array, manifest.float_type, owned) for name, array in tensors.items()}
    digest = hashlib.blake2b(digest_size=16)
    for name, array in frozen.items():
        digest.update(f"{name} {array.shape} ".encode() + array.tobytes())
    return Head(frozen, prompt.class_names, digest.digest())


def share_tensors(
    prompt: Prompt,
    rows: npt.NDArray[Any] | None,
    kv: npt.NDArray[Any] | None,
    head: Head | None,
) -> Prompt:
    """The prompt with the resident's own arrays for tensors, so that nothing is kept twice."""
    tensors = dict(prompt.tensors)
    if rows is not None:
        tensors["prompt_embeds"] = rows
    elif kv is not None:
        tensors["prompt_kv"] = kv.reshape(tensors["prompt_kv"].shape)
    if head is not None:
        tensors |= {name: array for name, array in head.tensors.items() if name in tensors}
    return replace(prompt, tensors=tensors)


def _frozen(array: npt.NDArray[np.float32], float_type: str, owned: bool) -> npt.NDArray[Any]:
    """An array that nobody can write to: threads share it."""
    frozen = np.require(array if owned else array.copy(), float_type, ["C", "ALIGNED"])
    frozen.flags.writeable = False
    return frozen
