"""Beam search over one request: which continuations are kept, and when it ends, as in transformers 5.

What transformers calls a batch item is one `Beams` here; rows of a batch do not influence each other
there either. Numbers are float32 as they are there, the large negative ones included, which mark what is
out of the running.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgept.errors import EdgeptError, UsageError

__all__ = ["BeamOptions", "Beams", "log_probabilities"]

Scores = npt.NDArray[np.float32]

_OUT = np.float32(-1e9)


@dataclass(frozen=True)
class BeamOptions:
    """How beams are searched; None takes what the model's own generation_config says.

    Attributes:
        num_beams: kept at every step; 1 is greedy.
        length_penalty: exponent of the length by which a score is divided; above 0 favours long answers.
        early_stopping: True ends once there are num_beams whole answers; False once no better one is
            likely; "never" once none is possible.

    Raises:
        UsageError: a value is out of its range.
    """

    num_beams: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None

    def __post_init__(self) -> None:
        beams, penalty = self.num_beams, self.length_penalty
        if beams is not None and (type(beams) is not int or not 1 <= beams <= 64):
            raise UsageError(
                f"num_beams is {beams!r}, expected a whole number from 1 (greedy) to 64."
            )
        if penalty is not None and (
            isinstance(penalty, bool)
            or not isinstance(penalty, (int, float))
            or not np.isfinite(penalty)
        ):
            raise UsageError(
                f"length_penalty is {penalty!r}, expected a number; 1 is the usual one."
            )
        if self.early_stopping not in (None, True, False, "never"):
            raise UsageError(
                f"early_stopping is {self.early_stopping!r}, expected True, False or 'never'."
            )

    @property
    def given(self) -> list[str]:
        """Names of the options that a caller chose."""
        return [name for name, value in vars(self).items() if value is not None]


def log_probabilities(logits: Scores) -> Scores:
    """Log-softmax over the last axis.

    Raises:
        EdgeptError: a logit is NaN or +infinity, or all of a row are -infinity.
    """
    highest = logits.max(-1, keepdims=True)
    if not np.isfinite(highest).all():
        raise EdgeptError(
            "the model's logits are not finite. The prompt or the graph overflows its float type: check "
            "the prompt with 'edgept prompt inspect', or export the model with a wider precision (fp32)."
        )
    shifted = logits - highest
    scores: Scores = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return scores


class Beams:
    """The beams of one request.

    Attributes:
        answers: of the beams that go on, best first: token ids without the start token.
        done: whether the search has ended.
    """

    def __init__(
        self,
        options: BeamOptions,
        *,
        max_new_tokens: int,
        eos_token_ids: frozenset[int],
        stops: Callable[[list[int]], bool],
    ) -> None:
        """Begin with one beam that counts.

        Args:
            options: all of them chosen.
            max_new_tokens: of the longest answer.
            eos_token_ids: ids that end an answer.
            stops: whether an answer is ended by its text.
        """
        if options.num_beams is None or options.length_penalty is None:
            raise AssertionError("the caller fills the options in")
        self._count, self._penalty = options.num_beams, options.length_penalty
        self._early = options.early_stopping
        self._most, self._eos, self._stops = max_new_tokens, eos_token_ids, stops
        self.answers: list[list[int]] = [[] for _ in range(self._count)]
        self._scores = np.full(self._count, _OUT, np.float32)
        self._scores[0] = 0  # or every beam would be the same
        self._ended: list[list[int]] = [[] for _ in range(self._count)]
        self._ended_scores = np.full(self._count, _OUT, np.float32)
        self._has_ended = np.zeros(self._count, np.bool_)
        self._may_improve = True
        self.done = False

    def advance(self, log_probs: Scores) -> npt.NDArray[np.int64]:
        """Take the next token of every beam.

        Args:
            log_probs: (beams, vocabulary), of what comes after each answer.

        Returns:
            (beams,) the beam that each of the new answers continues.
        """
        kept = max(2, 1 + len(self._eos)) * self._count
        total = (log_probs + self._scores[:, None]).reshape(-1)  # (beams · vocabulary,)
        best = _highest(total, kept)
        beams, tokens = np.divmod(best, log_probs.shape[1])
        scores = total[best]  # (kept,)
        answers = [
            [*self.answers[beam], int(token)] for beam, token in zip(beams, tokens, strict=True)
        ]
        length = len(answers[0])
        ends = np.array(
            [
                answer[-1] in self._eos or length >= self._most or self._stops(answer)
                for answer in answers
            ]
        )
        running = scores + _marked(ends)
        goes_on = _highest(running, self._count)
        self._collect(answers, scores, ends, length)
        self.answers = [answers[index] for index in goes_on]
        self._scores = running[goes_on]
        self._may_improve &= self._can_improve(length)
        all_ended = bool(self._has_ended.all()) and self._early is True
        self.done = not self._may_improve or all_ended or bool(ends.all())
        return beams[goes_on]

    def best(self) -> list[int]:
        """The best answer that has ended; where none has, the best one so far."""
        return self._ended[0] if self._has_ended[0] else self.answers[0]

    def _collect(
        self,
        answers: Sequence[list[int]],
        scores: Scores,
        ends: npt.NDArray[np.bool_],
        length: int,
    ) -> None:
        """Put answers that have just ended among the best ended ones."""
        just_ended = ends.copy()
        just_ended[self._count :] = False  # the others are there to go on with only
        final = scores / np.float32(length**self._penalty)
        if (bool(self._has_ended.all()) and self._early is True) or not self._may_improve:
            final = final + _OUT
        final = final + _marked(~just_ended)
        merged = np.concatenate([self._ended_scores, final])
        best = _highest(merged, self._count)
        every = [*self._ended, *answers]
        self._ended = [every[index] for index in best]
        self._ended_scores = merged[best]
        self._has_ended = np.concatenate([self._has_ended, just_ended])[best]

    def _can_improve(self, length: int) -> bool:
        """Whether the best beam may still pass the worst ended answer (transformers' heuristic)."""
        if self._early == "never" and self._penalty > 0:
            length = self._most
        best = self._scores[0] / np.float32(length**self._penalty)
        worst = np.where(self._has_ended, self._ended_scores.min(), _OUT)
        return bool((best > worst).any())


def _marked(out: npt.NDArray[np.bool_]) -> Scores:
    """What to add to scores so that those that are out of the running are."""
    return np.where(out, _OUT, np.float32(0))


def _highest(scores: Scores, count: int) -> npt.NDArray[np.int64]:
    """Indices of the highest scores, best first; of equals, the lower index first."""
    if count < scores.size:
        lowest = np.partition(scores, scores.size - count)[-count]
        above = np.flatnonzero(scores > lowest)
        level = np.flatnonzero(scores == lowest)[: count - above.size]
        candidates = np.sort(np.concatenate([above, level]))
    else:
        candidates = np.arange(scores.size)
    order = np.argsort(-scores[candidates], kind="stable")
    return candidates[order].astype(np.int64)
