"""The ratio of two latencies, with the interval that says whether it may be called a difference."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["FEWEST", "Ratio", "ratio_of_pairs", "ratio_of_series"]

# Below, no interval of resampled medians can be trusted; and whether neighbours resemble each other
# cannot be seen (simulated: of 16 pairs that do, 22 false calls in 100).
FEWEST = 32
_RESAMPLES = 2000
_PICKED = 1 << 20  # samples that are resampled at once: some 40 MB, however long a series is
_ERROR = 0.05
# The interval of a median of a dozen samples is a little too narrow (simulated: 6.5 false calls in
# 100), so a call is made at a stricter level.
_CALL_ERROR = 0.025
# How much neighbours resemble each other is estimated too, too low as a rule: where they do, medians are
# spread by this over the independent samples (simulated: 10 false calls in 100 without, 5 with it).
_UNSEEN = 16

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """This latency over the other one.

    Attributes:
        ratio: below 1 where this one is faster.
        low: of the bootstrap interval at 95 %.
        high: of the same.
        differs: whether the interval leaves out 1, also when it is widened for the number of ratios
            that are looked at together, so that comparing a thing with itself calls any difference
            at most 5 times in 100.
        n: independent pairs that the pairs are worth, or independent samples that the series which is
            worth fewer is: neighbours that resemble each other count less.
    """

    ratio: float
    low: float
    high: float
    differs: bool
    n: int

    @property
    def word(self) -> str:
        """What may be said: "faster", "slower", "no difference shown" or "too few samples"."""
        if self.n < FEWEST:
            return "too few samples"
        if not self.differs:
            return "no difference shown"
        return "faster" if self.ratio < 1 else "slower"


def ratio_of_pairs(
    this: Sequence[float], other: Sequence[float], *, together: int = 1, seed: int = 0
) -> Ratio:
    """Compare two interleaved series: the median of the pairs' ratios, stretches of pairs resampled.

    Slow drifts of the machine meet both members of a pair and cancel. What meets one side for a
    while does not, so that neighbouring pairs may resemble each other.

    Args:
        this: a latency for every turn A B B A B A A B, in order.
        other: of the same turns.
        together: how many ratios are looked at together.
        seed: of the resampling.
    """
    logs = np.log(np.asarray(this, np.float64)) - np.log(np.asarray(other, np.float64))  # (pairs,)
    resampled = _medians(logs, np.random.default_rng(seed))
    n = int(len(logs) / _correlation(logs))
    return _ratio(float(np.median(logs)), resampled, n, together)


def ratio_of_series(
    this: Sequence[float], other: Sequence[float], *, together: int = 1, seed: int = 0
) -> Ratio:
    """Compare two series that were taken apart: the ratio of their medians, stretches resampled.

    What changed in the machine between the two is in the ratio and in no interval.
    """
    random = np.random.default_rng(seed)
    first, second = np.asarray(this, np.float64), np.asarray(other, np.float64)
    logs = float(np.log(np.median(first)) - np.log(np.median(second)))
    resampled = np.log(_medians(first, random)) - np.log(_medians(second, random))
    n = min(int(len(series) / _correlation(series)) for series in (first, second))
    return _ratio(logs, resampled, n, together)


def _correlation(values: Array) -> float:
    """Samples that are worth one independent sample (integrated autocorrelation time of the ranks)."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    # equals share the mean of their ranks: in the order of time they would look like a trend
    ranks = (counts.cumsum() - (counts + len(values)) / 2)[place]  # (samples,), mean 0
    variance, time = float(ranks @ ranks), 1.0
    if variance == 0:
        return time
    for lag in range(1, len(values) // 2):
        correlation = float(ranks[lag:] @ ranks[:-lag]) / variance
        if correlation <= 2 / len(values) ** 0.5:  # from here on it is noise
            break
        time += 2 * correlation
    return time


def _medians(values: Array, random: np.random.Generator) -> Array:
    """Medians of resamples made of stretches that begin anywhere and go round the end."""
    correlation = _correlation(values)
    length = 1 if correlation == 1 else min(len(values), int(np.ceil(3 * correlation)))
    count = -(-len(values) // length)
    rows = max(1, _PICKED // len(values))
    medians = np.empty(_RESAMPLES)
    for first in range(0, _RESAMPLES, rows):
        part = medians[first : first + rows]
        begins = random.integers(0, len(values), (len(part), count, 1))
        picked = (begins + np.arange(length)).reshape(len(part), -1)[:, : len(values)]
        part[:] = _row_medians(values[picked % len(values)])
    if length == 1:
        return medians
    center = float(np.median(values))
    spread: Array = center + (medians - center) * (1 + _UNSEEN * correlation / len(values)) ** 0.5
    return spread


def _row_medians(rows: Array) -> Array:
    """Median of each row; np.median takes ten times as long over short rows."""
    last = rows.shape[1] - 1
    middle = [last // 2, (last + 1) // 2]
    medians: Array = np.partition(rows, middle, axis=1)[:, middle].mean(axis=1)
    return medians


def _ratio(center: float, resampled: Array, n: int, together: int) -> Ratio:
    low, high = np.quantile(resampled, [_ERROR / 2, 1 - _ERROR / 2])
    error = _CALL_ERROR / together
    widest_low, widest_high = np.quantile(resampled, [error / 2, 1 - error / 2])
    differs = n >= FEWEST and bool(widest_low > 0 or widest_high < 0)
    return Ratio(float(np.exp(center)), float(np.exp(low)), float(np.exp(high)), differs, n)
