"""The classes of a classification task: named by the training rows, and by nothing else."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgept.errors import InvalidFileError, UsageError
from edgept.prompt import Prompt
from edgept.prompt_file import format_prompt
from edgept.tune.data import Data

__all__ = ["check_known", "check_split", "check_storable", "label_names", "majority"]

_SHOWN = 20


def label_names(training: Data, held_out: Data | None) -> tuple[str, ...]:
    """Names of the classes, sorted; their indices are those of the head's rows.

    Raises:
        UsageError: the rows have no labels, or a split leaves one to the held-out rows alone.
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
    check_split(names, training, held_out)
    if len(names) < 2:
        raise InvalidFileError(
            "training-data",
            f"{training.path} has one label only, {names[0]!r}; a classifier tells at least two apart. "
            "Give rows of other labels.",
        )
    lines = {row.label: f"line {row.line}" for row in reversed(training.rows)}
    check_storable(names, training.path, lines)
    if held_out is not None:
        unknown = [
            f"line {row.line} {row.label!r}" for row in held_out.rows if row.label not in names
        ]
        check_known(names, held_out.path, unknown)
    return tuple(names)


def majority(training: Any, held_out: Any) -> dict[str, float | str]:
    """What always saying the training rows' most frequent label is worth.

    A head cannot be compared with none: without training there is nothing that answers.

    Args:
        training: Data, or PictureData with classes.
        held_out: the same.
    """
    counts = Counter(row.label for row in training.rows)
    label = min(counts, key=lambda name: (-counts[name], name))
    hits = sum(row.label == label for row in held_out.rows)
    return {"label": label, "accuracy": hits / len(held_out.rows)}


def check_split(names: Sequence[str], training: Any, held_out: Any) -> None:
    """Refuse a share of the rows, split off, that has all of a label, which nothing would learn then.

    Args:
        names: of the labels that training rows have.
        training: Data, or PictureData with classes.
        held_out: the same; None without.

    Raises:
        UsageError: with the label.
    """
    if held_out is None or held_out.path != training.path:
        return
    if lone := {row.label for row in held_out.rows} - {*names}:
        raise UsageError(
            f"--eval-split puts all rows of the label {min(lone)!r} among the held-out ones, so that nothing "
            "learns it. Give --eval, another share, or another --seed."
        )


def check_storable(names: Sequence[str], path: str, places: Mapping[str, str]) -> None:
    """Refuse before the training what no prompt file could hold after it.

    Args:
        names: of the classes.
        path: of the data.
        places: where the data have a name: "line 7".

    Raises:
        InvalidFileError: with the name, or with their number.
    """

    def form(labels: Sequence[str]) -> None:
        head = {"head.weight": np.zeros((len(labels), 1), np.float32)}
        trial = Prompt(head, fingerprint="0" * 64, task="text-classification", labels=tuple(labels))
        format_prompt(trial)

    for name in names:
        try:
            form([name, f"not {name}"])
        except InvalidFileError as error:
            raise InvalidFileError(
                "training-data",
                f"{path}, {places.get(name, 'its classes')}: a prompt file cannot hold the label {name!r:.80} "
                f"({error}). Rename the label.",
            ) from error
    try:
        form(names)
    except InvalidFileError as error:
        raise InvalidFileError(
            "training-data",
            f"{path}: a prompt file cannot hold the names of its {len(names)} labels ({error}). "
            "Shorten the names.",
        ) from error


def check_known(names: Sequence[str], path: str, unknown: Sequence[str]) -> None:
    """Refuse held-out rows of classes that nothing trains.

    Args:
        names: of the classes that are trained.
        path: of the held-out rows.
        unknown: rows of other classes, "line 7 'cat'".

    Raises:
        InvalidFileError: there are some; each is named.
    """
    if not unknown:
        return
    shown = "".join(f"\n  {row}" for row in unknown[:_SHOWN])
    more = f"\n  and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    known = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    rows = "1 held-out row has" if len(unknown) == 1 else f"{len(unknown)} held-out rows have"
    raise InvalidFileError(
        "training-data",
        f"{path}: {rows} a label that no training row has; those have {known}. Correct the "
        f"labels, or train on rows of them, too.{shown}{more}",
    )
