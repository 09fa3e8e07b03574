"""The classes of a classification task: named by the training rows, and by nothing else."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from edgept.errors import InvalidFileError, UsageError
from edgept.prompt import Prompt
from edgept.prompt_file import format_prompt
from edgept.tune.data import Data

__all__ = ["label_names", "majority"]

_SHOWN = 20


def label_names(training: Data, held_out: Data | None) -> tuple[str, ...]:
    """Names of the classes, sorted; their indices are those of the head's rows.

    Raises:
        UsageError: the rows have no labels.
        InvalidFileError: there are fewer than two classes, a prompt file cannot hold a label, or
            held-out rows are of a class that no training row is of; each is named.
    """
    if training.kind != "label":
        raise UsageError(
            f"{training.path} has rows of the kind {training.kind}; text-classification learns from the "
            "columns text and label. Name them with --text-column and --label-column, or say --task "
            "text-generation for a model that generates."
        )
    names = sorted({row.label for row in training.rows})
    if len(names) < 2:
        raise InvalidFileError(
            "training-data",
            f"{training.path} has one label only, {names[0]!r}; a classifier tells at least two apart. "
            "Give rows of other labels.",
        )
    _check_storable(names, training)
    if held_out is not None:
        _check_known(names, held_out)
    return tuple(names)


def majority(training: Data, held_out: Data) -> dict[str, float | str]:
    """What always saying the training rows' most frequent label is worth.

    A head cannot be compared with none: without training there is nothing that answers.
    """
    counts = Counter(row.label for row in training.rows)
    label = min(counts, key=lambda name: (-counts[name], name))
    hits = sum(row.label == label for row in held_out.rows)
    return {"label": label, "accuracy": hits / len(held_out.rows)}


def _check_storable(names: list[str], training: Data) -> None:
    """Refuse before the training what no prompt file could hold after it."""

    def form(labels: Sequence[str]) -> None:
        head = {"head.weight": np.zeros((len(labels), 1), np.float32)}
        trial = Prompt(head, fingerprint="0" * 64, task="text-classification", labels=tuple(labels))
        format_prompt(trial)

    lines = {row.label: row.line for row in reversed(training.rows)}
    for name in names:
        try:
            form([name, f"not {name}"])
        except InvalidFileError as error:
            raise InvalidFileError(
                "training-data",
                f"{training.path}, line {lines[name]}: a prompt file cannot hold the label {name!r:.80} "
                f"({error}). Rename the label.",
            ) from error
    try:
        form(names)
    except InvalidFileError as error:
        raise InvalidFileError(
            "training-data",
            f"{training.path}: a prompt file cannot hold the names of its {len(names)} labels ({error}). "
            "Shorten the names.",
        ) from error


def _check_known(names: list[str], held_out: Data) -> None:
    unknown = [row for row in held_out.rows if row.label not in names]
    if not unknown:
        return
    shown = "".join(f"\n  line {row.line} {row.label!r}" for row in unknown[:_SHOWN])
    more = f"\n  and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    known = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    rows = "1 held-out row has" if len(unknown) == 1 else f"{len(unknown)} held-out rows have"
    raise InvalidFileError(
        "training-data",
        f"{held_out.path}: {rows} a label that no training row has; those have {known}. Correct the "
        f"labels, or train on rows of them, too.{shown}{more}",
    )
