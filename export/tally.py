"""How far the bundle is from PyTorch: differences collected over cases, and the report of them."""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["TOLERANCE", "OnRows", "Parity", "Tally"]

# Largest difference over largest logit. int8 is judged loosely, to find a wrong graph; int4 and
# int8-dynamic cost some models more than a wrong graph would, so they are measured and not judged.
TOLERANCE: dict[str, float | None] = {
    "fp32": 1e-4,
    "fp16": 2e-2,
    "int8": 0.1,
    "int8-dynamic": None,
    "int4": None,
}

# What quantised weights may cost before other ways of storing them are named.
_POINTS, _PERCENT = 0.5, 5.0


@dataclass(frozen=True)
class OnRows:
    """The task's own metric over rows of the user's, in PyTorch and in the bundle.

    Attributes:
        metric: "accuracy", from 0 to 1, of classes; "perplexity" of answers, or of texts alone.
        rows: that were measured, all of the file.
        reference: the metric in PyTorch.
        bundle: and in the bundle.
        predictions: most probable classes, or tokens of answers, that were compared.
        equal: of these, those that are the same in both.
        sha256: of the file of rows.
    """

    metric: str
    rows: int
    reference: float
    bundle: float
    predictions: int
    equal: int
    sha256: str

    @property
    def change(self) -> float:
        """Of accuracy in points, hundredths; of perplexity in percent."""
        if self.metric == "accuracy":
            return (self.bundle - self.reference) * 100
        return (self.bundle / self.reference - 1) * 100

    def __str__(self) -> str:
        if self.metric == "accuracy":
            return (
                f"accuracy {self.reference:.2%} → {self.bundle:.2%} ({self.change:+.2f} points), "
                f"{self.equal} of {self.predictions} predictions equal"
            )
        return (
            f"perplexity of {self.rows} rows {self.reference:.3f} → {self.bundle:.3f} "
            f"({self.change:+.2f} %), {self.equal} of {self.predictions} tokens equal"
        )


@dataclass(frozen=True)
class Parity:
    """What a parity check measured.

    Attributes:
        reference: the PyTorch side.
        positions: positions whose logits were compared; of a classifier, texts.
        max_abs: largest absolute difference of a logit.
        max_rel: that over the largest absolute logit of the reference, worst case of all.
        top1_agreement: share of positions whose most probable token is the same.
        greedy_equal: greedy tokens equal up to the first difference, over all rows.
        greedy_total: greedy tokens of the reference.
        greedy_diverged: rows that left the reference where it had a clear favourite, so that the
            difference is no tie.
        perplexity: "reference", "bundle" and "change_percent" on the user's text; None without one.
        tolerance: of max_rel; None where it is not judged.
        seconds: that the check took.
        on_rows: the task's metric over the user's rows; None without any.
    """

    reference: str
    positions: int
    max_abs: float
    max_rel: float
    top1_agreement: float
    greedy_equal: int
    greedy_total: int
    greedy_diverged: int
    perplexity: dict[str, float] | None
    tolerance: float | None
    seconds: float
    on_rows: OnRows | None = None

    @property
    def passed(self) -> bool:
        """Whether the difference is finite and, where there is a tolerance, within it."""
        if self.tolerance is None:
            return math.isfinite(self.max_rel)
        return self.max_rel <= self.tolerance and self.greedy_diverged == 0

    @property
    def is_costly(self) -> bool:
        """Whether more than half a point of accuracy, or 5 % of perplexity, is lost."""
        rows = self.on_rows
        if rows is not None and rows.metric == "accuracy" and rows.change < -_POINTS:
            return True
        changes = [self.perplexity["change_percent"]] if self.perplexity is not None else []
        changes += [rows.change] if rows is not None and rows.metric == "perplexity" else []
        return any(change > _PERCENT for change in changes)

    def to_manifest(self) -> dict[str, Any]:
        """The fields as the manifest keeps them."""
        found = {**asdict(self), "passed": self.passed}
        if self.on_rows is not None:
            unit = "points" if self.on_rows.metric == "accuracy" else "percent"
            found["on_rows"][f"change_{unit}"] = self.on_rows.change
        return found

    def __str__(self) -> str:
        text = (
            f"logits max abs {self.max_abs:.2g}, relative {self.max_rel:.2g} over {self.positions} "
            f"positions · top-1 {self.top1_agreement:.1%}"
        )
        if self.greedy_total:
            text += f" · greedy tokens {self.greedy_equal} of {self.greedy_total} equal"
        if self.perplexity is not None:
            text += (
                f" · perplexity {self.perplexity['reference']:.2f} → {self.perplexity['bundle']:.2f} "
                f"({self.perplexity['change_percent']:+.2f} %)"
            )
        if self.on_rows is not None:
            text += f" · {self.on_rows}"
        return text


