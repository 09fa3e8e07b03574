"""What is to be trained: a run's model, settings and encoded rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgept.errors import UsageError
from edgept.export.heads import find_layers
from edgept.tune.backbone import Backbone, silent
from edgept.tune.data import Data
from edgept.tune.encode import encode
from edgept.tune.head import feature_rms
from edgept.tune.settings import Settings

__all__ = ["Job", "make_job"]

_LONGEST_ROW = 1024  # by default; memory grows with it


@dataclass(frozen=True, eq=False)
class Job:
    """What is to be trained.

    Attributes:
        backbone: the frozen model.
        settings: of the run.
        examples: to learn from: rows of text, or pictures.
        held_out: to validate on; may be empty.
        kind: of the data.
        steps: updates of the prompt.
        rate: the highest learning rate of the prompt, or of a head alone.
        labels: names of a classifier's classes; empty where the model answers in words.
        head_rate: the highest learning rate of a classifier's head; 0 without one.
        picture_task: what is learnt of pictures, whose model is for any such task; else None.
    """

    backbone: Backbone
    settings: Settings
    examples: Any
    held_out: Any
    kind: str
    steps: int
    rate: float
    labels: tuple[str, ...] = ()
    head_rate: float = 0.0
    picture_task: str | None = None

    @property
    def task(self) -> str:
        """What the prompt is for, as transformers names it."""
        return self.picture_task or self.backbone.task


def make_job(
    backbone: Backbone,
    settings: Settings,
    training: Data,
    held_out: Data | None,
    tasks: Sequence[str],
    labels: tuple[str, ...],
) -> Job:
    """Encode the rows and decide how long and how fast they are learnt.

    Args:
        backbone: the frozen model.
        settings: of the run.
        training: rows to learn from.
        held_out: rows to validate on; None without.
        tasks: names of multitask prompt tuning's tasks, else one, "".
        labels: names of a classifier's classes, else none.

    Raises:
        UsageError: the model has no room for such rows behind the prompt.
        InvalidFileError: rows cannot be used; each is named.
    """
    room = backbone.max_positions - settings.prompt_length
    max_length = settings.max_length or min(room, _LONGEST_ROW)
    if not 2 <= max_length <= room:
        raise UsageError(
            f"rows of {max_length} tokens behind {settings.prompt_length} virtual tokens: "
            f"{backbone.source.name} takes sequences of {backbone.max_positions}, so at most {room} are "
            "left. Lower --max-length or --virtual-tokens."
        )

    def encoded(data: Data) -> Any:
        return encode(
            data,
            backbone.tokenizer,
            eos_token_ids=backbone.eos_token_ids,
            max_length=max_length,
            drop_long=settings.drop_long,
            tasks=tasks,
            labels=labels,
            is_seq2seq=backbone.source.is_seq2seq,
        )

    with silent():
        examples = encoded(training)
        rows = encoded(held_out) if held_out else []
        head_rate = 0.0
        if labels:
            num_layers = len(find_layers(backbone.model))
            head_rate = settings.head_rate(feature_rms(backbone, examples), num_layers)
    return Job(
        backbone,
        settings,
        examples,
        rows,
        training.kind,
        steps=settings.total_steps(len(examples)),
        rate=head_rate if settings.method == "head" else settings.rate(backbone.embedding_rms),
        labels=labels,
        head_rate=head_rate,
    )
