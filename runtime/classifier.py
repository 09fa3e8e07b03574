"""Text classification: a text's class, with the head that its prompt brings."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgept.latency import Latency
from edgept.runtime.forward import Output, softmax

__all__ = ["Classification", "to_classification"]


@dataclass(frozen=True, eq=False)
class Classification:
    """What a text was found to be.

    Attributes:
        label: the most probable class.
        probability: of that class: softmax over the logits.
        labels: all classes, in the head's order.
        probabilities: one a class, in the same order.
        logits: (classes,) float32.
        prompt: name of the prompt that brought the head, else of the one in front; None for the plain
            model.
        truncated: tokens of the text that were cut off to fit.
        latency: how long each phase took; prefill is the run.
    """

    label: str
    probability: float
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    logits: npt.NDArray[np.float32]
    prompt: str | None
    truncated: int
    latency: Latency


def to_classification(output: Output) -> Classification:
    """The class of a text, from its logits (classes,)."""
    probabilities = softmax(output.values)
    best = int(output.values.argmax())
    return Classification(
        label=output.labels[best],
        probability=float(probabilities[best]),
        labels=output.labels,
        probabilities=tuple(probabilities.tolist()),
        logits=output.values,
        prompt=output.prompt,
        truncated=output.truncated,
        latency=output.latency,
    )
