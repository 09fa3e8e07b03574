"""What one family of encoders is described by."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["EncoderFamily"]

_USUAL_HEADS = {
    "text-classification": ("classifier",),
    "token-classification": ("classifier",),
    "question-answering": ("qa_outputs",),
}


@dataclass(frozen=True)
class EncoderFamily:
    """A family of encoders; the defaults are what most families have.

    Attributes:
        model_types: transformers' names of its models.
        has_token_types: whether its models tell the texts of a pair apart by token_type_ids, (batch,
            sequence) int64; those of them do not whose config has no types.
        heads: by task, where they are not the usual ones, the linear layers that a prompt brings its own
            of, by their names in the transformers model: the last one; in front of it another one where
            the head has two, and peft trains both.
        has_pooler: whether its bare model has a layer over the first position, which is left out where
            vectors of texts are wanted: they are not made from it.
        skips_pads: whether positions count from behind the padding id, and skip padding where the model
            is given ids; where it is given embeddings, as under a prompt, it cannot see any.
        takes_prefix: whether transformers' forward takes keys and values that stand in front of the text,
            so that peft's prefix tuning and CARTRIDGE work; of the others peft refuses them, or, of bare
            models, ignores them.
        adds_mask: whether its attention adds the mask that it is given, (batch, 1, sequence, sequence), to
            the scores, so that it need not make one; not one that makes several, or its own.
        opset: of the graph. From 23 on attention is one operator: half to four fifths of the time of 512
            tokens.
        why_incomplete: what a checkpoint that lacks weights of the backbone is, for an error.
    """

    model_types: tuple[str, ...]
    has_token_types: bool = False
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    has_pooler: bool = False
    skips_pads: bool = False
    takes_prefix: bool = False
    adds_mask: bool = True
    opset: int = 23
    why_incomplete: str = ""

    def head_layers(self, task: str) -> tuple[str, ...]:
        """Names of the layers that are a task's head, in the order in which they compute."""
        return self.heads.get(task, _USUAL_HEADS.get(task, ()))
