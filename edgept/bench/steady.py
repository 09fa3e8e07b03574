"""Whether a latency has settled: warm-up until two windows agree, and drift during a run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

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
        windows_ms: median latency of each window, in order.
        steady: whether the last two agree within 2 %.
    """

    requests: int
    seconds: float
    windows_ms: list[float]
    steady: bool


def warm_up(
    run: Callable[[], float], limit_s: float, clock: Callable[[], int] = time.perf_counter_ns
) -> WarmUp:
    """Run until the medians of two neighbouring windows agree within 2 %, or the time is up.

    Args:
        run: one request; returns its milliseconds.
        limit_s: give up after that, in the middle of a window if need be.
        clock: monotonic, in nanoseconds.
    """
    began = window_began = clock()
    windows: list[float] = []
    window: list[float] = []
    requests = 0
    while True:
        window.append(run())
        requests += 1
        now = clock()
        if len(window) >= _WINDOW and (now - window_began) >= _WINDOW_S * 1e9:
            windows.append(float(np.median(window)))
            window, window_began = [], now
            if len(windows) > 1 and abs(windows[-1] / windows[-2] - 1) <= TOLERANCE:
                return WarmUp(requests, (now - began) / 1e9, windows, steady=True)
        if now - began >= limit_s * 1e9:
            return WarmUp(requests, (now - began) / 1e9, windows, steady=False)


def drift(samples: Sequence[float]) -> float | None:
    """How much slower the second half is than the first, 0.05 for 5 %; None with few samples."""
    if len(samples) < _FEWEST:
        return None
    half = len(samples) // 2
    return float(np.median(samples[half:]) / np.median(samples[:half]) - 1)
