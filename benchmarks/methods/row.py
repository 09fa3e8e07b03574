"""What is measured of a method."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["Effort", "Row", "watched"]


@dataclass
class Effort:
    """What a training took.

    Attributes:
        cpu_seconds: of this process, on one thread: less shaken by other work than the clock.
        peak_bytes: most memory of this process, libraries and data included.
    """

    cpu_seconds: float = 0.0
    peak_bytes: int = 0


@dataclass
class Row:
    """A method's line in the table.

    Attributes:
        trained: parameters that the training changed.
        file_bytes: what a device needs for one more task.
        positions: that every request takes in front of its text; a prompt's are computed once.
        effort: of the training; zeros where there was none.
        swap_ms: median time to change the task on the device; None where nothing changes.
        quality: figures from 0 to 100 by name, on rows that training never saw.
        note: what a reader has to know.
    """

    trained: int
    file_bytes: int
    positions: int
    quality: dict[str, float]
    swap_ms: float | None
    effort: Effort = field(default_factory=Effort)
    note: str = ""


@contextmanager
def watched() -> Iterator[Effort]:
    """Measure a block; read the effort after it."""
    effort = Effort()
    began = time.process_time()
    yield effort
    effort.cpu_seconds = time.process_time() - began
    effort.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
