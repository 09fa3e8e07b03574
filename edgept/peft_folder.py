"""Read peft's adapter folders, for the methods that learn a prompt.

Layouts as peft 0.21 writes them: adapter_config.json beside adapter_model.safetensors (older:
adapter_model.bin). Files inside a folder may be links, because the Hub's cache is made of links;
what they point to is judged like any other file. https://github.com/huggingface/peft
"""

# ruff: noqa: PTH110, PTH113  # unlike Path's, these answer False for a path that cannot be examined

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgept.errors import IncompatibleError, InvalidFileError, UsageError
from edgept.formats.regular_file import open_regular
from edgept.formats.safetensors_strict import read_header, read_tensors
from edgept.formats.torch_checkpoint import read_torch_checkpoint
from edgept.peft_tensors import (
    CONFIG_NAME,
    PEFT_KEYS,
    TASKS,
    WEIGHT_NAMES,
    Tensors,
    combine_multitask,
    decoder_layers,
    list_names,
    read_head,
    rows_to_kv,
)
from edgept.prompt import Prompt
from edgept.prompt_file import MAX_BYTES

__all__ = ["read_peft_folder"]

_MAX_CONFIG_BYTES = 1 << 20
_ROW_METHODS = {"PROMPT_TUNING", "P_TUNING", "CPT", "MULTITASK_PROMPT_TUNING"}
_KV_METHODS = {"PREFIX_TUNING", "CARTRIDGE"}


