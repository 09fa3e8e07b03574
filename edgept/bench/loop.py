"""Requests one after the other, or on a Poisson schedule, each timed from the outside."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgept.bench.phases import Samples
from edgept.bench.plan import Length
from edgept.bench.reference_kernel import Check, ReferenceKernel
from edgept.bench.steady import WarmUp, warm_up

__all__ = ["Request", "Series", "run_loop", "timed"]

Request = Callable[[], Samples]
"""One request: runs it, and says what the runtime measured of it. End to end is added here."""

Clock = Callable[[], int]
_CHECK_EVERY_S = 1.0
_SPIN_NS = 1_000_000  # sleeping overshoots by less than that


@dataclass(frozen=True)
class Series:
    """What a loop measured.

    Attributes:
        samples: milliseconds by phase.
        at_s: when each request began, from the start of the loop; one for each end to end.
        seconds: length of the loop, reference kernels left out.
        warm_up: what was run before.
        kernel_ms: the reference kernel at the start.
        checks: of the reference kernel, before, during and after.
        kernel_s: seconds that those took; they are not in `seconds`.
        turn: requests after which the same work comes again; None where all do the same.
    """

    samples: Samples
    at_s: list[float]
    seconds: float
    warm_up: WarmUp
    kernel_ms: float
    checks: list[Check]
    kernel_s: float = 0.0
    turn: int | None = None

    def turn_of(self, phase: str) -> int:
        """Samples of a phase that are judged as one: those of a turn, which not every request may have."""
        if self.turn is None:
            return 1
        return max(1, round(len(self.samples[phase]) * self.turn / len(self.at_s)))

    @property
    def throttled(self) -> bool:
        """Whether the reference kernel was ever over its limit."""
        return any(check.throttled for check in self.checks)


def timed(request: Request, clock: Clock = time.perf_counter_ns) -> Samples:
    """Run a request, with its end to end."""
    begin = clock()
    samples = request()
    return {**samples, "end_to_end": [(clock() - begin) / 1e6]}


def run_loop(
    request: Request,
    length: Length,
    *,
    kernel: ReferenceKernel | None = None,
    rate: float | None = None,
    seed: int = 0,
    turn: int | None = None,
    progress: Callable[[int, float], None] | None = None,
    clock: Clock = time.perf_counter_ns,
) -> Series:
    """Warm up, then send requests until the length is reached.

    Args:
        request: that is sent.
        length: of the series.
        kernel: the reference kernel, started before the warm-up; None makes one.
        rate: requests a second on a Poisson schedule, one server: latencies then count from the
            scheduled moment, so that waiting behind a slow request is not lost. None is a closed
            loop, in which each request waits for the one before: service time.
        seed: of the schedule.
        turn: requests after which the same work comes again; None where all do the same.
        progress: told the samples and seconds so far.
        clock: monotonic, in nanoseconds.
    """
    kernel = kernel or ReferenceKernel()
    checked_s = kernel.checked_s
    warmed = warm_up(
        lambda: timed(request, clock)["end_to_end"][0], length.warm_up_s, clock, turn=turn or 1
    )
    kernel.check(0.0)
    gaps = None if rate is None else np.random.default_rng(seed)
    samples: Samples = {}
    at_s: list[float] = []
    origin = last_check = clock()
    due = origin
    while not length.is_enough(len(at_s), (clock() - origin) / 1e9):
        if gaps is not None and rate is not None:
            due += round(gaps.exponential(1e9 / rate))
            _wait_until(due, clock)
        sent = clock()
        measured = timed(request, clock)
        if gaps is not None:
            measured = _from_schedule(measured, (sent - due) / 1e6)
        for name, values in measured.items():
            samples.setdefault(name, []).extend(values)
        at_s.append((sent - origin) / 1e9)
        now = clock()
        if progress is not None:
            progress(len(at_s), (now - origin) / 1e9)
        if now - last_check >= _CHECK_EVERY_S * 1e9:
            kernel.check((now - origin) / 1e9)
            last_check = clock()
            # the schedule and the run's length stand still meanwhile
            origin += last_check - now
            due += last_check - now
    seconds = (clock() - origin) / 1e9
    kernel.check(seconds)
    spent_s = kernel.checked_s - checked_s
    return Series(samples, at_s, seconds, warmed, kernel.start_ms, kernel.checks, spent_s, turn)


def _wait_until(due: int, clock: Clock) -> None:
    while (left := due - clock()) > 0:
        if left > _SPIN_NS:
            time.sleep((left - _SPIN_NS) / 1e9)


def _from_schedule(measured: Samples, waited_ms: float) -> Samples:
    late: Samples = {
        name: [value + waited_ms for value in measured[name]]
        for name in ("ttft", "end_to_end")
        if name in measured
    }
    return {**measured, **late, "queue": [waited_ms]}
