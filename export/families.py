"""What sets one family of encoders apart from another: one line each.

Decoder-only models need none: any that transformers has as a causal language model and as a sequence
classifier is tried.
"""

from dataclasses import dataclass

__all__ = ["ENCODERS", "EncoderFamily"]


@dataclass(frozen=True)
class EncoderFamily:
    """A family of encoders.

    Attributes:
        extra_inputs: what its forward takes beside ids and mask, each (batch, sequence) int64.
        why_incomplete: what a checkpoint that lacks weights of the backbone is, for an error.
    """

    extra_inputs: tuple[str, ...]
    why_incomplete: str


# By transformers' model_type.
ENCODERS = {
    "bert": EncoderFamily(
        extra_inputs=("token_type_ids",),
        why_incomplete="a checkpoint of masked language modelling alone has no pooler, which the head "
        "reads",
    ),
}
