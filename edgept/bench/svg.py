"""Small plots as inline SVG: points, lines and bars over two axes. No library, no script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Axis", "histogram", "points", "ticks"]

_WIDTH, _HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 44
_MOST_POINTS = 4000  # a browser stays quick; the JSON has them all


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Attributes:
        label: with the unit.
        low: value at its beginning.
        high: value at its end.
        log: whether it is logarithmic.
        at: values to write beside it; empty takes round ones.
    """

    label: str
    low: float
    high: float
    log: bool = False
    at: tuple[float, ...] = ()

    def place(self, value: float) -> float:
        """Where a value stands, from 0 to 1."""
        low, high, value = (
            (math.log10(item) for item in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        return 0.5 if high == low else (value - low) / (high - low)


def ticks(axis: Axis) -> list[float]:
    """The values that are written beside an axis: its own, or a handful of round ones."""
    if axis.at:
        return list(axis.at)
    span = axis.high - axis.low
    if span <= 0:
        return [axis.low]
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    first = math.ceil(axis.low / step - 1e-9)
    last = math.floor(axis.high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def histogram(values: Sequence[float], label: str, marks: Sequence[tuple[str, float]]) -> str:
    """How often each range of values occurs.

    Args:
        values: at least one.
        label: of the horizontal axis, with the unit.
        marks: named values, drawn as vertical lines: the median, the percentiles.
    """
    low, high = min(values), max(values)
    bins = max(1, min(60, math.ceil(2 * len(values) ** 0.5)))
    width = (high - low) / bins or 1.0
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / width))] += 1
    x = Axis(label, low, low + bins * width)
    y = Axis("samples", 0, max(counts))
    parts = []
    for index, count in enumerate(counts):
        if count:
            left, top = _at(x, low + index * width, y, count)
            right, bottom = _at(x, low + (index + 1) * width, y, 0)
            parts.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(0.5, right - left - 0.5):.1f}" '
                f'height="{bottom - top:.1f}"/>'
            )
    return _frame(x, y, parts + [_mark(x, name, value) for name, value in marks])


def points(
    x: Axis,
    y: Axis,
    values: Sequence[tuple[float, float]],
    *,
    line: bool = False,
    flagged: Sequence[tuple[float, float]] = (),
    bands: Sequence[tuple[float, float]] = (),
) -> str:
    """Points over two axes.

    Args:
        x: horizontal axis.
        y: vertical axis.
        values: (x, y) of each.
        line: whether they are joined.
        flagged: more points, drawn as rings.
        bands: (from, to) on the horizontal axis, shaded.
    """
    parts = []
    for begin, end in bands:
        left, right = (_at(x, min(max(edge, x.low), x.high), y, y.low)[0] for edge in (begin, end))
        parts.append(
            f'<rect class="band" x="{left:.1f}" y="{_TOP}" width="{max(2.0, right - left):.1f}" '
            f'height="{_HEIGHT - _TOP - _BOTTOM}"/>'
        )
    step = -(-len(values) // _MOST_POINTS) or 1
    places = [_at(x, a, y, b) for a, b in values[::step]]
    if line:
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<polyline points="{path}"/>')
    parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{3 if line else 1.6}"/>' for a, b in places]
    rings = [_at(x, a, y, b) for a, b in flagged]
    parts += [f'<circle class="flag" cx="{a:.1f}" cy="{b:.1f}" r="4"/>' for a, b in rings]
    return _frame(x, y, parts)


def _at(x: Axis, a: float, y: Axis, b: float) -> tuple[float, float]:
    across, up = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return _LEFT + x.place(a) * across, _HEIGHT - _BOTTOM - y.place(b) * up


def _mark(x: Axis, name: str, value: float) -> str:
    left = _LEFT + x.place(value) * (_WIDTH - _LEFT - _RIGHT)
    return (
        f'<line class="mark" x1="{left:.1f}" x2="{left:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        f'<text x="{left + 3:.1f}" y="{_TOP + 9}">{escape(name)}</text>'
    )


def _frame(x: Axis, y: Axis, parts: Sequence[str]) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    drawn = [f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>']
    for value in ticks(x):
        left, _ = _at(x, value, y, y.low)
        drawn.append(
            f'<text x="{left:.1f}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>'
        )
    for value in ticks(y):
        _, top = _at(x, x.low, y, value)
        drawn.append(f'<path class="grid" d="M{_LEFT} {top:.1f}H{right}"/>')
        drawn.append(f'<text x="{_LEFT - 6}" y="{top + 4:.1f}" text-anchor="end">{value:g}</text>')
    middle = (_LEFT + right) / 2
    drawn.append(
        f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x.label)}</text>'
        f'<text x="{_LEFT}" y="{_TOP - 2}">{escape(y.label)}</text>'
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y.label)} over '
        f'{escape(x.label)}">{"".join(drawn)}{"".join(parts)}</svg>'
    )
