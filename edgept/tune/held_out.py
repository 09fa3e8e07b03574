"""Which rows train and which are held out, and of what tasks they are."""

import os
from dataclasses import replace

import torch

from edgept.errors import UsageError
from edgept.tune.data import Data, Row, read_data
from edgept.tune.settings import Settings

__all__ = ["read_training", "task_names"]


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
    if settings.eval_split is None:
        return training, None
    count = round(settings.eval_split * len(training.rows))
    if not 0 < count < len(training.rows):
        raise UsageError(
            f"--eval-split {settings.eval_split} of {len(training.rows)} rows leaves none for training or "
            "none for validation. Give --eval, or another share."
        )
    generator = torch.Generator().manual_seed(settings.seed)
    chosen = set(torch.randperm(len(training.rows), generator=generator)[:count].tolist())

    def part(*, held_out: bool) -> tuple[Row, ...]:
        return tuple(row for at, row in enumerate(training.rows) if (at in chosen) == held_out)

    return replace(training, rows=part(held_out=False)), replace(training, rows=part(held_out=True))


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
