"""A run on text: rows of requests and answers, or of texts and their classes."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

from edgept.errors import UsageError
from edgept.prompt import Prompt
from edgept.tune.backbone import Backbone
from edgept.tune.classify import check_method
from edgept.tune.device_bundle import DeviceBundle
from edgept.tune.device_check import measure_on_bundle
from edgept.tune.evaluate import Validation, validate
from edgept.tune.head import keep_head
from edgept.tune.held_out import read_training, task_names
from edgept.tune.job import Job, make_job
from edgept.tune.labels import label_names, majority
from edgept.tune.methods import adapt
from edgept.tune.settings import Settings
from edgept.tune.start import check_start, put_start, start_labels
from edgept.tune.text_learner import TextLearner

__all__ = ["TextCourse"]


class TextCourse:
    """See `Course`.

    Args:
        data: training rows, .jsonl or .csv.
        evaluation: held-out rows; None without.
        settings: of the run, as `for_text` gives them.
        start: the prompt to begin from; None without.

    Raises:
        UsageError: a file is not there.
        InvalidFileError: rows are malformed.
    """

    def __init__(
        self,
        data: str | os.PathLike[str],
        evaluation: str | os.PathLike[str] | None,
        settings: Settings,
        start: Prompt | None,
    ) -> None:
        self.settings, self._start = settings, start
        self.training, self.held_out = read_training(data, evaluation, settings)
        self.tasks = task_names(settings, self.training, self.held_out)
        # what is wrong with labels is said at once where the task is known, not when the model is loaded
        classifies = settings.task == "text-classification"
        self._labels = label_names(self.training, self.held_out) if classifies else ()
        self._backbone: Backbone

    def settle(self, backbone: Backbone, bundle: DeviceBundle | None) -> None:
        """Check method, labels, the prompt to begin from, and the bundle."""
        if backbone.vision is not None:
            raise UsageError(
                f"{backbone.source.name} reads pictures, and {self.training.path} has rows of text. Give "
                "pictures, or a model that reads text."
            )
        check_method(backbone, self.settings)
        if backbone.task == "text-classification" and not self._labels:
            self._labels = label_names(self.training, self.held_out)
        self._labels = start_labels(self._start, self._labels)
        check_start(self._start, backbone, backbone.task)
        self._backbone = backbone
        if bundle is not None:
            bundle.check(backbone, backbone.task, self.settings.prompt_length)

    def make_job(self) -> Job:
        """Encode the rows."""
        return make_job(
            self._backbone, self.settings, self.training, self.held_out, self.tasks, self._labels
        )

    def opened(self) -> AbstractContextManager[None]:
        """With any head in the model."""
        return keep_head(self._backbone)

    def learner(self, job: Job) -> TextLearner:
        """The model under peft, with the prompt to begin from."""
        adapted = adapt(job.backbone, job.settings, job.examples, len(self.tasks), len(job.labels))
        if self._start is not None:
            put_start(adapted, self._start)
        return TextLearner(job, adapted)

    def baseline(self, job: Job) -> dict[str, Any]:
        """The model without a prompt; of a classifier the most frequent class."""
        found: dict[str, Any] = {"without_prompt": None, "majority": None}
        if self.held_out is None:
            return found
        if job.labels:
            found["majority"] = majority(self.training, self.held_out)
        else:
            plain = validate(0, job.backbone, None, job.settings, job.held_out, job.kind)
            found["without_prompt"] = asdict(plain)
        return found

    def measure(
        self,
        bundle: str,
        job: Job,
        prompts: Sequence[Prompt],
        first: Sequence[Prompt],
        reference: Validation,
    ) -> dict[str, Any]:
        """The held-out rows on the bundle."""
        return measure_on_bundle(
            bundle,
            prompts,
            job.held_out,
            job.kind,
            job.settings.metric_rows,
            reference,
            job.labels,
            None if self._start is None else first,
        )
