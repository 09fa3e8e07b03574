"""Image classification: a picture's class, with the head that its prompt brings."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgept.latency import Latency
from edgept.runtime.forward import softmax
from edgept.runtime.vision import Seen

__all__ = ["ImageClassification", "to_image_classification"]


@dataclass(frozen=True, eq=False)
class ImageClassification:
    """What a picture was found to be.

    Attributes:
        label: the most probable class.
        probability: of that class: softmax over the logits.
        labels: all classes, in the head's order.
        probabilities: one a class, in the same order.
        logits: (classes,) float32.
        prompt: name of the prompt; None for the plain model.
        latency: how long each phase took; prefill is the run.
    """

    label: str
    probability: float
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    logits: npt.NDArray[np.float32]
    prompt: str | None
    latency: Latency


def to_image_classification(seen: Seen) -> ImageClassification:
    """The class of a picture, from the logits at its own position."""
    logits = seen.values["logits"][0]  # (classes,)
    probabilities = softmax(logits)
    best = int(logits.argmax())
    return ImageClassification(
        label=seen.labels[best],
        probability=float(probabilities[best]),
        labels=seen.labels,
        probabilities=tuple(probabilities.tolist()),
        logits=logits,
        prompt=seen.prompt,
        latency=seen.latency,
    )
