"""From logits to the next token: greedy, or sampled as transformers' generate samples."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgept.errors import EdgeptError, UsageError

__all__ = ["Sampler", "Sampling"]

# Below this, float32 logits divided by the temperature may overflow, and the choice is greedy anyway.
_MIN_TEMPERATURE = 1e-3


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The defaults are greedy decoding.

    Meaning and order are those of transformers' logits processors: penalty, temperature, top-k,
    top-p. The random numbers are not: a seed gives other tokens here than it gives in torch.

    Attributes:
        temperature: divides the logits; 0 takes the most probable token (the lowest id of equals),
            and then `top_k`, `top_p` and `seed` have no effect.
        top_k: sample among this many most probable tokens; 0 among all.
        top_p: sample among the fewest most probable tokens that hold this much probability (nucleus
            sampling, Holtzman et al. 2020); 1 among all.
        repetition_penalty: above 1 makes tokens of the context less probable (Keskar et al. 2019).
        seed: the same seed gives the same tokens; None differs from run to run.

    Raises:
        UsageError: a value is out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        temperature = self.temperature
        if not _is_finite(temperature) or not (temperature == 0 or temperature >= _MIN_TEMPERATURE):
            raise UsageError(
                f"temperature is 0 (greedy) or at least {_MIN_TEMPERATURE}, found {temperature!r}. "
                "Values around 0.7 are common."
            )
        if not _is_count(self.top_k):
            raise UsageError(f"top_k is 0 (off) or a number of tokens, found {self.top_k!r}.")
        if not _is_finite(self.top_p) or not 0 <= self.top_p <= 1:
            raise UsageError(
                f"top_p is a probability from 0 to 1, found {self.top_p!r}. Pass 1 to turn it off."
            )
        if not _is_finite(self.repetition_penalty) or self.repetition_penalty <= 0:
            raise UsageError(
                f"repetition_penalty is above 0, found {self.repetition_penalty!r}. Pass 1 to turn it "
                "off; 1.1 is a mild penalty."
            )
        if self.seed is not None and not _is_count(self.seed):
            raise UsageError(
                f"seed is a whole number from 0 on, found {self.seed!r}. Pass None for a random one."
            )


def _is_finite(value: object) -> bool:
    return (
        isinstance(value, (int, float, np.number))
        and not isinstance(value, bool)
        and math.isfinite(float(value))
    )


def _is_count(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 0


class Sampler:
    """Chooses the tokens of one request; it holds the request's random state and tokens seen."""

    def __init__(self, sampling: Sampling, context_ids: Iterable[int] = ()) -> None:
        """Begin a request.

        Args:
            sampling: how to choose.
            context_ids: ids of the text so far, for the repetition penalty. Virtual tokens (ids from
                the vocabulary's size on) are ignored: they stand for no word that could repeat.
        """
        self._sampling = sampling
        # Greedy needs no random numbers, and loading numpy.random takes longer than a first token.
        self._random = None
        if sampling.temperature > 0:
            self._random = np.random.Generator(np.random.PCG64(sampling.seed))
        self._penalises = sampling.repetition_penalty != 1.0
        # Sized at the first token, when the vocabulary's size is known; nothing grows after that.
        self._context = np.fromiter(context_ids if self._penalises else (), dtype=np.int64)
        self._seen = np.zeros(0, dtype=np.bool_)  # (vocab,)
        self._scores = np.zeros(0, dtype=np.float32)  # (vocab,)

    def choose(self, logits: npt.NDArray[np.float32]) -> int:
        """The next token's id, which joins the context.

        Args:
            logits: (vocab,) float32, of the last position; left as they are.

        Raises:
            EdgeptError: no logit is a finite number, or one is NaN or +infinity.
        """
        if self._penalises:
            logits = self._penalise(logits)
        token = int(logits.argmax())  # numpy puts NaN above all, so this one look finds it
        if not math.isfinite(logits[token]):
            raise EdgeptError(
                f"the model's logits are not finite (token {token}: {logits[token]}). The prompt or "
                "the graph overflows its float type: check the prompt with 'edgept prompt inspect', or "
                "export the model with a wider precision (fp32)."
            )
        if self._random is not None:
            ids, probabilities = self._candidates(logits)
            steps = probabilities.cumsum()  # (candidates,)
            place = steps.searchsorted(self._random.random() * steps[-1], side="right")
            token = int(ids[min(int(place), len(ids) - 1)])
        if self._penalises:
            self._seen[token] = True
        return token

    def _penalise(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits with those of seen tokens lowered, in this sampler's own buffer, (vocab,)."""
        if self._seen.size != logits.size:
            self._scores = np.empty(logits.size, dtype=np.float32)
            self._seen = np.zeros(logits.size, dtype=np.bool_)
            self._seen[self._context[self._context < logits.size]] = True
        np.copyto(self._scores, logits)
        seen = self._scores[self._seen]  # (seen tokens,)
        penalty = self._sampling.repetition_penalty
        self._scores[self._seen] = np.where(seen < 0, seen * penalty, seen / penalty)
        return self._scores

    def _candidates(
        self, logits: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Ids that may be chosen, ascending, and their probabilities, both (candidates,)."""
        sampling = self._sampling
        scores = logits / sampling.temperature  # (vocab,)
        if 0 < sampling.top_k < scores.size:
            # Everything equal to the k-th highest stays, as in transformers.
            lowest = np.partition(scores, scores.size - sampling.top_k)[-sampling.top_k]
            ids = np.flatnonzero(scores >= lowest)
            scores = scores[ids]
        else:
            ids = np.arange(scores.size)
        probabilities = np.exp((scores - scores.max()).astype(np.float64))
        probabilities /= probabilities.sum()
        if sampling.top_p < 1:
            kept = _nucleus(probabilities, sampling.top_p)
            ids = ids[kept]
            probabilities = probabilities[kept] / probabilities[kept].sum()
        return ids, probabilities


def _nucleus(probabilities: npt.NDArray[np.float64], top_p: float) -> npt.NDArray[np.int64]:
    """Indices, ascending, of the fewest most probable entries whose sum is at least `top_p`."""
    surplus = 1 - top_p
    # Entries up to surplus / size cannot add up to more than the surplus, so they all go; sorting
    # what is left is quick where sorting a whole vocabulary is not.
    few = np.flatnonzero(probabilities > surplus / probabilities.size)
    if few.size == 0:
        few = np.array([probabilities.argmax()])
    order = few[probabilities[few].argsort(kind="stable")]  # least probable first
    left_out = 1 - probabilities[few].sum()
    kept = left_out + probabilities[order].cumsum() > surplus
    kept[-1] = True
    return np.sort(order[kept])
