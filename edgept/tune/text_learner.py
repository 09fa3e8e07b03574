"""A prompt for text, learnt: peft's model over padded batches of token ids."""

from collections.abc import Sequence
from typing import Any

from edgept.tune.batches import Batch, make_batch
from edgept.tune.classify import classifier_loss, validate_classifier
from edgept.tune.evaluate import Validation, validate
from edgept.tune.job import Job
from edgept.tune.methods import export_tensors, inputs

__all__ = ["TextLearner"]


class TextLearner:
    """See `Learner`.

    Args:
        job: what is to be trained.
        adapted: the peft model; to train a head alone, the model.
    """

    unit = "tokens"

    def __init__(self, job: Job, adapted: Any) -> None:
        self.job, self.module = job, adapted

    def make_batch(self, rows: Sequence[int], begin: int) -> Batch:  # noqa: ARG002 - nothing is random
        """The rows, padded to the longest."""
        return make_batch([self.job.examples[row] for row in rows], self.job.backbone.device)

    def weigh(self, batch: Batch) -> int:
        """Rows of a class, or the answers' tokens: each counts the same, however rows are divided."""
        return len(batch["classes"]) if self.job.labels else int((batch["labels"] != -100).sum())

    def count(self, batch: Batch) -> int:
        """Tokens of text, padding left out."""
        return int(batch["attention_mask"].sum())

    def loss(self, batch: Batch) -> Any:
        """Mean cross-entropy of the batch's classes, or of its answers' tokens."""
        if self.job.labels:
            return classifier_loss(self.module, batch, self.job.settings)
        return self.module(**inputs(batch, self.module, self.job.settings, labels=True)).loss

    def validate(self, step: int) -> Validation:
        """On the held-out rows."""
        job = self.job
        given = (step, job.backbone, self.module, job.settings, job.held_out)
        return validate_classifier(*given, job.labels) if job.labels else validate(*given, job.kind)

    def export(self) -> list[dict[str, Any]]:
        """The prompt of each task, and a classifier's head with each."""
        return export_tensors(self.module, self.job.settings)
