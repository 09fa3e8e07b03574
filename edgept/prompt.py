"""The prompt: a task as a handful of small tensors, and the check that it fits a bundle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgept.errors import IncompatibleError
from edgept.manifest import ImageGeometry, Manifest

__all__ = ["Prompt", "check_fits", "names_other_base"]

_SHOWN = 6  # class names in an error


@dataclass(frozen=True, eq=False)
class Prompt:
    """A trained prompt: what `edgept prompt pack` writes and a runtime swaps in.

    Attributes:
        tensors: name to float32 array, from a closed set:
            ``prompt_embeds`` (num_virtual_tokens, hidden), the rows that stand for virtual tokens
            (prompt tuning, Lester et al. 2021; P-tuning, Liu et al. 2021; multitask prompt tuning,
            Wang et al. 2023; context-aware prompt tuning, Blau et al. 2024); of image models (layers or
            1, num_virtual_tokens, hidden), deep or shallow (visual prompt tuning, Jia et al. 2022);
            ``prompt_kv`` (layers, 2, kv_heads, num_virtual_tokens, head_dim), initial keys [:, 0]
            and values [:, 1] as the cache holds them (prefix tuning, Li & Liang 2021; CARTRIDGE);
            ``head.weight`` (classes, head_size) and ``head.bias`` (classes,), a task's own head; a
            prompt may be a head alone (linear probing). ``head.dense.weight`` (head_size, head_size)
            and ``head.dense.bias`` (head_size,), the layer in front of it in models whose head has two.
            ``box.weight`` (4, head_size) and ``box.bias`` (4,), which read a detection's box off its
            virtual token, as a head its class.
        name: what a user calls the task, "spanish".
        method: peft's name of the method in lower case, "prompt_tuning"; "unknown" from bare tensors.
        fingerprint: of the frozen model that it was trained for or bound to (64 hex digits);
            None where nobody has said, as in every peft checkpoint.
        task: the task as transformers names it, "text-generation".
        labels: the head's class names, in order; empty where nobody named them. Of a prompt that steers
            a classifier without a head of its own, those of the bundle that it was bound to.
        base_model: the name or path that the training tool recorded; "" where unknown.
        created_by: the program that wrote the file.
    """

    tensors: Mapping[str, npt.NDArray[np.float32]]
    name: str = "prompt"
    method: str = "unknown"
    fingerprint: str | None = None
    task: str = "text-generation"
    labels: tuple[str, ...] = field(default=())
    base_model: str = ""
    created_by: str = ""

    @property
    def num_virtual_tokens(self) -> int:
        """How many positions the prompt takes in the sequence."""
        if "prompt_embeds" in self.tensors:
            return int(self.tensors["prompt_embeds"].shape[-2])
        if "prompt_kv" in self.tensors:
            return int(self.tensors["prompt_kv"].shape[3])
        return 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the head's classes; LABEL_0, LABEL_1, … as in transformers where nobody gave any."""
        if self.labels or "head.weight" not in self.tensors:
            return self.labels
        return tuple(f"LABEL_{index}" for index in range(len(self.tensors["head.weight"])))

    @property
    def nbytes(self) -> int:
        """Size of the tensors in memory, in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def check_fits(prompt: Prompt, manifest: Manifest) -> None:
    """Check that a prompt belongs to a bundle, by fingerprint first and by shape always.

    Args:
        prompt: the prompt; without a fingerprint, only its shapes are compared.
        manifest: of the bundle that is to run it.

    Raises:
        IncompatibleError: the prompt was made for another model, or its sizes are not the model's.
    """
    if prompt.fingerprint is not None and prompt.fingerprint != manifest.fingerprint:
        made_for = f" (recorded base model: {prompt.base_model})" if prompt.base_model else ""
        raise IncompatibleError(
            f"prompt {prompt.name!r} was made for another model{made_for}: its fingerprint is "
            f"{prompt.fingerprint[:12]}…, this bundle's ({manifest.source}) is "
            f"{manifest.fingerprint[:12]}…. Use the bundle of its own model, or retrain the prompt "
            "for this one."
        )
    tasks = manifest.prompt_tasks
    if prompt.task not in tasks:
        raise IncompatibleError(
            f"prompt {prompt.name!r} is for the task {prompt.task}, this bundle runs "
            f"{', '.join(tasks)}. Train a prompt for {' or '.join(tasks)}."
        )
    expected: dict[str, tuple[int | None, ...]] = {"prompt_embeds": (None, manifest.hidden_size)}
    if manifest.image is not None:
        expected["prompt_embeds"] = (_depth(prompt, manifest.image), None, manifest.hidden_size)
        boxes_are_read = prompt.task == "object-detection" and manifest.image.detects == "tokens"
        if boxes_are_read and manifest.head_size is not None:
            expected |= {"box.weight": (4, manifest.head_size), "box.bias": (4,)}
    if manifest.kv is not None:
        kv = manifest.kv
        expected["prompt_kv"] = (kv.num_layers, 2, kv.num_kv_heads, None, kv.head_dim)
    if manifest.head_size is not None:
        expected |= {"head.weight": (None, manifest.head_size), "head.bias": (None,)}
        if manifest.head_dense:
            expected["head.dense.weight"] = (manifest.head_size, manifest.head_size)
            expected["head.dense.bias"] = (manifest.head_size,)
    for name, tensor in prompt.tensors.items():
        if name not in expected:
            raise IncompatibleError(
                f"prompt {prompt.name!r} carries {name}, which this bundle ({manifest.task}) does not "
                f"take; it takes {', '.join(expected)}."
            )
        wanted = expected[name]
        if tensor.ndim != len(wanted) or any(
            want is not None and size != want
            for size, want in zip(tensor.shape, wanted, strict=True)
        ):
            free = "classes" if name.startswith("head.") else "virtual tokens"
            shape = ", ".join(free if size is None else str(size) for size in wanted)
            raise IncompatibleError(
                f"prompt {prompt.name!r}: {name} has shape {tuple(tensor.shape)}, this bundle "
                f"({manifest.source}) needs ({shape}). It was trained for a model of another size."
            )
    rows_and_prefixes = {"prompt_embeds", "prompt_kv"} & {*prompt.tensors}
    if manifest.head_size is not None:
        _check_head(prompt, manifest)
    if manifest.image is not None and prompt.task != "image-classification":
        _check_parts(prompt, manifest.image)
    if len(rows_and_prefixes) > 1 or (manifest.head_size is None and not rows_and_prefixes):
        raise IncompatibleError(
            f"prompt {prompt.name!r} holds {', '.join(prompt.tensors) or 'no tensor'}, this bundle "
            f"({manifest.task}) takes either prompt_embeds or prompt_kv. Pack the one that was trained."
        )
    if prompt.num_virtual_tokens < 1 and (rows_and_prefixes or not prompt.tensors):
        raise IncompatibleError(
            f"prompt {prompt.name!r} has no virtual token, so it is no prompt. Pass None for the "
            "plain model."
        )
    if prompt.num_virtual_tokens > manifest.max_virtual_tokens:
        raise IncompatibleError(
            f"prompt {prompt.name!r} has {prompt.num_virtual_tokens} virtual tokens, this bundle "
            f"allows {manifest.max_virtual_tokens}. Export again with --max-virtual-tokens "
            f"{prompt.num_virtual_tokens}."
        )
    for name, tensor in prompt.tensors.items():
        with np.errstate(over="ignore"):
            finite = bool(np.isfinite(tensor.astype(manifest.float_type)).all())
        if not finite:
            raise IncompatibleError(
                f"prompt {prompt.name!r}: {name} holds values that are not finite in the bundle's "
                f"{manifest.float_type}. Export the model in fp32, or retrain."
            )


def _depth(prompt: Prompt, image: ImageGeometry) -> int:
    """How many tables of rows a prompt for an image model has: one, or one for each layer."""
    found = prompt.tensors.get("prompt_embeds")
    is_deep = found is not None and found.ndim == 3 and len(found) != 1
    return image.num_layers if is_deep else 1


def _check_parts(prompt: Prompt, image: ImageGeometry) -> None:
    """Check that a prompt has what its task reads: a class off each patch, or class and box off each token."""
    needed: tuple[str, ...] = ("head.weight",)
    why = "a patch's class is read with head.*"
    if prompt.task == "object-detection" and image.detects == "tokens":
        needed = ("prompt_embeds", "head.weight", "box.weight", "box.bias")
        why = "each of its virtual tokens finds one thing, whose class is read with head.*, its box with box.*"
    lacking = [name for name in needed if name not in prompt.tensors]
    if lacking:
        raise IncompatibleError(
            f"prompt {prompt.name!r} is for {prompt.task} and lacks {', '.join(lacking)}: {why}. Pack all "
            "that was trained."
        )


def _check_head(prompt: Prompt, manifest: Manifest) -> None:
    """Check the head against the bundle; its shapes one by one have been checked."""
    weight, bias = prompt.tensors.get("head.weight"), prompt.tensors.get("head.bias")
    dense = [name for name in prompt.tensors if name.startswith("head.dense.")]
    if weight is None:
        lone = [*dense, *(["head.bias"] if bias is not None else [])]
        if lone:
            raise IncompatibleError(
                f"prompt {prompt.name!r} has {' and '.join(lone)} but no head.weight. Pack the whole head."
            )
        if not manifest.labels:
            raise IncompatibleError(
                f"prompt {prompt.name!r} has no head, and {manifest.source} has none of its own: "
                "nothing says what the classes are. Pack a prompt that was trained with its head (peft's "
                "SEQ_CLS, TOKEN_CLS and QUESTION_ANS save it), or export a model that was fine-tuned for the task."
            )
        # its fingerprint is the backbone's, whose heads are many: the classes tell most of them apart
        is_bound = prompt.fingerprint is not None or prompt.labels
        if is_bound and prompt.labels != tuple(manifest.labels):
            raise IncompatibleError(
                f"prompt {prompt.name!r} has no head and was bound to one with the classes "
                f"{_listed(prompt.labels)}; the own head of {manifest.source} has {_listed(manifest.labels)}. "
                "Use the bundle that it was packed for, or pack it again from its source."
            )
        return
    if manifest.head_dense and len(dense) != 2:
        raise IncompatibleError(
            f"prompt {prompt.name!r} has a head of one layer; that of {manifest.architecture} has two, "
            "which are trained together: head.dense.weight and head.dense.bias stand in front of "
            "head.weight. Pack the whole head (peft's folder has it)."
        )
    classes = len(weight)
    if manifest.task == "question-answering" and classes != 2:
        raise IncompatibleError(
            f"prompt {prompt.name!r}: head.weight has {classes} rows, expected 2: where an answer starts, "
            "and where it ends. It is a head for another task."
        )
    if classes < 2 and prompt.task != "object-detection":
        raise IncompatibleError(
            f"prompt {prompt.name!r}: head.weight has {classes} row, expected one for each of two classes "
            "or more. A head for regression is not run."
        )
    for name, found_size in (("head.bias", bias), ("labels", prompt.labels or None)):
        if found_size is not None and len(found_size) != classes:
            raise IncompatibleError(
                f"prompt {prompt.name!r}: head.weight has {classes} classes, {name} has "
                f"{len(found_size)}. Give one for each class (edgept prompt pack --labels)."
            )


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(map(repr, labels[:_SHOWN])) or "(none recorded)"
    return f"{shown}, …" if len(labels) > _SHOWN else shown


def names_other_base(prompt: Prompt, manifest: Manifest) -> bool:
    """Whether an unbound prompt's training tool recorded a model of another name than the bundle's.

    Names prove nothing, so this is for a warning: a bound prompt is told by its fingerprint.
    """
    if prompt.fingerprint is not None or not prompt.base_model:
        return False
    return prompt.base_model.rstrip("/").rsplit("/", 1)[-1] != manifest.source
