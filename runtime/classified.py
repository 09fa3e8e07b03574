"""What a head says of a text or a picture: its most probable class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from edgept.latency import Latency
from edgept.runtime.forward import softmax

__all__ = ["Classified"]


@dataclass(frozen=True, eq=False)
class Classified:
    """A class, and what speaks for each.

    Attributes:
        label: the most probable class.
        probability: of that class: softmax over the logits.
        labels: all classes, in the head's order.
        probabilities: one a class, in the same order.
        logits: (classes,) float32.
        prompt: name of the prompt that brought the head, else of the one in front; None for the plain
            model.
        latency: how long each phase took; prefill is the run.
    """

    label: str
    probability: float
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    logits: npt.NDArray[np.float32]
    prompt: str | None
    latency: Latency

    @classmethod
    def of(
        cls,
        logits: npt.NDArray[np.float32],
        labels: Sequence[str],
        prompt: str | None,
        latency: Latency,
        **more: Any,
    ) -> Self:
        """The class with the highest logit.

        Args:
            logits: (classes,).
            labels: names of the classes.
            prompt: see above.
            latency: see above.
            more: what else is said.
        """
        probabilities = softmax(logits)
        best = int(logits.argmax())
        return cls(
            label=labels[best],
            probability=float(probabilities[best]),
            labels=tuple(labels),
            probabilities=tuple(probabilities.tolist()),
            logits=logits,
            prompt=prompt,
            latency=latency,
            **more,
        )
