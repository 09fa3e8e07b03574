"""What a run teaches: its data, the model that they are for, and how both are put together."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from edgept.prompt import Prompt
from edgept.tune.backbone import Backbone
from edgept.tune.device_bundle import DeviceBundle
from edgept.tune.evaluate import Validation
from edgept.tune.job import Job
from edgept.tune.learner import Learner
from edgept.tune.settings import Settings

__all__ = ["Course"]


class Course(Protocol):
    """The part of a run that differs between text and pictures; `tune` is the rest.

    Attributes:
        settings: of the run.
        tasks: names of multitask prompt tuning's tasks, else one, "".
        training: the rows to learn from, with `sha256`.
        held_out: those to validate on; None without.
    """

    settings: Settings
    tasks: list[str]
    training: Any
    held_out: Any

    def settle(self, backbone: Backbone, bundle: DeviceBundle | None) -> None:
        """Refuse what cannot be learnt with this model, or run on this bundle, before anything is read.

        Args:
            backbone: the frozen model.
            bundle: to measure the prompt on; None without.

        Raises:
            UsageError: the method, or the data, are not for the model.
            IncompatibleError: the bundle, or the prompt to begin from, is another model's.
        """

    def make_job(self) -> Job:
        """Read the rows as the model takes them, and decide how long and how fast they are learnt.

        Raises:
            InvalidFileError: rows cannot be used; each is named.
            UsageError: the model has no room for them.
        """

    def opened(self) -> AbstractContextManager[None]:
        """The model as it is trained, and as it was again behind the block."""

    def learner(self, job: Job) -> Learner:
        """A fresh prompt and head for the model, or those that the run begins from."""

    def baseline(self, job: Job) -> dict[str, Any]:
        """What the run is to be compared with: without_prompt and majority, each or None."""

    def measure(
        self,
        bundle: str,
        job: Job,
        prompts: Sequence[Prompt],
        first: Sequence[Prompt],
        reference: Validation,
    ) -> dict[str, Any]:
        """The prompts on the bundle.

        Args:
            bundle: its folder.
            job: what was trained.
            prompts: the best ones.
            first: those that the run began from.
            reference: what PyTorch found of the best ones.
        """
