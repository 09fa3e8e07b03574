"""The tuned prompt on what will run it: the same held-out pictures, from their files, on an exported bundle."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from edgept.prompt import Prompt
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model, load
from edgept.tune.evaluate import Validation
from edgept.tune.job import Job
from edgept.tune.vision.validation import Outputs, finds_by_patches, score_pictures

__all__ = ["measure_pictures"]


def measure_pictures(
    bundle: str, prompt: Prompt, job: Job, reference: Validation, before: Prompt | None
) -> dict[str, Any]:
    """Validate the prompt on the bundle.

    Args:
        bundle: its folder.
        prompt: the best one.
        job: with the held-out pictures.
        reference: what PyTorch found on them.
        before: the prompt that the training began from, where it was somebody's.

    Returns:
        precision, loss, loss_without_prompt (None), metric; gap: the bundle's figures less PyTorch's;
        and before: loss and metric of the prompt that it began from, or None.
    """
    model = load(bundle)

    def measure(chosen: Prompt) -> tuple[float, dict[str, float]]:
        return score_pictures(job, _outputs(model, model.load_prompt(chosen), job))

    loss, metric = measure(prompt)
    first = None if before is None else dict(zip(("loss", "metric"), measure(before), strict=True))
    gap = {name: value - reference.metric[name] for name, value in metric.items()}
    return {
        "bundle": bundle,
        "precision": model.manifest.precision,
        "loss": loss,
        "loss_without_prompt": None,
        "metric": metric,
        "gap": {"loss": loss - reference.loss, **gap},
        "before": first,
    }


def _outputs(model: Model, prompt: LoadedPrompt, job: Job) -> Iterator[Outputs]:
    """What the graph gives for all held-out pictures, at the positions that the task reads."""
    count = prompt.num_virtual_tokens
    places = {
        "image-classification": slice(0, 1),
        "image-segmentation": slice(1 + count, None),
        "object-detection": slice(1, 1 + count),
    }[job.task]
    if finds_by_patches(job):
        places = slice(1 + count, None)
    size = job.settings.batch_size  # as in PyTorch, since a detection's loss is by its batch
    for begin in range(0, len(job.held_out), size):
        rows = [*range(begin, min(begin + size, len(job.held_out)))]
        requests = [(job.held_out.rows[row].picture, prompt) for row in rows]
        looks = model._look(requests, "see_batch", job.task, lambda _, seen: seen)
        seen = [look.values for look in looks]
        found = {
            name: torch.from_numpy(np.stack([values[name][places] for values in seen]))
            for name in seen[0]
        }
        targets = [job.held_out[row][1] for row in rows]
        yield rows, targets, found["logits"], found.get("boxes")
