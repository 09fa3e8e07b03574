"""Whether a latency has settled: warm-up until two windows agree, and drift during a run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["TOLERANCE", "WarmUp", "drift", "warm_up"]

TOLERANCE = 0.02
_WINDOW = 5  # requests at least,
_WINDOW_S = 0.05  # and as long at least
_FEWEST = 10  # samples, of which the halves can be compared


@dataclass(frozen=True)
class WarmUp:
    """What was run and not counted.

    Attributes:
        requests: how many.
        seconds: how long.
        windows_ms: median latency of each window, in order; of turns of different work, their means'.
        steady: whether the last two agree within 2 %.
    """

    requests: int
    seconds: float
    windows_ms: list[float]
    steady: bool


def warm_up(
    run: Callable[[], float],
    limit_s: float,
    clock: Callable[[], int] = time.perf_counter_ns,
    *,
    turn: int = 1,
) -> WarmUp:
    """Run until the medians of two neighbouring windows agree within 2 %, or the time is up.

    Args:
        run: one request; returns its milliseconds.
        limit_s: give up after that, in the middle of a window if need be.
        clock: monotonic, in nanoseconds.
        turn: requests whose mean counts as one, where those in turn are of different work.
    """
    began = window_began = clock()
    windows: list[float] = []
    window: list[float] = []
    requests = 0
    while True:
        window.append(run())
        requests += 1
        now = clock()
        whole = len(window) % turn == 0 and len(window) >= _WINDOW * turn
        if whole and (now - window_began) >= _WINDOW_S * 1e9:
            windows.append(float(np.median(_means(window, turn))))
            window, window_began = [], now
            if len(windows) > 1 and abs(windows[-1] / windows[-2] - 1) <= TOLERANCE:
                return WarmUp(requests, (now - began) / 1e9, windows, steady=True)
        if now - began >= limit_s * 1e9:
            return WarmUp(requests, (now - began) / 1e9, windows, steady=False)


def drift(samples: Sequence[float], turn: int = 1) -> float | None:
    """How much slower the second half is than the first, 0.05 for 5 %; None with few samples.

    Args:
        samples: in order.
        turn: samples whose mean counts as one, where those in turn are of different work: the median of
            a mixture is now one work's, now another's.
    """
    means = _means(samples, turn)
    if len(means) < _FEWEST:
        return None
    half = len(means) // 2
    return float(np.median(means[half:]) / np.median(means[:half]) - 1)


def _means(samples: Sequence[float], turn: int) -> npt.NDArray[np.float64]:
    """Of each whole turn; what is left over at the end is in none."""
    whole = len(samples) // turn * turn
    means: npt.NDArray[np.float64] = np.reshape(samples[:whole], (-1, turn)).mean(axis=1)
    return means
