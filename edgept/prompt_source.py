"""Load a prompt from whatever its training left behind, and bind it to a bundle.

| Source | Reader |
|---|---|
| a folder with adapter_config.json | peft_folder |
| .safetensors that `edgept prompt pack` wrote | prompt_file |
| any other .safetensors | safetensors_strict, then by name and shape |
| .pt, .pth, .bin | torch_checkpoint, then by name and shape |
| .npy | npy_file, then by shape |
"""

# ruff: noqa: PTH112, PTH113  # unlike Path's, these answer False for a path that cannot be examined

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgept import __version__
from edgept.errors import IncompatibleError, InvalidFileError, UsageError
from edgept.formats.npy_file import read_npy
from edgept.formats.reason import Reason
from edgept.formats.regular_file import open_regular
from edgept.formats.safetensors_strict import METADATA_KEY, Header, read_header, read_tensors
from edgept.formats.torch_checkpoint import read_torch_checkpoint
from edgept.manifest import IMAGE_TASKS, SEQ2SEQ_TASK, Manifest
from edgept.peft_folder import read_peft_folder
from edgept.peft_tensors import (
    CONFIG_NAME,
    PEFT_KEYS,
    WEIGHT_NAMES,
    combine_multitask,
    read_head,
    rows_to_kv,
)
from edgept.prompt import Prompt, check_fits
from edgept.prompt_file import FORMAT, MAX_BYTES, MIN_BYTES, TENSOR_RANKS, finish_prompt

__all__ = ["bind", "load_prompt_source"]

Array = npt.NDArray[np.float32]

_TORCH_SUFFIXES = {".pt", ".pth", ".bin"}
# Names under which a bare checkpoint may hold its rows, the first one found counts. The last is
# peft's own in the state dict of a whole PeftModel.
_ROW_KEYS = ("prompt_embeds", "prompt_embeddings", "prompt_encoder.default.embedding.weight")