def read_peft_folder(
    path: str | os.PathLike[str], *, task_index: int | None = None, max_bytes: int = MAX_BYTES
) -> Prompt:
    """Read an adapter folder as the prompt that peft would compute from it.

    Args:
        path: the folder.
        task_index: which task of a multitask prompt; needed where it was trained for several.
        max_bytes: the largest weight file to accept.

    Returns:
        The prompt, named after the folder, without a fingerprint: peft records none.

    Raises:
        UsageError: a file is missing, or `task_index` does not suit the method.
        InvalidFileError: a file is damaged, or its sizes contradict its configuration.
        IncompatibleError: the adapter is of a method or a kind that edgept does not run.
    """
    folder = Path(path)
    config = _read_config(folder)
    method = str(config.get("peft_type"))
    if method not in _ROW_METHODS | _KV_METHODS:
        raise IncompatibleError(
            f"{folder} is a {method[:40]} adapter, which changes the model's weights. edgept runs "
            f"methods that learn a prompt: {', '.join(sorted(_ROW_METHODS | _KV_METHODS))}. Merge "
            "the adapter into the model and export that, or train a prompt."
        )
    if task_index is not None and method != "MULTITASK_PROMPT_TUNING":
        raise UsageError(
            f"a task index is for MULTITASK_PROMPT_TUNING, {folder} is {method}. Leave it out."
        )
    tensors = _read_weights(folder, max_bytes)
    if method == "MULTITASK_PROMPT_TUNING":
        rows = combine_multitask(tensors, task_index)
    elif "prompt_embeddings" in tensors:
        rows = tensors["prompt_embeddings"]  # (P or 2P, width)
    else:
        raise InvalidFileError(
            "peft-keys",
            f"{folder} holds {list_names(tensors)}, but no prompt_embeddings. Save it again with "
            "model.save_pretrained of peft 0.4 or later.",
        )
    beside = {key: tensor for key, tensor in tensors.items() if key not in PEFT_KEYS}
    prompt_tensors = {**_prompt_tensor(rows, config, method, folder), **read_head(beside, folder)}
    return Prompt(
        tensors=prompt_tensors,
        name=folder.resolve().name,
        method=method.lower(),
        task=TASKS.get(str(config.get("task_type") or "CAUSAL_LM"), "unknown"),
        base_model=_printable(str(config.get("base_model_name_or_path") or "")),
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_NAME
    if not os.path.isfile(path):
        raise UsageError(
            f"{folder} holds no {CONFIG_NAME}, so it is no peft adapter. Name the folder that "
            "model.save_pretrained wrote, or the weight file itself."
        )
    with open_regular(path, max_bytes=_MAX_CONFIG_BYTES, follow_links=True) as (stream, size):
        raw = stream.read(size)
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidFileError(
            "peft-config", f"{path} is not JSON: {error}. Copy or save the adapter again."
        ) from error
    if not isinstance(config, dict):
        raise InvalidFileError(
            "peft-config", f"{path} is no JSON object. Copy or save the adapter again."
        )
    return config


def _read_weights(folder: Path, max_bytes: int) -> Tensors:
    safetensors, torch_file = (folder / name for name in WEIGHT_NAMES)
    if os.path.exists(safetensors):
        with open_regular(safetensors, min_bytes=16, max_bytes=max_bytes, follow_links=True) as (
            stream,
            size,
        ):
            return read_tensors(stream, read_header(stream, size))
    if os.path.exists(torch_file):
        return read_torch_checkpoint(torch_file, max_bytes=max_bytes, follow_links=True)
    raise UsageError(
        f"{folder} holds neither {WEIGHT_NAMES[0]} nor {WEIGHT_NAMES[1]}. Copy the whole adapter folder."
    )


def _prompt_tensor(
    rows: npt.NDArray[np.float32], config: Mapping[str, Any], method: str, folder: Path
) -> dict[str, npt.NDArray[np.float32]]:
    num_virtual_tokens = _size(config, "num_virtual_tokens", folder)
    submodules = config.get("num_transformer_submodules") or 1
    is_seq2seq = config.get("task_type") == "SEQ_2_SEQ_LM"
    if method == "CPT" and is_seq2seq:
        raise IncompatibleError(
            f"{folder} is a CPT adapter for an encoder-decoder, which peft itself does not run. Use "
            "prompt tuning for that model."
        )
    if method in _KV_METHODS:
        if submodules != (2 if is_seq2seq else 1):
            raise IncompatibleError(
                f"{folder} is a prefix for {config.get('task_type')} with num_transformer_submodules "
                f"{submodules}: peft's own model does not run it, since a decoder's cache then has no "
                "place of its own for the encoder. Train it with peft's default."
            )
        num_layers = _size(config, "num_layers", folder)
        num_kv_heads = _size(config, "num_attention_heads", folder)  # peft saves the KV heads here
        head_dim = _size(config, "token_dim", folder) // num_kv_heads
        expected = (num_virtual_tokens, num_layers * 2 * num_kv_heads * head_dim)
        if rows.shape != expected:
            raise _bad_shape(rows.shape, expected, folder)
        cache = rows_to_kv(rows, num_layers, num_kv_heads, head_dim)
        return {"prompt_kv": decoder_layers(cache) if is_seq2seq else cache}
    width = config.get("token_dim") or rows.shape[-1]
    # An encoder-decoder's prompt has 2P rows, of which peft puts the first P before the encoder.
    expected = (num_virtual_tokens * (2 if submodules == 2 else 1), width)
    if rows.shape != expected:
        raise _bad_shape(rows.shape, expected, folder)
    return {"prompt_embeds": rows[:num_virtual_tokens]}


def _size(config: Mapping[str, Any], key: str, folder: Path) -> int:
    value = config.get(key)
    if type(value) is not int or not 0 < value < 1 << 31:
        raise InvalidFileError(
            "peft-config",
            f"{folder / CONFIG_NAME}: {key} is {str(value)[:40]!r}, a positive integer is expected. "
            "Save the adapter again with peft.",
        )
    return value


def _bad_shape(found: tuple[int, ...], expected: tuple[int, ...], folder: Path) -> InvalidFileError:
    return InvalidFileError(
        "peft-shape",
        f"{folder}: prompt_embeddings has shape {found}, its {CONFIG_NAME} says {expected}. The two "
        "files are not of one adapter: copy both again.",
    )


def _printable(text: str) -> str:
    # It ends up in a terminal: no escape sequences, no line breaks.
    return "".join(letter for letter in text if letter.isprintable())
