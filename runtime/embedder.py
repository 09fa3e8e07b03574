"""Feature extraction: a text or a picture as one vector, pooled and normalised as the model's makers say."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgept.latency import Latency
from edgept.runtime.forward import Output
from edgept.runtime.vision import Seen

__all__ = ["Embedding", "to_embedding", "to_image_embedding"]

# Below this length a vector is not made longer, as in PyTorch's normalize.
_SHORTEST = 1e-12


@dataclass(frozen=True, eq=False)
class Embedding:
    """A text or a picture as a vector. numpy takes it as one: `np.array(model.embed_batch(...))` is (texts, hidden).

    Attributes:
        vector: (hidden,) float32, of a picture (head_size,); of length 1 where the bundle normalises.
        prompt: name of the prompt in front; None for the plain model.
        truncated: tokens of the text that were cut off to fit; 0 of a picture.
        latency: how long each phase took; prefill is the run.
    """

    vector: npt.NDArray[np.float32]
    prompt: str | None
    truncated: int
    latency: Latency

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.vector, dtype) if copy else np.asarray(self.vector, dtype)


def to_embedding(output: Output, pooling: str, *, normalize: bool) -> Embedding:
    """Pool the hidden states (virtual + text tokens, hidden) of a text.

    As under peft, a prompt's virtual tokens are positions like others: they are in the mean, and the
    first of them is the one that "cls" reads.

    Args:
        output: of the request.
        pooling: "mean" over all positions, or "cls", the first one.
        normalize: divide by the Euclidean length.
    """
    states = output.values
    # not mean() and linalg.norm: they are Python, and a tenth of a millisecond where nothing is in a cache
    if pooling == "cls":
        vector = states[0].copy()
    else:
        vector = np.add.reduce(states, 0) / np.float32(len(states))
    if normalize:
        vector /= _length(vector)
    return Embedding(vector, output.prompt, output.truncated, output.latency)


def to_image_embedding(seen: Seen, *, normalize: bool) -> Embedding:
    """A picture's own vector, the first of its features (1 + virtual tokens + patches, head_size)."""
    vector = seen.values["features"][0].copy()
    if normalize:
        vector /= _length(vector)
    return Embedding(vector, seen.prompt, 0, seen.latency)


def _length(vector: npt.NDArray[np.float32]) -> float:
    return max(math.sqrt(vector @ vector), _SHORTEST)
