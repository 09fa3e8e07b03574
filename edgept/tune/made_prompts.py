"""The prompts that a run leaves: what was trained, with a name and the model that it is for."""

from collections.abc import Sequence
from typing import Any

from edgept import __version__
from edgept.errors import InvalidFileError
from edgept.prompt import Prompt
from edgept.prompt_file import format_prompt
from edgept.tune.job import Job
from edgept.tune.methods import PEFT_NAMES
from edgept.tune.places import Places

__all__ = ["check_prompts", "make_prompts"]


def make_prompts(
    job: Job, places: Places, tasks: Sequence[str], trained: Sequence[dict[str, Any]]
) -> list[Prompt]:
    """The prompts that tensors make.

    Args:
        job: what is trained.
        places: of the run, whose name prompts have where the settings give none.
        tasks: names of multitask prompt tuning's tasks, else one, "".
        trained: the tensors of each task.
    """
    settings, backbone = job.settings, job.backbone
    name = settings.name or places.name
    return [
        Prompt(
            tensors=tensors,
            name=name if len(tasks) == 1 else f"{name}-{task}",
            method=PEFT_NAMES[settings.method],
            fingerprint=backbone.fingerprint,
            task=job.task,
            labels=job.labels,
            base_model=backbone.source.name,
            created_by=f"edgept {__version__}",
        )
        for task, tensors in zip(tasks, trained, strict=True)
    ]


def check_prompts(prompts: Sequence[Prompt]) -> None:
    """Refuse before the training what no prompt file could hold after it.

    Raises:
        InvalidFileError: with what is too much.
    """
    for prompt in prompts:
        try:
            format_prompt(prompt)
        except InvalidFileError as error:
            raise InvalidFileError(
                error.reason,
                f"no prompt file can hold the prompt {prompt.name[:80]!r}, of {prompt.num_virtual_tokens} "
                f"virtual tokens and {len(prompt.labels)} labels: {error} Lower --virtual-tokens, or change "
                "what is named.",
            ) from error