class Tally:
    """Collects differences over cases.

    Args:
        tolerance: of the relative difference; None where it is not judged.
    """

    def __init__(self, tolerance: float | None) -> None:
        self._started = time.perf_counter()
        self._tolerance = tolerance
        self.positions = self.agreeing = 0
        self.max_abs = self.max_rel = 0.0
        self.greedy_equal = self.greedy_total = self.greedy_diverged = 0

    def add(
        self,
        found: npt.NDArray[np.float32],
        expected: npt.NDArray[np.float32],
        *,
        ranks: bool = True,
    ) -> None:
        """Count logits or hidden states (positions, width), or (texts, classes), of a case.

        Args:
            found: the bundle's.
            expected: the reference's.
            ranks: whether the largest of each position means something: a class, a token.
        """
        difference = float(np.abs(found - expected).max())
        scale = float(np.abs(expected).max())
        # max() drops a NaN that comes second; this keeps it
        self.max_abs = difference if math.isnan(difference) else max(self.max_abs, difference)
        relative = difference / scale if scale else difference
        self.max_rel = relative if math.isnan(relative) else max(self.max_rel, relative)
        if not ranks:
            return
        self.positions += len(expected)
        self.agreeing += int((found.argmax(-1) == expected.argmax(-1)).sum())

    def add_greedy(
        self, found: list[int], expected: list[int], scores: list[npt.NDArray[np.float32]]
    ) -> None:
        """Count greedy tokens of a row; scores are the reference's, (vocabulary,) a token."""
        pairs = enumerate(zip(found, expected, strict=False))
        first = next((step for step, (left, right) in pairs if left != right), None)
        self.greedy_total += len(expected)
        # an answer that goes on behind the reference's has missed its end: one token is not equal
        missed_end = len(found) > len(expected)
        self.greedy_equal += min(len(found), len(expected) - missed_end) if first is None else first
        if first is None:
            self.greedy_diverged += len(found) != len(expected)
            return
        gap = float(scores[first][expected[first]] - scores[first][found[first]])
        tie = (self._tolerance or 0.0) * float(np.abs(scores[first]).max())
        self.greedy_diverged += gap > tie

    def add_beams(self, found: list[int], expected: list[int], gap: float, scale: float) -> None:
        """Count tokens of beam search among the greedy ones.

        Args:
            found: the bundle's answer.
            expected: the reference's.
            gap: what the reference scores its own answer above the bundle's.
            scale: size of such a score.
        """
        pairs = enumerate(zip(found, expected, strict=False))
        first = next((step for step, (left, right) in pairs if left != right), None)
        self.greedy_total += len(expected)
        self.greedy_equal += min(len(found), len(expected)) if first is None else first
        if found != expected:
            self.greedy_diverged += gap > (self._tolerance or 0.0) * scale

    def parity(
        self,
        reference: str,
        perplexity: dict[str, float] | None = None,
        on_rows: OnRows | None = None,
    ) -> Parity:
        """The report so far; reference names the PyTorch side."""
        return Parity(
            reference=reference,
            positions=self.positions,
            max_abs=self.max_abs,
            max_rel=self.max_rel,
            top1_agreement=self.agreeing / self.positions,
            greedy_equal=self.greedy_equal,
            greedy_total=self.greedy_total,
            greedy_diverged=self.greedy_diverged,
            perplexity=perplexity,
            tolerance=self._tolerance,
            seconds=round(time.perf_counter() - self._started, 2),
            on_rows=on_rows,
        )
