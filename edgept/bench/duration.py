"""Durations for people: in the unit that suits their size."""

__all__ = ["format_duration", "unit_of"]

_UNITS = ((1e3, "s", 1e-3), (1.0, "ms", 1.0), (0.0, "µs", 1e3))  # from so many ms on, name, factor


def unit_of(milliseconds: float) -> tuple[str, float]:
    """The unit for a duration, and what milliseconds are multiplied with: ("µs", 1000.0)."""
    for least, unit, factor in _UNITS:
        if milliseconds >= least:
            return unit, factor
    return "ms", 1.0


def format_duration(milliseconds: float | None, factor: float) -> str:
    """Three digits that count, in the unit that a factor stands for; "n/a" for None."""
    if milliseconds is None:
        return "n/a"
    value = milliseconds * factor
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"
