"""What one family of encoders is described by."""

from dataclasses import dataclass

__all__ = ["EncoderFamily"]


@dataclass(frozen=True)
class EncoderFamily:
    """A family of encoders.

    Attributes:
        model_types: transformers' names of its models.
        extra_inputs: what its forward takes beside ids and mask, each (batch, sequence) int64.
        why_incomplete: what a checkpoint that lacks weights of the backbone is, for an error.
    """

    model_types: tuple[str, ...]
    extra_inputs: tuple[str, ...] = ()
    why_incomplete: str = ""
