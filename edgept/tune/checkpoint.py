"""The state of an unfinished run, on disk whole or not at all."""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from edgept import atomic
from edgept.errors import InvalidFileError, UsageError
from edgept.tune.evaluate import Validation

__all__ = ["State", "load_checkpoint", "restore", "save_checkpoint"]

_FORMAT = 1


@dataclass
class State:
    """How far a run has come. What is not here follows from the settings and the step.

    Attributes:
        step: updates of the prompt that are done; with the seed, also the position in the data.
        losses: of each step.
        gradient_norms: of each step, before clipping.
        learning_rates: of each step.
        validations: so far, the first one at step 0.
        best: the prompt's tensors, a dict for every task, at the validation with the lowest loss.
        tokens: of text that were learnt from, padding left out.
        seconds: that the run took, interruptions left out.
        diverged: whether a loss or a gradient was not finite.
        warnings: given so far, by their kind.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)
    best: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    diverged: bool = False
    warnings: dict[str, str] = field(default_factory=dict)

    @property
    def best_validation(self) -> Validation | None:
        """The validation with the lowest loss, the earliest of equal ones."""
        return min(self.validations, key=lambda found: found.loss, default=None)


def save_checkpoint(
    path: Path, run: dict[str, Any], state: State, adapted: Any, optimizer: Any, schedule: Any
) -> None:
    """Write all that a run needs to go on as if nothing had been.

    Args:
        path: the file; replaced atomically.
        run: what identifies the run: settings, data, model.
        state: of the run.
        adapted: the peft model; only what is trained is saved.
        optimizer: of the prompt.
        schedule: of the learning rate.
    """
    content = {
        "format": _FORMAT,
        "run": run,
        "state": {
            **vars(state),
            "validations": [vars(found) for found in state.validations],
            "best": [
                {name: torch.from_numpy(array) for name, array in tensors.items()}
                for tensors in state.best
            ],
        },
        "prompt": {name: value.detach() for name, value in _trained(adapted).items()},
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    atomic.write_bytes(path, buffer.getvalue(), overwrite=True)


def load_checkpoint(path: str | os.PathLike[str], run: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint of this very run.

    Args:
        path: the file.
        run: what identifies the run.

    Raises:
        InvalidFileError: the file is no checkpoint.
        UsageError: it is of a run with other settings, data or model.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds, pickle's among them
        raise InvalidFileError(
            "checkpoint", f"{path} is no checkpoint: {error}. Start over with --force."
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InvalidFileError(
            "checkpoint",
            f"{path} is a checkpoint of another edgept version. Start over with --force.",
        )
    found: dict[str, Any] = content["run"]
    different = [
        f"{key} {found.get(key)!r} there, {run.get(key)!r} here"
        for key in sorted({*run, *found})
        if run.get(key) != found.get(key)
    ]
    if different:
        raise UsageError(
            f"{path} belongs to another run: {'; '.join(different)[:400]}. Give the same options as then, "
            "or start over with --force."
        )
    return content


def restore(content: dict[str, Any], adapted: Any, optimizer: Any, schedule: Any) -> State:
    """Put a checkpoint's content back in place."""
    with torch.no_grad():
        for name, parameter in _trained(adapted).items():
            parameter.copy_(content["prompt"][name])
    optimizer.load_state_dict(content["optimizer"])
    schedule.load_state_dict(content["schedule"])
    torch.set_rng_state(content["random"])
    if content["random_cuda"]:
        torch.cuda.set_rng_state_all(content["random_cuda"])
    state = dict(content["state"])
    state["validations"] = [Validation(**found) for found in state["validations"]]
    state["best"] = [
        {name: tensor.numpy() for name, tensor in tensors.items()} for tensors in state["best"]
    ]
    return State(**state)


def _trained(adapted: Any) -> dict[str, Any]:
    return {
        name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad
    }
