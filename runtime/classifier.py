"""Text classification: a text's class, with the head that its prompt brings."""

from dataclasses import dataclass

from edgept.runtime.classified import Classified
from edgept.runtime.forward import Output

__all__ = ["Classification", "to_classification"]


@dataclass(frozen=True, eq=False)
class Classification(Classified):
    """What a text was found to be.

    Attributes:
        truncated: tokens of the text that were cut off to fit.
    """

    truncated: int


def to_classification(output: Output) -> Classification:
    """The class of a text, from its logits (classes,)."""
    return Classification.of(
        output.values, output.labels, output.prompt, output.latency, truncated=output.truncated
    )
