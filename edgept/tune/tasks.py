"""Several tasks in one go: a file of tasks, one loaded model, and no task that stops the others.

    defaults:
      virtual_tokens: 16
      eval_split: 0.1
    tasks:
      spanish: {train: spanish.jsonl, description: "Answer in Spanish:"}
      intent:  {train: intent.csv, eval: intent-test.csv, method: prefix-tuning}

Keys are those of `Settings`, and `train` and `eval`, relative to the file.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from edgept.errors import EdgeptError, InvalidFileError, UsageError
from edgept.export.source import find_config
from edgept.tune.backbone import load_backbone
from edgept.tune.loop import Update
from edgept.tune.places import _TASK_NAME
from edgept.tune.settings import Settings
from edgept.tune.tuner import Tuned, tune

__all__ = ["Task", "read_tasks", "tune_tasks"]


@dataclass(frozen=True)
class Task:
    """One task of a file.

    Attributes:
        name: of the task, and of its prompt file.
        train: training rows.
        evaluation: held-out rows; None without.
        options: what `Settings` takes.
    """

    name: str
    train: Path
    evaluation: Path | None
    options: dict[str, Any]


def read_tasks(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Task]]:
    """Read a file of tasks.

    Returns:
        The defaults' options and the tasks, their own options merged into the defaults.

    Raises:
        UsageError: there is no such file.
        InvalidFileError: it is not YAML, or not of this form.
    """
    source = Path(path)
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}. Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidFileError("tasks", f"{source} is not YAML: {error}. Correct it.") from error
    if not isinstance(content, dict) or not set(content) <= {"defaults", "tasks"}:
        raise InvalidFileError(
            "tasks", f"{source}: expected a mapping of 'tasks', and of 'defaults' where wanted."
        )
    defaults, tasks = content.get("defaults") or {}, content.get("tasks")
    if not isinstance(defaults, dict) or not isinstance(tasks, dict) or not tasks:
        raise InvalidFileError(
            "tasks", f"{source}: expected 'tasks' to name at least one task with its options."
        )
    found = []
    for name, own in tasks.items():
        if not isinstance(name, str) or not _TASK_NAME.fullmatch(name):
            raise InvalidFileError(
                "tasks",
                f"{source}: the task name {name!r} is a file's name, too: letters, digits, and . _ - "
                "within are expected.",
            )
        options = {**defaults, **own} if isinstance(own, dict) else {}
        train, evaluation = options.pop("train", None), options.pop("eval", None)
        if not isinstance(train, str) or not isinstance(evaluation, str | None):
            raise InvalidFileError(
                "tasks", f"{source}: the task {name!r} needs 'train', a file; 'eval' is one, too."
            )
        folder = source.parent
        found.append(
            Task(name, folder / train, folder / evaluation if evaluation else None, options)
        )
    return {key: value for key, value in defaults.items() if key not in ("train", "eval")}, found


def tune_tasks(
    model: str,
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    bundle: str | os.PathLike[str] | None = None,
    resume: bool = False,
    force: bool = False,
    checkpoint_seconds: float = 15.0,
    report: Callable[[str, Update], object] = lambda *_: None,
) -> dict[str, Tuned | EdgeptError]:
    """Tune a prompt for every task of a file; one that fails does not stop the others.

    Args:
        model: local transformers folder or hub id, loaded once.
        path: the file of tasks.
        output: folder of the prompt files, made where it is not there.
        bundle: as in `tune`; the rest, too.
        resume: finished tasks are left, the interrupted one goes on, the others begin.
        force: replace what is there.
        checkpoint_seconds: at least so long between checkpoints.
        report: called with the task's name and what happens.

    Returns:
        What each task made, or the error that ended it, by name.

    Raises:
        UsageError: the file or the model cannot be used at all.
        InvalidFileError: the file is not of its form.
        ExportError: the model cannot be loaded.
    """
    defaults, tasks = read_tasks(path)
    shared = Settings.from_mapping(defaults)
    find_config(model)  # before a folder is made for what it is to learn
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make {folder}: {error.strerror}. Choose another.") from error
    backbone = load_backbone(
        model, task=shared.task, precision=shared.precision, device=shared.device
    )
    results: dict[str, Tuned | EdgeptError] = {}
    for task in tasks:
        try:
            results[task.name] = tune(
                backbone,
                task.train,
                folder / f"{task.name}.safetensors",
                Settings.from_mapping(task.options),
                evaluation=task.evaluation,
                bundle=bundle,
                resume=resume,
                force=force,
                checkpoint_seconds=checkpoint_seconds,
                report=partial(report, task.name),
            )
        except EdgeptError as error:
            results[task.name] = error
        except (RuntimeError, ValueError, ArithmeticError, LookupError, OSError) as error:
            # of PyTorch, transformers or peft; the tasks behind this one may be fine
            results[task.name] = EdgeptError(f"{type(error).__name__}: {error}")
    return results
