"""Read and write peft's adapter folders, for the methods that learn a prompt.

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

from edgept.atomic import atomic_folder
from edgept.bundle import SEQ2SEQ_TASK, Manifest
from edgept.errors import IncompatibleError, InvalidFileError, UsageError
from edgept.formats.regular_file import open_regular
from edgept.formats.safetensors_strict import read_header, read_tensors
from edgept.formats.torch_checkpoint import read_torch_checkpoint
from edgept.prompt import Prompt
from edgept.prompt_file import MAX_BYTES

__all__ = [
    "CONFIG_NAME",
    "PEFT_KEYS",
    "WEIGHT_NAMES",
    "combine_multitask",
    "decoder_layers",
    "read_head",
    "read_peft_folder",
    "rows_to_kv",
    "saved_layers",
    "write_peft_folder",
]

CONFIG_NAME = "adapter_config.json"
WEIGHT_NAMES = ("adapter_model.safetensors", "adapter_model.bin")

Tensors = Mapping[str, npt.NDArray[np.float32]]

_MAX_CONFIG_BYTES = 1 << 20
_ROW_METHODS = {"PROMPT_TUNING", "P_TUNING", "CPT", "MULTITASK_PROMPT_TUNING"}
_KV_METHODS = {"PREFIX_TUNING", "CARTRIDGE"}
_TASKS = {
    "CAUSAL_LM": "text-generation",
    "SEQ_2_SEQ_LM": SEQ2SEQ_TASK,
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "FEATURE_EXTRACTION": "feature-extraction",
}
_TASKS_WITH_HEAD = {"text-classification", "token-classification", "question-answering"}
PEFT_KEYS = {"prompt_embeddings", "prefix_task_cols", "prefix_task_rows"}
# Last layers that peft saves whole, by its task types; a layer in front of one, where there are two.
_CLASSIFIER_HEADS = ("classifier", "score")
_HEADS = (*_CLASSIFIER_HEADS, "qa_outputs")
_TWO_LAYERS = (("classifier.dense", "classifier.out_proj"), ("pre_classifier", "classifier"))


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
            f"{folder} holds {_names(tensors)}, but no prompt_embeddings. Save it again with "
            "model.save_pretrained of peft 0.4 or later.",
        )
    beside = {key: tensor for key, tensor in tensors.items() if key not in PEFT_KEYS}
    prompt_tensors = {**_prompt_tensor(rows, config, method, folder), **read_head(beside, folder)}
    return Prompt(
        tensors=prompt_tensors,
        name=folder.resolve().name,
        method=method.lower(),
        task=_TASKS.get(str(config.get("task_type") or "CAUSAL_LM"), "unknown"),
        base_model=_printable(str(config.get("base_model_name_or_path") or "")),
    )


def combine_multitask(tensors: Tensors, task_index: int | None) -> npt.NDArray[np.float32]:
    """The rows of one task of a multitask prompt: emb * (cols[t] @ rows[t]).

    Wang et al. 2023, https://arxiv.org/abs/2303.02861, as peft's MultitaskPromptEmbedding does.

    Raises:
        UsageError: the task index is missing or out of range.
        InvalidFileError: the three tensors do not belong together.
    """
    if not tensors.keys() >= PEFT_KEYS:
        raise InvalidFileError(
            "peft-keys",
            f"a multitask prompt holds {', '.join(sorted(PEFT_KEYS))}; found {_names(tensors)}. "
            "Save it again with peft.",
        )
    shared = tensors["prompt_embeddings"]  # (P, hidden)
    cols = tensors["prefix_task_cols"]  # (tasks, P, ranks)
    rows = tensors["prefix_task_rows"]  # (tasks, ranks, hidden)
    if (
        (shared.ndim, cols.ndim, rows.ndim) != (2, 3, 3)
        or cols.shape != (rows.shape[0], shared.shape[0], rows.shape[1])
        or rows.shape[2] != shared.shape[1]
    ):
        raise InvalidFileError(
            "peft-shape",
            f"prompt_embeddings {shared.shape}, prefix_task_cols {cols.shape} and prefix_task_rows "
            f"{rows.shape} do not belong together. Save the adapter again with peft.",
        )
    num_tasks = cols.shape[0]
    if task_index is None and num_tasks > 1:
        raise UsageError(
            f"the prompt was trained for {num_tasks} tasks. Say which one: --task-index 0 to "
            f"{num_tasks - 1}."
        )
    task = task_index or 0
    if not 0 <= task < num_tasks:
        raise UsageError(
            f"task index {task} of a prompt for {num_tasks} tasks. Use 0 to {num_tasks - 1}."
        )
    prompt: npt.NDArray[np.float32] = shared * (cols[task] @ rows[task])  # (P, hidden)
    return prompt


def rows_to_kv(
    rows: npt.NDArray[np.float32], num_layers: int, num_kv_heads: int, head_dim: int
) -> npt.NDArray[np.float32]:
    """Peft's saved prefix (P, layers·2·kv_heads·head_dim) as (layers, 2, kv_heads, P, head_dim)."""
    num_virtual_tokens = rows.shape[0]
    cache = rows.reshape(num_virtual_tokens, num_layers, 2, num_kv_heads, head_dim)
    return np.ascontiguousarray(cache.transpose(1, 2, 3, 0, 4))


