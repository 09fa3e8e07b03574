"""Whether what is measured is right: the same request under the same prompt has one answer."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Answer", "Answers", "Correctness", "are_alike"]

Answer: TypeAlias = npt.NDArray[Any]
"""One row: token ids, or what is found in a picture, as `edgept.bench.sightings.numbers` has it."""

_ROUNDING = 1e-3  # of the largest number; of scores and of boxes, which are shares, of 1


@dataclass(frozen=True)
class Correctness:
    """What was seen of the answers during the run. All decoding is greedy.

    Attributes:
        swaps_back: whether A → B → A gave the first answer again, token for token or bit for bit.
        prompts_matter: whether B's answer differs from A's; random prompts often change nothing.
        checked: answers that were compared with the first one under their prompt.
        different: of these, how many were another one.
        starts_equal: processes of their own whose first token, or class, was the same as here.
        starts: such processes.
        batch_rows: rows of the first batch; 0 without batches.
        batch_rows_equal: of these, those with the answer that they have alone.
    """

    swaps_back: bool
    prompts_matter: bool
    checked: int
    different: int
    starts_equal: int
    starts: int
    batch_rows: int
    batch_rows_equal: int

    @property
    def right(self) -> bool:
        """Whether no answer was wrong. Rows of a batch may round differently, so they only count."""
        return self.swaps_back and self.different == 0 and self.starts_equal == self.starts


class Answers:
    """Remembers the first answer under each prompt and counts those that differ from it."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, bool], Answer] = {}
        self.checked = self.different = 0

    def check(self, prompt: str, answer: Answer, *, batch: bool = False) -> None:
        """Compare with the first answer under this prompt; rows of a batch with rows of a batch."""
        first = self._first.setdefault((prompt, batch), answer)
        if first is not answer:
            self.checked += 1
            self.different += not np.array_equal(first, answer)


def are_alike(one: Answer, other: Answer) -> bool:
    """Whether token ids and labels are equal, and other numbers as near as those that were added in another order."""
    if one.shape != other.shape or one.dtype.kind == "i":
        return np.array_equal(one, other)
    if one.ndim == 2:  # detections: label, score and box
        same = np.array_equal(one[:, 0], other[:, 0])
        return same and bool(np.allclose(one[:, 1:], other[:, 1:], rtol=0, atol=_ROUNDING))
    largest = np.abs(one).max(initial=0.0)
    return bool(np.allclose(one, other, rtol=0, atol=_ROUNDING * largest))
