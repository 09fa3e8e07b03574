"""Throttling, seen by a fixed piece of work that has nothing to do with the model."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgept.bench.conditions import Conditions

__all__ = ["LIMIT", "Check", "ReferenceKernel", "hash_fixed_bytes"]

LIMIT = 1.10
_BYTES = bytes(2 << 20)
_TRIES = 5


@dataclass(frozen=True)
class Check:
    """One look at the machine.

    Attributes:
        at_s: seconds from the start of the run.
        kernel_ms: the reference kernel in processor time, best of five.
        ratio: that over its time at the start.
        throttled: whether that is over 1.10, at a second look too.
        conditions: clocks, temperature and load at that moment.
    """

    at_s: float
    kernel_ms: float
    ratio: float
    throttled: bool
    conditions: Conditions


def hash_fixed_bytes() -> None:
    """The reference kernel: SHA-256 of 2 MiB, one thread, the same instructions every time."""
    hashlib.sha256(_BYTES).digest()


class ReferenceKernel:
    """Times the kernel at the start and compares with that from then on.

    In processor time of its thread: a slower clock makes it longer, a neighbour who takes the core
    for a while does not. What neighbours do to a latency shows in its drift and its outliers.

    Attributes:
        start_ms: its time at the start.
        checks: every look so far.
        checked_s: seconds that they took.
    """

    def __init__(
        self,
        kernel: Callable[[], None] = hash_fixed_bytes,
        read_conditions: Callable[[], Conditions] = Conditions.read,
    ) -> None:
        self._kernel, self._read_conditions = kernel, read_conditions
        self._best_of(_TRIES)  # raises the clock of an idle core
        self.start_ms = self._best_of(2 * _TRIES)
        self.checks: list[Check] = []
        self.checked_s = 0.0

    def check(self, at_s: float) -> Check:
        """Run the kernel now; when it is over the limit, a second time to be sure."""
        begin = time.perf_counter()
        now_ms = self._best_of(_TRIES)
        if now_ms > LIMIT * self.start_ms:
            now_ms = min(now_ms, self._best_of(2 * _TRIES))
        ratio = now_ms / self.start_ms
        check = Check(at_s, now_ms, ratio, ratio > LIMIT, self._read_conditions())
        self.checks.append(check)
        self.checked_s += time.perf_counter() - begin
        return check

    def _best_of(self, tries: int) -> float:
        best = float("inf")
        for _ in range(tries):
            begin = time.thread_time_ns()
            self._kernel()
            best = min(best, time.thread_time_ns() - begin)
        return best / 1e6
