"""Image classification: a picture's class, with the head that its prompt brings."""

from dataclasses import dataclass

from edgept.runtime.classified import Classified
from edgept.runtime.vision import Seen

__all__ = ["ImageClassification", "to_image_classification"]


@dataclass(frozen=True, eq=False)
class ImageClassification(Classified):
    """What a picture was found to be."""


def to_image_classification(seen: Seen) -> ImageClassification:
    """The class of a picture, from the logits at its own position."""
    logits = seen.values["logits"][0]  # (classes,)
    return ImageClassification.of(logits, seen.labels, seen.prompt, seen.latency)
