"""What the tensors of a peft adapter mean: rows, a prefix, a multitask prompt, and the head beside them.

Layouts as peft 0.21 saves them; its quirks are listed in peft_quirks.md.
https://github.com/huggingface/peft
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgept.errors import IncompatibleError, InvalidFileError, UsageError
from edgept.manifest import SEQ2SEQ_TASK

__all__ = [
    "CLASSIFIER_HEADS",
    "CONFIG_NAME",
    "PEFT_KEYS",
    "TASKS",
    "TWO_LAYERS",
    "WEIGHT_NAMES",
    "Tensors",
    "combine_multitask",
    "decoder_layers",
    "list_names",
    "read_head",
    "rows_to_kv",
    "saved_layers",
]

CONFIG_NAME = "adapter_config.json"
WEIGHT_NAMES = ("adapter_model.safetensors", "adapter_model.bin")

Tensors = Mapping[str, npt.NDArray[np.float32]]

# Tasks as transformers names them, by peft's names.
TASKS = {
    "CAUSAL_LM": "text-generation",
    "SEQ_2_SEQ_LM": SEQ2SEQ_TASK,
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "FEATURE_EXTRACTION": "feature-extraction",
}
PEFT_KEYS = {"prompt_embeddings", "prefix_task_cols", "prefix_task_rows"}
# Last layers that peft saves whole, by its task types; a layer in front of one, where there are two.
CLASSIFIER_HEADS = ("classifier", "score")
_HEADS = (*CLASSIFIER_HEADS, "qa_outputs")
TWO_LAYERS = (("classifier.dense", "classifier.out_proj"), ("pre_classifier", "classifier"))


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
            f"a multitask prompt holds {', '.join(sorted(PEFT_KEYS))}; found {list_names(tensors)}. "
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


def saved_layers(cache: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The inverse of `decoder_layers`: of an odd number of layers, each is taken once."""
    layers = len(cache) | 1
    saved = np.zeros((layers, *cache.shape[1:]), np.float32)
    saved[[2 * layer % layers for layer in range(len(cache))]] = cache
    return saved


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
    for dense, last in (*TWO_LAYERS, *((None, head) for head in _HEADS)):
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
        f"{source} also holds {list_names(extra)}; edgept carries a head that is one linear layer "
        f"({', '.join(_HEADS)}), or two ({', '.join(map(' and '.join, TWO_LAYERS))}). Train without "
        "modules_to_save, or with such a head."
    )


def list_names(tensors: Mapping[str, object]) -> str:
    """The first names of an adapter's tensors, as an error shows them."""
    shown = sorted(tensors)[:6]
    return ", ".join(repr(name[:80]) for name in shown) + (
        ", …" if len(tensors) > len(shown) else ""
    )
