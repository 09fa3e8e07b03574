"""A run on pictures: a class for each, a class for each pixel, or boxes."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from typing import Any

import torch

from edgept.errors import InvalidFileError, UsageError
from edgept.export.class_head import PLAIN_TEMPLATE, TextTower, open_text_tower
from edgept.prompt import Prompt
from edgept.tune.backbone import Backbone
from edgept.tune.device_bundle import DeviceBundle
from edgept.tune.evaluate import Validation
from edgept.tune.job import Job
from edgept.tune.labels import majority
from edgept.tune.settings import Settings
from edgept.tune.start import check_start, start_labels
from edgept.tune.vision.context import ContextPrompt
from edgept.tune.vision.data import TASK_OF_KIND, read_picture_training
from edgept.tune.vision.device_check import measure_pictures
from edgept.tune.vision.learner import PictureLearner, read_features
from edgept.tune.vision.picture_labels import picture_labels
from edgept.tune.vision.rows import PictureData, malformed
from edgept.tune.vision.store import open_store
from edgept.tune.vision.visual_prompt import QueryPrompt, VisualPrompt, put_visual_start

__all__ = ["PictureCourse"]

_SAMPLED = 16  # pictures whose features say how fast a head learns


class PictureCourse:
    """See `Course`.

    Args:
        data: pictures, see `read_picture_data`.
        evaluation: held-out ones; None without.
        settings: of the run, as `for_pictures` gives them.
        start: the prompt to begin from; None without.

    Raises:
        UsageError: a file is not there, or the method is not for the task.
        InvalidFileError: the data are malformed.
    """

    def __init__(
        self,
        data: str | os.PathLike[str],
        evaluation: str | os.PathLike[str] | None,
        settings: Settings,
        start: Prompt | None,
    ) -> None:
        if start is not None and settings.projection is not None:
            raise UsageError(
                "a projection is folded into the prompt file, so a run that begins from one learns the rows "
                "themselves. Leave --projection out."
            )
        self.settings, self._start = settings, start
        self.training, self.held_out = read_picture_training(data, evaluation, settings)
        self.tasks = [""]
        self._task = TASK_OF_KIND[self.training.kind]
        self._labels = self._numbered = picture_labels(self.training, self.held_out)
        if settings.method == "coop" and self._task != "image-classification":
            raise UsageError(
                f"coop learns what classes of pictures are called, and {self.training.path} has "
                f"{self.training.kind}. Use --method vpt-deep."
            )
        self._backbone: Backbone
        self._texts: TextTower | None = None
        self._learner: PictureLearner

    def settle(self, backbone: Backbone, bundle: DeviceBundle | None) -> None:
        """Check the model, the prompt to begin from, and the bundle."""
        if backbone.vision is None:
            raise UsageError(
                f"{backbone.source.name} reads text, and {self.training.path} has pictures. Give an image model."
            )
        by_patches = backbone.vision.geometry.detects == "patches"
        if by_patches and self._task != "object-detection":
            raise UsageError(
                f"{backbone.source.name} finds things, and {self.training.path} has {self.training.kind}. Give "
                "pictures with boxes, or another model."
            )
        if self._task == "object-detection":
            _check_detection(self.settings, self.training, by_patches=by_patches)
        if self.settings.method == "coop":
            self._texts = open_text_tower(backbone.model, backbone.source.folder)
        check_start(self._start, backbone, self._task)
        self._labels = start_labels(self._start, self._labels)
        self._backbone = backbone
        if bundle is not None:
            bundle.check(backbone, self._task, self.settings.prompt_length)

    def make_job(self) -> Job:
        """Read all pictures."""
        settings, backbone = self.settings, self._backbone
        whole = self._task != "image-classification"
        examples, held_out = (
            open_store(
                data, self._labels, backbone.preprocessor, whole=whole, numbered=self._numbered
            )
            if data
            else None
            for data in (self.training, self.held_out)
        )
        if examples is None:
            raise AssertionError("there are always rows to learn from")
        job = Job(
            backbone,
            settings,
            examples,
            held_out or (),
            self.training.kind,
            steps=settings.total_steps(len(examples)),
            rate=0.0,
            labels=self._labels,
            picture_task=self._task,
        )
        if settings.method == "coop":
            return replace(job, rate=settings.rate(1.0))
        head_rate = settings.head_rate(_feature_rms(job))
        rate = head_rate if settings.method == "head" else settings.rate(1.0)
        return replace(job, rate=rate, head_rate=head_rate)

    def opened(self) -> AbstractContextManager[None]:
        """As it is: prompt and head are inputs of the model."""
        return nullcontext()

    def learner(self, job: Job) -> PictureLearner:
        """Random rows and a head, or those of the prompt to begin from."""
        settings, vision = job.settings, job.backbone.vision
        torch.manual_seed(settings.seed)
        if self._texts is not None:
            module: Any = ContextPrompt(
                self._texts, job.labels, settings.template, settings.virtual_tokens
            )
            self._learner = PictureLearner(job, module.to(job.backbone.device))
            return self._learner
        is_deep = settings.method == "vpt-deep"
        by_patches = vision.geometry.detects == "patches"
        make_module = QueryPrompt if by_patches else VisualPrompt
        module = make_module(
            layers=vision.geometry.num_layers if is_deep else 1,
            num_virtual_tokens=settings.prompt_length,
            hidden=vision.hidden_size,
            patch_size=vision.geometry.patch_size,
            num_labels=len(job.labels),
            head_size=vision.head_size,
            projection=settings.projection,
            finds_boxes=self._task == "object-detection" and not by_patches,
        )
        if self._start is not None:
            put_visual_start(module, self._start)
        self._learner = PictureLearner(job, module.to(job.backbone.device))
        return self._learner

    def baseline(self, job: Job) -> dict[str, Any]:
        """Always the most frequent class, where a picture has one; of CLIP, the classes by their names alone."""
        found: dict[str, Any] = {"without_prompt": None, "majority": None}
        if self.held_out is not None and job.kind == "classes":
            found["majority"] = majority(self.training, self.held_out)
            if self._texts is not None:
                templates = [job.settings.template or PLAIN_TEMPLATE]
                weight, bias = self._texts.of_classes(job.labels, templates)
                plain = self._learner.score(
                    0, lambda features: torch.nn.functional.linear(features, weight, bias)
                )
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
        """The held-out pictures on the bundle."""
        before = None if self._start is None else first[0]
        return measure_pictures(bundle, prompts[0], job, reference, before)


def _check_detection(settings: Settings, training: PictureData, *, by_patches: bool) -> None:
    """Each virtual token finds one object at most."""
    if not any(row.boxes for row in training.rows):
        raise InvalidFileError(
            "training-data", f"{training.path} has no box at all. Give pictures with objects."
        )
    if by_patches:
        return  # of which there are hundreds
    if not settings.prompt_length:
        raise UsageError(
            "each virtual token finds one object, and a head alone has none. Use --method vpt-deep, or "
            "vpt-shallow."
        )
    crowded = [
        f"{row.place} has {len(row.boxes)} objects"
        for row in training.rows
        if len(row.boxes) > settings.prompt_length
    ]
    if crowded:
        most = max(len(row.boxes) for row in training.rows)
        raise malformed(
            training.path,
            crowded,
            f"Each of {settings.prompt_length} virtual tokens finds one object at most: say "
            f"--virtual-tokens {most}, or more.",
        )


def _feature_rms(job: Job) -> float:
    """Root mean square of what the head reads of a few pictures without a prompt."""
    store = job.examples
    pixels = torch.stack([store[row][0] for row in range(min(_SAMPLED, len(store)))])
    task = (
        "image-segmentation" if job.task == "object-detection" else job.task
    )  # patches, as tokens
    plain = replace(job, picture_task=task)
    with torch.no_grad():
        features = read_features(plain, pixels.to(job.backbone.device), None)
    return float(features.square().mean().sqrt())