def decoder_layers(cache: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What an encoder-decoder's decoder gets of a saved prefix (layers, 2, kv_heads, P, head_dim).

    peft doubles the tensor and splits it in four for each layer, two of self-attention and two of
    cross-attention, which it then drops: self-attention of layer i gets what was saved for layer
    2i mod layers. The encoder gets none.
    """
    layers = len(cache)
    return np.ascontiguousarray(cache[[2 * layer % layers for layer in range(layers)]])


def write_peft_folder(
    prompt: Prompt,
    manifest: Manifest | None,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> None:
    """Write a folder that peft's PeftModel.from_pretrained loads.

    Rows become PROMPT_TUNING whatever learned them, since that is what they are afterwards;
    keys and values become PREFIX_TUNING. A head becomes the module that peft saves with the task;
    its labels are not written, since peft has no place for them.

    Args:
        prompt: the prompt.
        manifest: of its bundle; names the base model where the prompt does not, and decides what
            the head is called.
        path: the folder to make.
        overwrite: whether an existing adapter folder may be replaced.

    Raises:
        UsageError: the folder exists.
        IncompatibleError: the prompt holds what an adapter folder cannot say.
    """
    config, rows = _config_and_rows(prompt)
    head = _peft_head(prompt, manifest)
    if head:
        answers = prompt.task == "question-answering"
        layers = {name.split(".")[1] for name in head} if answers else _CLASSIFIER_HEADS
        config["modules_to_save"] = list(layers)
    config["base_model_name_or_path"] = prompt.base_model or (manifest.source if manifest else None)
    config["task_type"] = {task: name for name, task in _TASKS.items()}.get(prompt.task)
    config["inference_mode"] = True
    is_split = prompt.task == SEQ2SEQ_TASK and "prompt_kv" in prompt.tensors
    config["num_transformer_submodules"] = 2 if is_split else 1
    from safetensors.numpy import save

    with atomic_folder(path, marker=CONFIG_NAME, overwrite=overwrite) as folder:
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / CONFIG_NAME).write_text(text, encoding="utf-8")
        tensors = {"prompt_embeddings": np.ascontiguousarray(rows), **head}
        weights = save(tensors, {"format": "pt"})
        (folder / WEIGHT_NAMES[0]).write_bytes(weights)


def _config_and_rows(prompt: Prompt) -> tuple[dict[str, Any], npt.NDArray[np.float32]]:
    held = {name for name in prompt.tensors if not name.startswith("head.")}
    if held == {"prompt_embeds"} and prompt.tensors["prompt_embeds"].ndim == 2:
        rows = prompt.tensors["prompt_embeds"]  # (P, hidden)
        return {
            "peft_type": "PROMPT_TUNING",
            "prompt_tuning_init": "RANDOM",
            "num_virtual_tokens": rows.shape[0],
            "token_dim": rows.shape[1],
            # rows do not depend on them, but peft wants them where it cannot read a model's (DistilBERT)
            "num_layers": 1,
            "num_attention_heads": 1,
        }, rows
    if held == {"prompt_kv"}:
        cache = prompt.tensors["prompt_kv"]  # (layers, 2, kv_heads, P, head_dim)
        if prompt.task == SEQ2SEQ_TASK:
            cache = saved_layers(cache)
        num_layers, _, num_kv_heads, num_virtual_tokens, head_dim = cache.shape
        return {
            "peft_type": "PREFIX_TUNING",
            "prefix_projection": False,
            "num_virtual_tokens": num_virtual_tokens,
            "token_dim": num_kv_heads * head_dim,
            "num_attention_heads": num_kv_heads,
            "num_layers": num_layers,
            "encoder_hidden_size": num_kv_heads * head_dim,
        }, cache.transpose(3, 0, 1, 2, 4).reshape(num_virtual_tokens, -1)
    raise IncompatibleError(
        f"prompt {prompt.name!r} holds {_names(prompt.tensors)}; a peft folder takes prompt_embeds "
        "of one layer or prompt_kv. Export it as onnx-adapter instead."
    )


def saved_layers(cache: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The inverse of `decoder_layers`: of an odd number of layers, each is taken once."""
    layers = len(cache) | 1
    saved = np.zeros((layers, *cache.shape[1:]), np.float32)
    saved[[2 * layer % layers for layer in range(len(cache))]] = cache
    return saved


def _peft_head(prompt: Prompt, manifest: Manifest | None) -> dict[str, npt.NDArray[np.float32]]:
    """The head under the names that peft 0.21 gives it: an encoder's classifier, a decoder's score."""
    weight, bias = prompt.tensors.get("head.weight"), prompt.tensors.get("head.bias")
    if weight is None:
        return {}
    if prompt.task not in _TASKS_WITH_HEAD or manifest is None:
        found = f"a head for {prompt.task}" if manifest is not None else "a head"
        raise IncompatibleError(
            f"prompt {prompt.name!r} has {found}; it can be written for peft's SEQ_CLS, TOKEN_CLS and "
            "QUESTION_ANS only, and only where the bundle says what kind of model it is for. Give "
            "--bundle, or export it as onnx-adapter instead."
        )
    if manifest.kv is not None and not manifest.kv.prefix_only:  # a decoder
        if bias is not None and bias.any():
            raise IncompatibleError(
                f"prompt {prompt.name!r} has a head with a bias; {manifest.architecture}'s has none, so "
                "peft could not load it. Export it as onnx-adapter instead."
            )
        return {"base_model.score.weight": np.ascontiguousarray(weight)}
    if prompt.task == "question-answering":
        layers = {"head": "classifier" if manifest.model_type == "modernbert" else "qa_outputs"}
    elif manifest.head_dense:
        is_distilbert = manifest.model_type == "distilbert"
        dense, last = _TWO_LAYERS[1 if is_distilbert else 0]
        layers = {"head.dense": dense, "head": last}
    else:
        layers = {"head": "classifier"}
    tensors = {}
    for prefix, layer in layers.items():
        weight = prompt.tensors[f"{prefix}.weight"]
        bias = prompt.tensors.get(f"{prefix}.bias", np.zeros(len(weight), np.float32))
        tensors[f"base_model.{layer}.weight"] = np.ascontiguousarray(weight)
        tensors[f"base_model.{layer}.bias"] = np.ascontiguousarray(bias)
    return tensors


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


def read_head(tensors: Tensors, source: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The head that peft trained beside a prompt (modules_to_save), where it is one linear layer or two.

    Args:
        tensors: all of the adapter that are not the prompt's, by peft's names.
        source: where they come from, for errors.

    Returns:
        head.weight (classes, hidden) and, where there is one, head.bias (classes,); of two layers, the
        first one's as head.dense.weight (hidden, hidden) and head.dense.bias; empty without a head.

    Raises:
        IncompatibleError: something else was trained, too.
        InvalidFileError: the head is no matrix, or its bias no row.
    """
    extra = {name.removeprefix("base_model."): tensor for name, tensor in tensors.items()}
    if not extra:
        return {}
    for dense, last in (*_TWO_LAYERS, *((None, head) for head in _HEADS)):
        found = {}
        for prefix, layer in (("head.dense", dense), ("head", last)):
            for part in ("weight", "bias"):
                if f"{layer}.{part}" in extra:
                    found[f"{prefix}.{part}"] = extra[f"{layer}.{part}"]
        is_whole = f"{last}.weight" in extra and (dense is None or f"{dense}.weight" in extra)
        if is_whole and len(found) == len(extra):
            shapes = {name: tensor.shape for name, tensor in found.items()}
            if any(len(shape) != (2 if "weight" in name else 1) for name, shape in shapes.items()):
                raise InvalidFileError(
                    "peft-shape",
                    f"{source}: {last} has the shapes {[*shapes.values()]}, expected (classes, hidden) and "
                    "(classes,). Save the adapter again with peft.",
                )
            return found
    raise IncompatibleError(
        f"{source} also holds {_names(extra)}; edgept carries a head that is one linear layer "
        f"({', '.join(_HEADS)}), or two ({', '.join(map(' and '.join, _TWO_LAYERS))}). Train without "
        "modules_to_save, or with such a head."
    )


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


def _names(tensors: Mapping[str, object]) -> str:
    shown = sorted(tensors)[:6]
    return ", ".join(repr(name[:80]) for name in shown) + (
        ", …" if len(tensors) > len(shown) else ""
    )