def load_prompt_source(
    path: str | os.PathLike[str],
    manifest: Manifest | None = None,
    *,
    task_index: int | None = None,
    name: str | None = None,
    task: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> Prompt:
    """Load a prompt in any form that edgept reads; `bind` it before it is written or run.

    Args:
        path: a prompt file, a peft adapter folder, or a checkpoint (see the table above).
        manifest: of the bundle it is for; tells rows from prefixes where only a shape is known.
        task_index: which task of a multitask prompt.
        name: what to call it; the default is the file's own name.
        task: what bare tensors are for, where they can be for several.
        max_bytes: the largest file to accept.

    Raises:
        UsageError: there is nothing there, or nothing that is read as a prompt; or bare tensors for an
            image model may be for several tasks.
        InvalidFileError: the file breaks its format's rules.
        IncompatibleError: the adapter's method is not run, or a shape fits nothing in the bundle.
    """
    source = Path(path)
    beside = source.parent / CONFIG_NAME
    is_folder = os.path.isdir(source)
    if is_folder or (source.name in WEIGHT_NAMES and os.path.isfile(beside)):
        folder = source if is_folder else source.parent
        prompt = read_peft_folder(folder, task_index=task_index, max_bytes=max_bytes)
        prompt = _for_decoder(prompt, manifest)
    else:
        prompt = _load_file(source, manifest, task_index, task, max_bytes)
    return prompt if name is None else replace(prompt, name=name)


def bind(prompt: Prompt, manifest: Manifest) -> Prompt:
    """The prompt with the bundle's fingerprint, once it is known to fit.

    Binding a prompt that has no fingerprint is a claim that it was trained for this very model. One
    that classifies without a head gets the class names of the model's own, for which it was trained.

    Raises:
        IncompatibleError: its fingerprint is another model's, or its sizes are not this model's.
    """
    check_fits(prompt, manifest)
    has_head = "head.weight" in prompt.tensors
    labels = prompt.labels if has_head else prompt.labels or tuple(manifest.labels)
    created_by = f"edgept {__version__}"
    return replace(prompt, fingerprint=manifest.fingerprint, labels=labels, created_by=created_by)


def _load_file(
    source: Path,
    manifest: Manifest | None,
    task_index: int | None,
    task: str | None,
    max_bytes: int,
) -> Prompt:
    suffix = source.suffix.lower()
    if suffix == ".onnx_adapter":
        raise UsageError(
            f"{source} is an adapter for onnxruntime, which does not say what model it is for. Give "
            "the .safetensors that it was exported from."
        )
    if suffix == ".safetensors":
        with open_regular(source, min_bytes=MIN_BYTES, max_bytes=max_bytes) as (stream, size):
            header = read_header(stream, size)
            if _is_prompt(header):
                _refuse_task_index(task_index, source)
                return finish_prompt(stream, header)
            tensors = read_tensors(stream, header)
    elif suffix in _TORCH_SUFFIXES:
        tensors = read_torch_checkpoint(source, max_bytes=max_bytes)
    elif suffix == ".npy":
        tensors = {"": read_npy(source, max_bytes=max_bytes)}
    elif os.path.lexists(source):
        raise UsageError(
            f"{source} is in no form that edgept reads: a peft adapter folder, .safetensors, .pt, "
            ".pth, .bin or .npy. Save the prompt in one of them."
        )
    else:
        raise UsageError(f"there is no {source}. Check the path.")
    prompt = _from_tensors(tensors, manifest, task_index, source)
    return replace(prompt, name=source.stem, task=_task_of(prompt, manifest, task, source))


def _task_of(prompt: Prompt, manifest: Manifest | None, task: str | None, source: Path) -> str:
    """What bare tensors are taken to be for."""
    if manifest is None and "box.weight" not in prompt.tensors:
        return "text-classification" if "head.weight" in prompt.tensors else prompt.task
    if manifest is not None and manifest.image is None:
        return manifest.task
    known = IMAGE_TASKS if manifest is None else manifest.prompt_tasks
    if "box.weight" in prompt.tensors:
        return known[-1]
    can_be_several = len(known) > 1 and "head.weight" in prompt.tensors
    if not can_be_several or "box.bias" in prompt.tensors:
        return known[0]
    if task is None:
        raise UsageError(
            f"{source} holds a head, and nothing in it says what for: {known[0]} reads it at the picture, "
            f"{known[1]} at its patches. Say so: edgept prompt pack --task TASK."
        )
    return task


def _for_decoder(prompt: Prompt, manifest: Manifest | None) -> Prompt:
    """An encoder-decoder's prefix without the layers that its decoder lacks: peft saves as many as the encoder has."""
    if manifest is None or manifest.kv is None or prompt.task != SEQ2SEQ_TASK:
        return prompt
    cache = prompt.tensors.get("prompt_kv")
    if cache is None or cache.ndim != 5:
        return prompt
    layers = manifest.kv.num_layers
    return replace(prompt, tensors={**prompt.tensors, "prompt_kv": cache[:layers]})


def _is_prompt(header: Header) -> bool:
    metadata = header.fields.get(METADATA_KEY)
    return isinstance(metadata, dict) and metadata.get("format") == FORMAT


def _from_tensors(
    tensors: Mapping[str, Array], manifest: Manifest | None, task_index: int | None, source: Path
) -> Prompt:
    """Tell by name and shape what the tensors of a bare checkpoint are."""
    is_seq2seq = manifest is not None and manifest.task == SEQ2SEQ_TASK
    if is_seq2seq and {"prefix_task_cols", *_ROW_KEYS[1:]} & tensors.keys():
        raise IncompatibleError(
            f"{source} is peft's weight file alone. Of an encoder-decoder's prompt peft saves twice the "
            "rows and uses the first half, or a prefix's layers in an order of its own; only the adapter's "
            "configuration says so. Give the whole folder."
        )
    if "prefix_task_cols" in tensors:
        rows = combine_multitask(tensors, task_index)
        head = _head_beside(tensors, PEFT_KEYS, source)
        return Prompt({"prompt_embeds": rows, **head}, method="multitask_prompt_tuning")
    _refuse_task_index(task_index, source)
    known = {name: array for name, array in tensors.items() if name in TENSOR_RANKS}
    row_key = next((key for key in _ROW_KEYS if key in tensors), None)
    if row_key is None and len(tensors) == 1 and not known:
        row_key = next(iter(tensors))
    if row_key is not None:
        known.pop("prompt_embeds", None)
        known.update(_by_shape(tensors[row_key], manifest, source))
    elif not {"prompt_kv", "head.weight"} & known.keys():
        raise UsageError(
            f"{source} holds {len(tensors)} tensors, none of them named as a prompt's "
            f"({', '.join(TENSOR_RANKS)}, prompt_embeddings): {str(sorted(tensors))[:200]}. "
            "Save the prompt's tensor alone, or under one of these names."
        )
    known |= _head_beside(tensors, {*TENSOR_RANKS, row_key}, source)
    for name, array in known.items():
        if array.ndim not in TENSOR_RANKS[name]:
            raise InvalidFileError(
                Reason.TENSOR_RANK,
                f"{source}: {name} has shape {array.shape}; "
                f"{' or '.join(map(str, TENSOR_RANKS[name]))} dimensions are expected. Save it so.",
            )
    return Prompt(known)


def _head_beside(
    tensors: Mapping[str, Array], taken: Collection[str | None], source: Path
) -> dict[str, Array]:
    """The head beside the tensors that are taken; what nobody understands is refused.

    In the state dict of a whole PeftModel the frozen model's weights are left where they are.
    """
    is_whole = _ROW_KEYS[-1] in tensors
    found = {}
    for name, array in tensors.items():
        is_trained = not name.startswith("base_model.") or ".modules_to_save." in name
        if name not in taken and (is_trained or not is_whole):
            found[name.replace(".modules_to_save.default.", ".")] = array
    if found and "head.weight" in tensors:
        raise IncompatibleError(
            f"{source} holds head.weight, and {str(sorted(found))[:200]} beside it. Save the prompt and one "
            "head alone."
        )
    return read_head(found, source)


def _by_shape(array: Array, manifest: Manifest | None, source: Path) -> dict[str, Array]:
    if array.ndim == 5:
        return {"prompt_kv": array}
    if manifest is None or array.ndim != 2:
        return {"prompt_embeds": array}
    if manifest.image is not None:
        return {"prompt_embeds": array[None]}  # of the first layer alone
    width, hidden = array.shape[1], manifest.hidden_size
    # of an encoder-decoder's, peft's folder alone says which layer is whose
    kv = None if manifest.task == SEQ2SEQ_TASK else manifest.kv
    prefix_width = 2 * kv.num_layers * kv.num_kv_heads * kv.head_dim if kv else None
    prefix = f"(P, {prefix_width})"
    if prefix_width is None:
        why = (
            "only peft's folder says which layer is whose"
            if manifest.kv
            else "the model has no cache"
        )
        prefix = f"none, as {why}"
    if (width == hidden) == (width == prefix_width):
        found = "could be either" if width == hidden else "is neither"
        raise IncompatibleError(
            f"{source} has shape {array.shape}, which {found}: {manifest.source} takes rows of shape "
            f"(P, {hidden}) and prefixes of shape {prefix}. Use the bundle of the prompt's own model, "
            "or give peft's whole folder, which names the method."
        )
    if kv is not None and width == prefix_width:
        return {"prompt_kv": rows_to_kv(array, kv.num_layers, kv.num_kv_heads, kv.head_dim)}
    return {"prompt_embeds": array}


def _refuse_task_index(task_index: int | None, source: Path) -> None:
    if task_index is not None:
        raise UsageError(f"a task index is for multitask prompts, {source} is none. Leave it out.")
