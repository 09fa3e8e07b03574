"""What a benchmark measures, and for how long."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgept.errors import UsageError

__all__ = ["Length", "Plan", "Progress", "length_of_run"]

Progress = Callable[[str, float], None]
"""Told what is being done, and how much of it is, from 0 to 1."""

_QUICK = (10, 3.0)  # samples, seconds: both are reached
_DEFAULT = (1024, 60.0)
_ONCE = 64  # of what happens once for a process or a model: enough for p90


@dataclass(frozen=True)
class Length:
    """When a series is long enough.

    Attributes:
        samples: at least as many requests.
        seconds: at least as long.
        limit_s: never longer, whatever the samples; None has no limit.
        once: samples of what happens once for a process, a model or a prompt.
        warm_up_s: the warm-up gives up on becoming steady after that.
    """

    samples: int
    seconds: float
    limit_s: float | None
    once: int
    warm_up_s: float

    def is_enough(self, samples: int, seconds: float) -> bool:
        """Whether a series of so many samples, which took so long, may end."""
        if self.limit_s is not None and seconds >= self.limit_s:
            return samples > 0
        return samples >= self.samples and seconds >= self.seconds

    def share(self, samples: int, seconds: float) -> float:
        """How much of a series is done, from 0 to 1."""
        done = min(samples / max(self.samples, 1), seconds / self.seconds if self.seconds else 1.0)
        return min(1.0, done if self.limit_s is None else max(done, seconds / self.limit_s))

    def part(self, samples: int, share: float) -> "Length":
        """The length of a series beside the main one: at most so many samples and that share of its time."""
        limit = None if self.limit_s is None else self.limit_s * share
        return Length(min(samples, max(self.samples, 1)), 0.0, limit, self.once, self.warm_up_s)


def length_of_run(*, quick: bool, seconds: float | None, samples: int | None) -> Length:
    """The length that the options ask for; a time that is given has priority over samples."""
    if quick and seconds is None and samples is None:
        return Length(*_QUICK, limit_s=None, once=_QUICK[0], warm_up_s=3.0)
    once = _QUICK[0] if quick else _ONCE
    if samples is not None:
        limit = 20.0 if seconds is None else seconds / 4
        return Length(samples, 0.0, seconds, min(once, samples), limit)
    if seconds is not None:
        # so many samples that only the time ends it
        return Length(1 << 40, seconds, seconds, once, seconds / 4)
    return Length(*_DEFAULT, limit_s=None, once=once, warm_up_s=20.0)


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        bundle: its folder.
        prompts: prompt files, peft folders or tensors; empty makes two random prompts.
        length: how long.
        quick: a short run, with few residents.
        prompt_length: tokens of the request's text, without virtual ones; None takes 64, or the
            request of the report that is compared with.
        new_tokens: that a request asks for; None as above.
        picture: file that is looked at, of a bundle for images; None takes that of the report that is
            compared with, or makes one.
        batch: rows that run together.
        threads: None takes every core.
        providers: onnxruntime's; None takes the bundle's.
        resident: prompts that are resident, and take turns; None is those given (two at least).
        rate: requests a second on a Poisson schedule; None sends each when the one before is done.
        power: whether to measure energy where the device tells.
        seed: of random prompts and schedules.
    """

    bundle: Path
    prompts: tuple[tuple[str | None, Path], ...]
    length: Length
    quick: bool = False
    prompt_length: int | None = None
    new_tokens: int | None = None
    picture: Path | None = None
    batch: int = 1
    threads: int | None = None
    providers: tuple[str, ...] | None = None
    resident: int | None = None
    rate: float | None = None
    power: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resident is not None and self.resident < max(2, len(self.prompts)):
            raise UsageError(
                f"{self.resident} resident prompts are too few: a swap needs two, and "
                f"{len(self.prompts)} are given. Raise --resident."
            )
        if self.batch > 1 and self.rate is not None:
            raise UsageError(
                "requests on a schedule come one by one, so --rate and --batch exclude each other. "
                "Leave one out."
            )
