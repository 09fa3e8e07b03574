"""What an encoder-decoder may generate next: its generation_config's rules, as transformers applies them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgept.decoding import Decoding

__all__ = ["apply_rules"]

Scores = npt.NDArray[np.float32]


def apply_rules(
    decoding: Decoding,
    scores: Scores,
    ids: Sequence[int],
    *,
    max_length: int,
    eos_token_ids: frozenset[int],
) -> Scores:
    """Scores with what may not come next at minus infinity.

    Meaning and order are those of transformers' logits processors.

    Args:
        decoding: of the bundle.
        scores: (vocabulary,) logits or log-probabilities; left as they are.
        ids: of the answer so far, its start token first.
        max_length: of the longest answer, the start token included.
        eos_token_ids: ids that end the answer.
    """
    scores = scores.copy()
    length, size = len(ids), decoding.no_repeat_ngram_size
    if 0 < size <= length:
        last = tuple(ids[length + 1 - size :])
        for begin in range(length + 1 - size):
            if tuple(ids[begin : begin + size - 1]) == last:
                scores[ids[begin + size - 1]] = -np.inf
    for *before, word in decoding.bad_words_ids:
        if not before or list(ids[-len(before) :]) == before:
            scores[word] = -np.inf
    if length < decoding.min_length or length - 1 < decoding.min_new_tokens:
        scores[list(eos_token_ids)] = -np.inf
    forced: list[int] = []
    if length == 1 and decoding.forced_bos_token_id is not None:
        forced = [decoding.forced_bos_token_id]
    if length == max_length - 1 and decoding.forced_eos_token_ids:
        forced = decoding.forced_eos_token_ids
    if forced:
        scores[:] = -np.inf
        scores[forced] = 0
    first = 1 if decoding.forced_bos_token_id is None else 2
    if length == first and decoding.begin_suppress_tokens:
        scores[decoding.begin_suppress_tokens] = -np.inf
    return scores
