"""What a script measures and finds: a table, and the goals that its figures meet or miss."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from benchmarks.files import Files
from edgept.bench.ratio import Ratio, ratio_of_pairs

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
    "parse_setting",
    "random_ids",
    "run_script",
    "say_ratio",
    "spread",
    "table",
]


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: interleaved ones; a ratio needs 16.
        new_tokens: of a decoding round.
        lengths: of prefills, in tokens.
        residents: numbers of resident prompts, on the small and on the large model.
        swaps: samples at each; a p99 needs 662.
        starts: processes for a cold start.
        prompts: made resident to see what one costs.
    """

    rounds: int
    new_tokens: int
    lengths: tuple[int, ...]
    residents: tuple[tuple[int, ...], tuple[int, ...]]
    swaps: int
    starts: int
    prompts: int


FULL = Effort(
    rounds=40,
    new_tokens=64,
    lengths=(64, 512),
    residents=((1, 10, 100, 1000, 10_000), (1, 10, 100, 1000, 4000)),
    swaps=2000,
    starts=10,
    prompts=200,
)
QUICK = replace(
    FULL,
    rounds=12,
    new_tokens=16,
    residents=((1, 10, 100, 1000, 10_000), (1, 10, 100, 1000)),
    swaps=700,
    starts=3,
    prompts=64,
)
# only to see that a script runs
SMALL = Effort(
    rounds=2, new_tokens=4, lengths=(8,), residents=((1, 4), (1, 4)), swaps=8, starts=1, prompts=4
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


@dataclass(frozen=True)
class Goal:
    """One row of the goals' table.

    Attributes:
        what: is measured.
        goal: in words.
        measured: with its unit and interval.
        verdict: "met", "not met", "not certain" (the interval holds the goal) or "not measured".
        why: where it is not met, what is known about it.
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
    what: str, limit: float, this: Sequence[float], other: Sequence[float], why: str = ""
) -> Goal:
    """Judge a ratio of interleaved series by its interval."""
    found = ratio_of_pairs(this, other)
    verdict = "not certain"
    if found.high <= limit:
        verdict = "met"
    elif found.low > limit:
        verdict = "not met"
    measured = f"{found.ratio:.2f} ({found.low:.2f}–{found.high:.2f})"
    return Goal(what, f"at most {limit:g}", measured, verdict, "" if verdict == "met" else why)


def goal_at_most(what: str, limit: float, measured: float, unit: str, why: str = "") -> Goal:
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
