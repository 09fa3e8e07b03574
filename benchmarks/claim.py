"""What a script measures and finds: a table, and the goals that its figures meet or miss."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeVar

import numpy as np

from benchmarks.files import Files
from edgept.bench.ratio import FEWEST, Ratio, ratio_of_pairs

__all__ = [
    "FULL",
    "QUICK",
    "SMALL",
    "Claim",
    "Effort",
    "Goal",
    "Setting",
    "goal_at_most",
    "goal_of_ratio",
    "goals_table",
    "not_measured",
    "paired",
    "parse_setting",
    "random_ids",
    "run_script",
    "say_ratio",
    "spread",
    "table",
]

T = TypeVar("T")

NOT_KNOWN = "not known"


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: interleaved ones; a goal for a ratio needs 32 pairs, and independent ones.
        every: sides that bear no goal join in every so many rounds.
        left_out: peers that are too slow for the long prefills, the larger model, swaps and cold starts.
        new_tokens: of a decoding round.
        lengths: of prefills, in tokens.
        residents: numbers of resident prompts, on the small and on the large model.
        swaps: samples at each; a p99 needs 662.
        starts: processes for a cold start.
        other_starts: of sides that bear no goal there.
        prompts: made resident to see what one costs.
        encoder_batches: texts and tokens of each.
    """

    rounds: int
    every: int
    left_out: tuple[str, ...]
    new_tokens: int
    lengths: tuple[int, ...]
    residents: tuple[tuple[int, ...], tuple[int, ...]]
    swaps: int
    starts: int
    other_starts: int
    prompts: int
    encoder_batches: tuple[tuple[int, int], ...]


FULL = Effort(
    rounds=40,
    every=1,
    left_out=(),
    new_tokens=64,
    lengths=(64, 512),
    residents=((1, 10, 100, 1000, 10_000), (1, 10, 100, 1000, 10_000)),
    swaps=2000,
    starts=36,
    other_starts=9,
    prompts=200,
    encoder_batches=((1, 16), (1, 128), (1, 512), (8, 16), (8, 128), (8, 512)),
)
QUICK = replace(
    FULL,
    rounds=34,
    every=5,
    left_out=("llama-q8", "peft-fp32"),
    new_tokens=16,
    residents=((1, 100, 10_000), (1, 100, 1000)),
    swaps=700,
    starts=33,
    other_starts=3,
    prompts=64,
    encoder_batches=((1, 16), (1, 128), (8, 16)),
)
# only to see that a script runs
SMALL = Effort(
    rounds=2,
    every=1,
    left_out=(),
    new_tokens=4,
    lengths=(8,),
    residents=((1, 4), (1, 4)),
    swaps=8,
    starts=1,
    other_starts=1,
    prompts=4,
    encoder_batches=((1, 8),),
)


@dataclass(frozen=True)
class Setting:
    """Where and how a script measures.

    Attributes:
        folder: of all files, one folder in it for each shape.
        threads: of every runtime.
        effort: how much.
        peers: names of RUNTIMES to compare with.
        say: told what is being done.
        shapes: the model, and the larger one.
        small: a model whose 10,000 resident prompts fit memory.
    """

    folder: Path
    threads: int
    effort: Effort
    peers: tuple[str, ...] = (
        *("genai", "llama-q4", "llama-q8", "openvino"),
        *("peft-bf16", "peft-fp32"),
    )
    say: Callable[[str], None] = lambda _: None
    shapes: tuple[str, ...] = ("llama-135m", "qwen2-0.5b")
    small: str = "demo"

    def files(self, shape: str) -> Files:
        """The files of one shape."""
        return Files(self.folder / shape)

    def quick_peers(self) -> tuple[str, ...]:
        """The peers without those that this effort leaves out where requests are long."""
        return tuple(name for name in self.peers if name not in self.effort.left_out)

    def say_rounds(self) -> str:
        """How many rounds, in words."""
        effort = self.effort
        said = f"{effort.rounds} interleaved rounds"
        if effort.every > 1:
            said += f", sides without a goal in every {effort.every}th"
        return said

    def say_left_out(self, where: str = "here") -> str:
        """A paragraph about the peers that a quick run leaves out, if there are any."""
        from benchmarks.runtimes import RUNTIMES

        names = [RUNTIMES[name].title for name in self.peers if name in self.effort.left_out]
        return f"\n\nLeft out {where} in a quick run: {'; '.join(names)}." if names else ""


