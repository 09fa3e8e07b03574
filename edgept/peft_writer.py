"""Write a prompt as a folder that peft loads."""

import json
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from edgept.atomic import atomic_folder
from edgept.errors import IncompatibleError
from edgept.manifest import SEQ2SEQ_TASK, Manifest
from edgept.peft_tensors import (
    CLASSIFIER_HEADS,
    CONFIG_NAME,
    TASKS,
    TWO_LAYERS,
    WEIGHT_NAMES,
    list_names,
    saved_layers,
)
from edgept.prompt import Prompt

__all__ = ["write_peft_folder"]

_TASKS_WITH_HEAD = {"text-classification", "token-classification", "question-answering"}


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
        layers = {name.split(".")[1] for name in head} if answers else CLASSIFIER_HEADS
        config["modules_to_save"] = list(layers)
    config["base_model_name_or_path"] = prompt.base_model or (manifest.source if manifest else None)
    config["task_type"] = {task: name for name, task in TASKS.items()}.get(prompt.task)
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
        f"prompt {prompt.name!r} holds {list_names(prompt.tensors)}; a peft folder takes prompt_embeds "
        "of one layer or prompt_kv. Export it as onnx-adapter instead."
    )


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
        dense, last = TWO_LAYERS[1 if is_distilbert else 0]
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
