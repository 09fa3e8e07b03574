"""Perplexity: how well a model expects a text."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgept.errors import UsageError

__all__ = ["PERPLEXITY_WINDOW", "perplexity"]

PERPLEXITY_WINDOW = 512


def perplexity(
    ids: npt.NDArray[np.int64],
    window: int,
    logits: Callable[[list[int]], npt.NDArray[np.float32]],
) -> float:
    """Perplexity of token ids, in windows, each with its first token given.

    Args:
        ids: (tokens,)
        window: longest stretch that is run at once.
        logits: from token ids to logits (tokens, vocabulary).

    Raises:
        UsageError: there are fewer than two tokens.
    """
    losses: list[npt.NDArray[np.float64]] = []
    for begin in range(0, len(ids) - 1, window):
        chunk = ids[begin : begin + window]
        if len(chunk) < 2:
            break
        # a prompt whose rows are run has logits of its own in front
        scores = logits(chunk.tolist())[-len(chunk) : -1].astype(np.float64)
        scores -= scores.max(axis=1, keepdims=True)
        chosen = scores[np.arange(len(chunk) - 1), chunk[1:]]
        losses.append(np.log(np.exp(scores).sum(axis=1)) - chosen)
    if not losses:
        raise UsageError("perplexity needs a text of at least two tokens; give a longer one.")
    return math.exp(float(np.concatenate(losses).mean()))
