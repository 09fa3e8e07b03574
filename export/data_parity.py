"""Rows of the user's: the task's own metric, in PyTorch and in the bundle.

Each row runs alone on both sides, as a request does: int8-dynamic computes something else in a batch. A
text to classify gives one prediction; an answer, or a text alone, one for each of its tokens, given those
before it.
"""

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from edgept.errors import InvalidFileError, UsageError
from edgept.export.tally import OnRows
from edgept.runtime.content import LoadedPrompt, check_tokenizer
from edgept.runtime.model import Model

if TYPE_CHECKING:
    from edgept.tune.data import Data, Row
    from edgept.tune.settings import Columns

__all__ = ["compare_rows", "read_rows"]

Array: TypeAlias = npt.NDArray[np.float32]
Logits: TypeAlias = Callable[[list[int]], Array]
"""From a text's token ids to logits: (classes,), or (tokens, vocabulary)."""

# What rows of a task may be, as edgept.tune.data names it.
_KINDS = {"text-classification": ("label",), "text-generation": ("io", "label", "text")}
_EXPECTED = {
    "text-classification": "text and label",
    "text-generation": "input and output, text and label, or text alone",
}
_SHOWN = 12


def read_rows(path: str | os.PathLike[str], columns: "Columns | None", task: str) -> "Data":
    """Read rows as `edgept tune` does.

    Args:
        path: .jsonl or .csv.
        columns: names of the columns.
        task: of the bundle.

    Raises:
        UsageError: there is no such file, the task has no metric here, or the rows are not for it.
        InvalidFileError: rows are malformed.
    """
    from edgept.tune.data import read_data  # which imports this package

    if task not in _KINDS:
        raise UsageError(
            f"--verify-data measures {' and '.join(_KINDS)}; for {task} there is no metric here. Leave "
            "it out."
        )
    data = read_data(path, columns)
    if data.kind not in _KINDS[task]:
        raise UsageError(
            f"{data.path} has rows of the kind {data.kind}; --verify-data for {task} reads "
            f"{_EXPECTED[task]}. Name the columns with --text-column and --label-column, or "
            "--input-column and --output-column."
        )
    return data


def compare_rows(
    data: "Data", model: Model, prompt: LoadedPrompt | None, expected: Logits
) -> OnRows:
    """Measure every row in PyTorch and in the bundle.

    Args:
        data: of `read_rows`.
        model: the bundle.
        prompt: loaded there, in front of every row; None is the plain model.
        expected: what PyTorch computes under the same prompt, of one text.

    Raises:
        UsageError: a row is too long, or a label is none of the head's.
    """
    if model.manifest.task == "text-classification":
        return _compare_classes(data, model, prompt, expected)
    return _compare_answers(data, model, prompt, expected)


def _compare_classes(
    data: "Data", model: Model, prompt: LoadedPrompt | None, expected: Logits
) -> OnRows:
    labels = _labels(data, model, prompt)
    right = np.zeros(2, np.int64)  # in PyTorch, in the bundle
    equal = 0
    for row in data.rows:
        ids = _ids(row, data, model, prompt)
        wanted = int(expected(ids).argmax())
        found = int(model.outputs(ids, prompt=prompt).argmax())
        right += np.array([wanted, found]) == labels[row.label]
        equal += wanted == found
    count = len(data.rows)
    before, after = (right / count).tolist()
    return OnRows("accuracy", count, before, after, count, equal, data.sha256)


def _compare_answers(
    data: "Data", model: Model, prompt: LoadedPrompt | None, expected: Logits
) -> OnRows:
    tokenizer = check_tokenizer(model.tokenizer)
    losses = np.zeros(2)  # in PyTorch, in the bundle
    count = equal = 0
    for row in data.rows:
        ids = _ids(row, data, model, prompt)
        start = 1
        if row.answer is not None:
            while len(ids) > 1 and ids[-1] in model.manifest.eos_token_ids:
                ids.pop()  # put behind a text by some tokenizers, and here there is an answer
            start = len(ids)
            ids += tokenizer.encode(row.answer, special_tokens=False)
            ids += model.manifest.eos_token_ids[:1]
            _check_room(row, ids, data, model, prompt)
        answer = np.array(ids[start:])
        # what predicts the answer; a prompt whose rows are run has logits in front
        wanted = expected(ids)[-len(answer) - 1 : -1]
        found = model.logits(ids, prompt=prompt)[-len(answer) - 1 : -1]  # (answer, vocabulary)
        losses += [_loss(wanted, answer), _loss(found, answer)]
        equal += int((wanted.argmax(-1) == found.argmax(-1)).sum())
        count += len(answer)
    if not count:
        raise UsageError(f"{data.path} holds no token to predict. Give longer texts.")
    before, after = (math.exp(loss / count) for loss in losses)
    return OnRows("perplexity", len(data.rows), before, after, count, equal, data.sha256)


def _loss(logits: Array, chosen: npt.NDArray[np.int64]) -> float:
    """Cross-entropy of tokens (answer,), in nats, summed; logits are (answer, vocabulary)."""
    if not len(chosen):
        return 0.0
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    picked = scores[np.arange(len(chosen)), chosen]
    return float((np.log(np.exp(scores).sum(axis=1)) - picked).sum())


def _labels(data: "Data", model: Model, prompt: LoadedPrompt | None) -> dict[str, int]:
    """Classes by the names that rows may give them.

    Raises:
        UsageError: there is no head, or a row has a label that none of its classes is called.
    """
    head = None if prompt is None else prompt.head
    names = tuple(model.manifest.labels) if head is None else head.labels
    if not names:
        raise UsageError(
            "--verify-data measures accuracy, and neither the model nor a prompt brings a head. Verify "
            "with --prompt."
        )
    labels = {name: index for index, name in enumerate(names)}
    if all(name == f"LABEL_{index}" for index, name in enumerate(names)):
        labels |= {str(index): index for index in range(len(names))}  # nobody named them
    unknown = [row for row in data.rows if row.label not in labels]
    if unknown:
        shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        raise UsageError(
            f"{data.path}, line {unknown[0].line}: the label {unknown[0].label!r} is none of the head's "
            f"{len(names)} ({shown}); so are those of {len(unknown)} rows. Name the head's classes with "
            "--labels, in its order, or correct the rows."
        )
    return labels


def _ids(row: "Row", data: "Data", model: Model, prompt: LoadedPrompt | None) -> list[int]:
    """The token ids of a row's text, with the special tokens that the device puts around it."""
    ids = check_tokenizer(model.tokenizer).encode(row.text, special_tokens=True)
    _check_room(row, ids, data, model, prompt)
    return ids


def _check_room(
    row: "Row", ids: list[int], data: "Data", model: Model, prompt: LoadedPrompt | None
) -> None:
    room = model.max_length - (prompt.num_virtual_tokens if prompt else 0)
    if not 1 <= len(ids) <= room:
        raise InvalidFileError(
            "training-data",
            f"{data.path}, line {row.line}: {len(ids)} tokens, and there is room for 1 to {room} beside "
            "the prompt. Shorten the row, or leave it out.",
        )
