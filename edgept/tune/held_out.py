"""Which rows train and which are held out, and of what tasks they are."""

import os
from dataclasses import replace
from typing import Any, TypeVar

import torch

from edgept.errors import UsageError
from edgept.tune.data import Data, read_data
from edgept.tune.settings import Settings

__all__ = ["read_training", "split_rows", "task_names"]

Rows = TypeVar("Rows", bound=Any)  # Data or PictureData


def read_training(
    data: str | os.PathLike[str], evaluation: str | os.PathLike[str] | None, settings: Settings
) -> tuple[Data, Data | None]:
    """Training rows and held-out rows, from two files or from one; None where there are none.

    Raises:
        UsageError: a file is not there, the two differ in kind, or the split leaves nothing.
        InvalidFileError: rows are malformed.
    """
    training = read_data(data, settings.columns)
    if evaluation is not None:
        held_out = read_data(evaluation, settings.columns)
        if held_out.kind != training.kind:
            raise UsageError(
                f"{data} has rows of the kind {training.kind}, {evaluation} of the kind {held_out.kind}. "
                "Give both the same columns."
            )
        return training, held_out
    return split_rows(training, settings)


def split_rows(data: Rows, settings: Settings) -> tuple[Rows, Rows | None]:
    """Rows to learn from and held-out ones by `Settings.eval_split`; None where it is.

    Raises:
        UsageError: the split leaves nothing.
    """
    if settings.eval_split is None:
        return data, None
    count = round(settings.eval_split * len(data.rows))
    if not 0 < count < len(data.rows):
        raise UsageError(
            f"--eval-split {settings.eval_split} of {len(data.rows)} rows leaves none for training or "
            "none for validation. Give --eval, or another share."
        )
    generator = torch.Generator().manual_seed(settings.seed)
    chosen = set(torch.randperm(len(data.rows), generator=generator)[:count].tolist())

    def part(*, held_out: bool) -> Any:
        rows = tuple(row for at, row in enumerate(data.rows) if (at in chosen) == held_out)
        return replace(data, rows=rows)

    return part(held_out=False), part(held_out=True)


def task_names(settings: Settings, training: Data, held_out: Data | None) -> list[str]:
    """The names of multitask prompt tuning's tasks, in the order of their indices; else one, "".

    Raises:
        UsageError: held-out rows are of a task that nothing trains.
    """
    if settings.method != "multitask":
        return [""]
    names = sorted({row.task for row in training.rows})
    unknown = {row.task for row in held_out.rows} - {*names} if held_out else set()
    if unknown:
        raise UsageError(
            f"the held-out rows are of the task {min(unknown)!r}, which no training row is of; those are of "
            f"{', '.join(map(repr, names))}. Use the same names."
        )
    return names
