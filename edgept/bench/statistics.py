"""Percentiles that have the samples they need, and outliers that are flagged and never dropped."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["SAMPLES_FOR", "Summary", "outliers", "percentile", "summarise"]

# Fewest samples for a percentile, by MLPerf Inference's early-stopping rule: below, the figure would
# be the series' maximum or little else.
SAMPLES_FOR = {50.0: 1, 90.0: 64, 99.0: 662, 99.9: 6636}
_OUTLIER = 14.826  # times the median absolute deviation: ten standard deviations of a normal one


@dataclass(frozen=True)
class Summary:
    """What a series says, in its own unit.

    Attributes:
        n: samples, outliers included.
        median: of all of them.
        p90: None below 64 samples.
        p99: None below 662.
        p999: 99.9th percentile, None below 6,636.
        minimum: the smallest.
        maximum: the largest.
        outliers: positions of the samples that lie far from the rest.
    """

    n: int
    median: float
    p90: float | None
    p99: float | None
    p999: float | None
    minimum: float
    maximum: float
    outliers: tuple[int, ...]


def summarise(samples: Sequence[float]) -> Summary:
    """Describe a series of at least one sample."""
    values = np.asarray(samples, np.float64)
    return Summary(
        n=len(values),
        median=float(np.median(values)),
        p90=percentile(values, 90.0),
        p99=percentile(values, 99.0),
        p999=percentile(values, 99.9),
        minimum=float(values.min()),
        maximum=float(values.max()),
        outliers=outliers(values),
    )


def percentile(samples: Sequence[float] | npt.NDArray[np.float64], percent: float) -> float | None:
    """A percentile that was really seen (no interpolation); None where the samples are too few.

    Args:
        samples: the series.
        percent: one of SAMPLES_FOR.
    """
    if len(samples) < SAMPLES_FOR[percent]:
        return None
    return float(np.quantile(np.asarray(samples, np.float64), percent / 100, method="higher"))


def outliers(samples: Sequence[float] | npt.NDArray[np.float64]) -> tuple[int, ...]:
    """Positions of samples further from the median than 14.826 median absolute deviations."""
    values = np.asarray(samples, np.float64)
    distance = np.abs(values - np.median(values))
    return tuple(int(i) for i in np.flatnonzero(distance > _OUTLIER * np.median(distance)))