@dataclass(frozen=True)
class Goal:
    """One row of the goals' table.

    Attributes:
        what: is measured.
        goal: in words.
        measured: with its unit and interval.
        verdict: "met", "not met", "not certain" (the interval holds the goal), "too few samples" (for any
            interval) or "not measured".
        why: where it is not met, what a script or NOTES.md measured of the reason; else what is missing.
    """

    what: str
    goal: str
    measured: str
    verdict: str
    why: str = ""


@dataclass(frozen=True)
class Claim:
    """What a script found.

    Attributes:
        title: what it is about.
        about: how it was measured, in a paragraph.
        body: Markdown: tables.
        goals: that it speaks of.
        missing: peers that could not run, and why.
        raw: the samples.
    """

    title: str
    about: str
    body: str
    goals: list[Goal]
    missing: dict[str, str] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)

    def page(self) -> str:
        """As Markdown."""
        from benchmarks.runtimes import RUNTIMES

        lines = [f"## {self.title}", "", self.about, "", self.body, ""]
        lines += [f"Missing: {RUNTIMES[name].title}: {why}\n" for name, why in self.missing.items()]
        return "\n".join(lines)


def goal_of_ratio(
    what: str, limit: float, this: Sequence[float], other: Sequence[float], why: str = NOT_KNOWN
) -> Goal:
    """Judge a ratio of interleaved series by its interval, where there are samples enough for one."""
    goal = f"at most {limit:g}"
    if not this:
        return not_measured(what, goal, "no round had all that it needs")
    found = ratio_of_pairs(this, other)
    measured = f"{found.ratio:.2f} ({found.low:.2f}–{found.high:.2f})"
    if found.n < FEWEST:
        enough = f"{len(this)} pairs are worth {found.n} independent ones, {FEWEST} are needed"
        return Goal(what, goal, measured, "too few samples", enough)
    if found.high <= limit:
        return Goal(what, goal, measured, "met")
    if found.low > limit:
        return Goal(what, goal, measured, "not met", why)
    return Goal(what, goal, measured, "not certain")


def goal_at_most(what: str, limit: float, measured: float, unit: str, why: str = NOT_KNOWN) -> Goal:
    """Judge one figure."""
    met = measured <= limit
    digits = 0 if measured >= 100 else 1 if measured >= 10 else 2
    return Goal(
        what,
        f"at most {limit:g} {unit}".strip(),
        f"{measured:.{digits}f} {unit}".strip(),
        "met" if met else "not met",
        "" if met else why,
    )


def not_measured(what: str, goal: str, why: str) -> Goal:
    """A goal whose peer is missing."""
    return Goal(what, goal, "–", "not measured", why)


def paired(this: Mapping[int, T], other: Mapping[int, T]) -> tuple[list[T], list[T]]:
    """What two sides measured in the rounds that both took part in, in order."""
    both = sorted(this.keys() & other.keys())
    return [this[number] for number in both], [other[number] for number in both]


def say_ratio(found: Ratio) -> str:
    """A ratio with its interval and what may be said of it."""
    return f"{found.ratio:.2f} ({found.low:.2f}–{found.high:.2f}), {found.word}"


def spread(values: Sequence[float]) -> str:
    """Median and quartiles, with the digits that count."""
    middle = median(values)
    digits = 3 if middle < 1 else 2 if middle < 10 else 1 if middle < 100 else 0
    if len(values) < 2:
        return f"{middle:.{digits}f}"
    low, _, high = quantiles(values, n=4, method="inclusive")
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def random_ids(count: int, seed: int, vocabulary: int = 250) -> list[int]:
    """Token ids, the same for every side; below any vocabulary's size, above special tokens."""
    ids: list[int] = np.random.default_rng(seed).integers(3, vocabulary, count).tolist()
    return ids


def parse_setting(description: str | None, arguments: Sequence[str] | None = None) -> Setting:
    """The options that every script has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--quick", action="store_true", help="fewer rounds, fewer residents")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:6.0f} s  {text}\n")

    return Setting(given.folder, given.threads, QUICK if given.quick else FULL, say=say)


def run_script(measure: Callable[[Setting], Claim], description: str | None) -> None:
    """A script's main: measure, print the page and the goals."""
    claim = measure(parse_setting(description))
    print(claim.page())
    print(goals_table(claim.goals))


def goals_table(goals: Sequence[Goal]) -> str:
    """Every goal, reached or not, and why not."""
    rows = [(goal.what, goal.goal, goal.measured, goal.verdict, goal.why) for goal in goals]
    return table(("What", "Goal", "Measured", "", "Why not"), rows)
