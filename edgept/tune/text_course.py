"""A run on text: rows of requests and answers, or of texts and their classes."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgept.bundle import read_manifest
from edgept.errors import UsageError
from edgept.export.dequantize import is_quantized
from edgept.prompt import Prompt
from edgept.tune.backbone import Backbone
from edgept.tune.bundle_weights import Replaced, bundle_weights
from edgept.tune.checkpoint import State
from edgept.tune.classify import check_method
from edgept.tune.device_check import check_bundle, measure_on_bundle
from edgept.tune.evaluate import validate
from edgept.tune.head import keep_head
from edgept.tune.held_out import read_training, task_names
from edgept.tune.job import Job, make_job
from edgept.tune.labels import label_names, majority
from edgept.tune.methods import adapt
from edgept.tune.settings import PICTURE_METHODS, PICTURE_TASKS, Settings
from edgept.tune.start import check_start, put_start, start_labels
from edgept.tune.text_learner import TextLearner

__all__ = ["TextCourse", "trained_against"]


class TextCourse:
    """See `Course`.

    Args:
        data: training rows, .jsonl or .csv.
        evaluation: held-out rows; None without.
        settings: of the run.
        start: the prompt to begin from; None without.

    Raises:
        UsageError: a file is not there, or the settings are for pictures.
        InvalidFileError: rows are malformed.
    """

    def __init__(
        self,
        data: str | os.PathLike[str],
        evaluation: str | os.PathLike[str] | None,
        settings: Settings,
        start: Prompt | None,
    ) -> None:
        _check_settings(settings)
        self.settings, self._start = settings, start
        self.training, self.held_out = read_training(data, evaluation, settings)
        self.tasks = task_names(settings, self.training, self.held_out)
        # what is wrong with labels is said at once where the task is known, not when the model is loaded
        classifies = settings.task == "text-classification"
        self._labels = label_names(self.training, self.held_out) if classifies else ()
        self.weights: str | None = None
        self._where: str | None = None
        self._backbone: Backbone

    def settle(self, backbone: Backbone, bundle: str | os.PathLike[str] | None) -> None:
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
            self._where = check_bundle(
                bundle, backbone.fingerprint, backbone.task, self.settings.prompt_length
            )
            if self.settings.weights == "bundle" and is_quantized(self._where):
                self.weights = self._where

    def make_job(self) -> Job:
        """Encode the rows."""
        return make_job(
            self._backbone, self.settings, self.training, self.held_out, self.tasks, self._labels
        )

    @contextmanager
    def opened(self) -> Iterator[dict[str, Any]]:
        """With the bundle's weights in the model, and any head."""
        with (
            bundle_weights(self._backbone.model, self.weights) as replaced,
            keep_head(self._backbone),
        ):
            yield trained_against(self.weights, replaced)

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
        self, job: Job, prompts: Sequence[Prompt], first: Sequence[Prompt], state: State
    ) -> dict[str, Any] | None:
        """The held-out rows on the bundle."""
        if self._where is None or state.best_validation is None:
            return None
        return measure_on_bundle(
            self._where,
            prompts,
            job.held_out,
            job.kind,
            job.settings.metric_rows,
            state.best_validation,
            job.labels,
            None if self._start is None else first,
        )


def _check_settings(settings: Settings) -> None:
    """Refuse what is for pictures alone."""
    for option, is_given in (
        (f"--method {settings.method}", settings.method in PICTURE_METHODS),
        (f"--task {settings.task}", settings.task in PICTURE_TASKS),
        ("--projection", settings.projection is not None),
        ("--template", settings.template is not None),
        ("--flip", settings.flip),
        ("--labels", bool(settings.labels)),
        ("--image-column", settings.columns.image != Settings().columns.image),
    ):
        if is_given:
            raise UsageError(
                f"{option} is for pictures, and the model reads text. Leave it out, or give an image model."
            )


def trained_against(weights: str | None, replaced: Replaced | None) -> dict[str, Any]:
    """What the record says of the weights. Activations are float in training, whatever the kernels do."""
    if weights is None or replaced is None:
        return {"weights": "float"}
    return {
        "weights": "bundle",
        "precision": read_manifest(Path(weights)).precision,
        "matrices": replaced.matrices,
        "relative_error": replaced.relative_error,
        "largest_error": replaced.largest_error,
        "activations": "float",
    }
