"""All that happened in a run, as its JSON file keeps it, and what tells two runs apart."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import peft
import torch
import transformers

from edgept import __version__
from edgept.prompt import Prompt
from edgept.prompt_file import format_prompt
from edgept.tune.backbone import Backbone
from edgept.tune.checkpoint import State
from edgept.tune.job import Job
from edgept.tune.settings import Settings

__all__ = ["identify", "make_record"]


def identify(
    settings: Settings,
    training: Any,
    held_out: Any,
    backbone: Backbone,
    start: str | None = None,
    weights: str | None = None,
) -> dict[str, Any]:
    """What decides a run's result, to be compared when it goes on.

    Args:
        settings: of the run.
        training: Data or PictureData to learn from.
        held_out: the same to validate on; None without.
        backbone: the frozen model.
        start: SHA-256 of the prompt that the run begins from; None where it begins from none.
        weights: SHA-256 of the bundle whose weights it is trained against; None of its own.
    """
    return {
        "settings": {**asdict(settings), "labels": list(settings.labels)},  # as JSON gives it back
        "train_sha256": training.sha256,
        "eval_sha256": held_out.sha256 if held_out else None,
        "fingerprint": backbone.fingerprint,
        "start_sha256": start,
        "weights_sha256": weights,
        "precision": backbone.precision,
        "device": backbone.device.type,
    }


def make_record(
    job: Job,
    state: State,
    prompts: Sequence[Prompt],
    run: dict[str, Any],
) -> dict[str, Any]:
    """All that happened, as JSON takes it."""
    best = state.best_validation
    if state.diverged:
        ended = "diverged"
    else:
        ended = "finished" if state.step == job.steps else "stopped early"
    return {
        "created_by": f"edgept {__version__}",
        "name": job.settings.name or prompts[0].name,
        "model": job.backbone.source.name,
        "run": run,
        "settings": {
            **asdict(job.settings),
            "labels": list(job.settings.labels),
            "task": job.task,
            "virtual_tokens": job.settings.prompt_length,
            "learning_rate": job.rate,
            "head_learning_rate": job.head_rate or None,
            "init": ":".join(part for part in job.settings.initial() if part),
            "steps": job.steps,
        },
        "rows": {"kind": job.kind, "train": len(job.examples), "eval": len(job.held_out)},
        "labels": list(job.labels),
        "prompts": [
            {
                "name": prompt.name,
                "virtual_tokens": prompt.num_virtual_tokens,
                "bytes": len(format_prompt(prompt)),
            }
            for prompt in prompts
        ],
        "ended": ended,
        "step": state.step,
        "best_step": state.step if best is None else best.step,
        "best": None if best is None else asdict(best),
        "without_prompt": None,
        "majority": None,
        "trained_against": {"weights": "float"},
        "bundle": None,
        "warnings": [*state.warnings.values()],
        "pictures" if job.picture_task else "tokens": state.tokens,
        "seconds": round(state.seconds, 3),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
            "numpy": np.__version__,
            "threads": torch.get_num_threads(),
        },
        "validations": [asdict(found) for found in state.validations],
        "losses": state.losses,
        "learning_rates": state.learning_rates,
        "gradient_norms": state.gradient_norms,
    }
