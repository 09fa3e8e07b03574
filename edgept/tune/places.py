"""Where a run writes: the prompt file and what stands beside it."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from edgept.errors import UsageError

__all__ = ["Places"]

_TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Places:
    """The files of a run.

    Attributes:
        output: the prompt file.
        record: all that happened, in JSON.
        curve: the PNG.
        checkpoint: of an unfinished run.
    """

    output: Path
    record: Path
    curve: Path
    checkpoint: Path

    @classmethod
    def of(cls, output: str | PathLike[str]) -> "Places":
        """The files of a run that is to write this prompt.

        Raises:
            UsageError: the name does not end in .safetensors, or its folder is not there.
        """
        path = Path(output)
        if path.suffix != ".safetensors":
            raise UsageError(
                f"{path}: a prompt file's name ends in .safetensors. Write -o {path.name or 'prompt'}"
                ".safetensors."
            )
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent}. Make it first.")
        return cls(
            path, *(path.with_suffix(f".tune.{end}") for end in ("json", "png", "checkpoint"))
        )

    @property
    def name(self) -> str:
        """The prompt file's name without its ending."""
        return self.output.stem

    def prompts(self, tasks: Sequence[str]) -> tuple[Path, ...]:
        """The prompt file of each task: `support.safetensors`, or `support-german.safetensors`.

        Raises:
            UsageError: a task's name cannot be a file's.
        """
        if len(tasks) == 1:
            return (self.output,)
        if wrong := [task for task in tasks if not _TASK_NAME.fullmatch(task)]:
            raise UsageError(
                f"the task name {wrong[0]!r} is part of a file name: expected letters, digits, and . _ - "
                "within. Name every row's task so."
            )
        return tuple(
            self.output.with_name(f"{self.name}-{task}{self.output.suffix}") for task in tasks
        )

    def check(self, targets: Sequence[Path], *, resume: bool, force: bool) -> None:
        """Refuse to overwrite anything that nobody gave up.

        Raises:
            UsageError: a prompt file is there, or the checkpoint of an unfinished run.
        """
        if force and not resume:
            self.checkpoint.unlink(missing_ok=True)
        elif self.checkpoint.exists():
            if not resume:
                raise UsageError(
                    f"{self.checkpoint} is the checkpoint of an unfinished run. Go on with --resume, or "
                    "start over with --force."
                )
            return
        there = [path for path in targets if path.exists()]
        if there and not (force or resume):
            raise UsageError(
                f"{there[0]} exists already. Choose another name, or replace it with --force."
            )

    def finished(self, targets: Sequence[Path], run: dict[str, Any]) -> dict[str, Any] | None:
        """The record of this very run where it is finished, else None.

        Raises:
            UsageError: the prompt file is there, and is another run's.
        """
        if self.checkpoint.exists() or not any(path.exists() for path in targets):
            return None
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            record = None
        if (
            isinstance(record, dict)
            and record.get("run") == run
            and all(path.exists() for path in targets)
        ):
            return record
        raise UsageError(
            f"{targets[0]} exists already and is not this run's, so there is nothing to resume. Choose "
            "another name, or replace it with --force."
        )
