"""Whether a figure may be believed: steady, not steady or throttled, with the reasons."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgept.bench.loop import Series
from edgept.bench.reference_kernel import LIMIT
from edgept.bench.steady import TOLERANCE, drift

__all__ = ["Verdict", "judge_loop_phase", "judge_series"]

Word = Literal["steady", "not steady", "throttled", "few samples"]


@dataclass(frozen=True)
class Verdict:
    """What is said of a run or of one phase.

    Attributes:
        word: "steady"; "not steady" where the level moved by more than 2 %; "throttled" where the
            reference kernel slowed down; "few samples" below ten, or below ten turns of different work.
        reasons: what was seen and what to do, empty for a steady one.
    """

    word: Word
    reasons: list[str]


def judge_series(samples: Sequence[float], turn: int = 1) -> Verdict:
    """Judge samples by the drift between their halves alone, as `edgept.bench.steady.drift` does."""
    moved = drift(samples, turn)
    if moved is None:
        few = f"{len(samples)} samples; {10 * turn} are needed to see a drift"
        return Verdict("few samples", [few])
    if abs(moved) <= TOLERANCE:
        return Verdict("steady", [])
    slower = "slower" if moved > 0 else "faster"
    reason = f"the second half is {100 * abs(moved):.1f} % {slower} than the first"
    return Verdict("not steady", [reason])


def judge_loop_phase(name: str, series: Series) -> Verdict:
    """Judge a phase of a loop: by throttling and warm-up of the loop, and by its own drift."""
    reasons: list[str] = []
    if series.throttled:
        hot = [check for check in series.checks if check.throttled]
        worst = max(check.ratio for check in hot)
        reasons.append(
            f"the reference kernel took up to {worst:.2f} times its start ({len(hot)} of "
            f"{len(series.checks)} checks over {LIMIT:.2f}); let the device cool, end other programs, or "
            "choose a lower power mode, and measure again"
        )
    if not series.warm_up.steady:
        reasons.append(
            f"the warm-up ended after {series.warm_up.seconds:.1f} s before two windows agreed within "
            f"{100 * TOLERANCE:.0f} %"
        )
    own = judge_series(series.samples[name], series.turn_of(name))
    if own.word == "not steady":
        reasons += own.reasons
    if series.throttled:
        return Verdict("throttled", reasons)
    if reasons:
        return Verdict("not steady", [*reasons, "end other programs, or measure longer (--time)"])
    return own
