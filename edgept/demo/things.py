"""Nine things to find in pictures: three animals, three plants, three vehicles."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgept.demo.shapes import Pen

__all__ = ["DRAWN", "GROUPS"]

GROUPS = {
    "animal": ("fish", "cat", "butterfly"),
    "plant": ("tree", "flower", "cactus"),
    "vehicle": ("car", "boat", "rocket"),
}


def _fish(pen: "Pen") -> None:
    high = pen.near(0.5, 0.2)
    pen.ellipse(-0.2, 0, 0.75, high)
    tail = pen.near(0.5, 0.2)
    pen.polygon([(0.35, 0), (0.95, -tail), (0.8, 0), (0.95, tail)])
    pen.polygon([(-0.3, -high * 0.9), (0.25, -high - 0.3), (0.3, -high * 0.5)])
    pen.ellipse(-0.6, -0.12, 0.12, 0.12, on="detail")
    pen.line([(-0.3, -0.3), (-0.2, 0), (-0.3, 0.3)], 0.09, on="detail")


def _cat(pen: "Pen") -> None:
    wide = pen.near(0.8, 0.1)
    pen.ellipse(0, 0.2, wide, 0.7)
    ear = pen.near(0.9, 0.08)
    for side in (-1, 1):
        pen.polygon([(side * wide, 0.1), (side * wide * 0.85, -ear), (side * 0.15, -0.4)])
        pen.ellipse(side * 0.33, 0.05, 0.13, 0.17, on="detail")
        pen.line([(side * 0.25, 0.42), (side * 0.75, pen.near(0.35))], 0.05, on="detail")
    pen.polygon([(-0.13, 0.3), (0.13, 0.3), (0, 0.47)], on="detail")


def _butterfly(pen: "Pen") -> None:
    upper, lower = pen.near(0.46), pen.near(0.36)
    for side in (-1, 1):
        pen.ellipse(side * 0.5, -0.4, 0.45, upper)
        pen.ellipse(side * 0.42, 0.45, lower, 0.42)
        pen.ellipse(side * 0.55, -0.42, 0.18, 0.2, on="detail")
        pen.line([(0, -0.6), (side * 0.25, -0.95)], 0.07)
    pen.ellipse(0, 0, 0.12, 0.75, on="detail")


def _tree(pen: "Pen") -> None:
    trunk = pen.near(0.14, 0.3)
    pen.rectangle(0, 0.7, trunk, 0.28, on="detail")
    if pen.rng.random() < 0.5:
        for level in range(3):
            wide = pen.near(0.5 + 0.2 * level, 0.1)
            top = -0.95 + 0.42 * level
            pen.polygon([(0, top), (wide, top + 0.7), (-wide, top + 0.7)])
    else:
        for x, y in ((0, -0.5), (-0.4, -0.1), (0.4, -0.1), (0, 0.1)):
            size = pen.near(0.45)
            pen.ellipse(x, y, size, size * 0.95)


def _flower(pen: "Pen") -> None:
    petals = int(pen.rng.integers(5, 8))
    far, size = pen.near(0.4), pen.near(0.24)
    for petal in range(petals):
        angle = 2 * math.pi * petal / petals
        pen.ellipse(far * math.cos(angle), -0.3 + far * math.sin(angle), size, size)
    pen.ellipse(0, -0.3, 0.22, 0.22, on="detail")
    pen.line([(0, 0.1), (0, 0.97)], 0.12)
    pen.ellipse(0.25, pen.near(0.65), 0.25, 0.1)


def _cactus(pen: "Pen") -> None:
    stem = pen.near(0.22)
    pen.rectangle(0, 0.1, stem, 0.8)
    pen.ellipse(0, -0.7, stem, 0.25)
    for side, height in ((-1, pen.near(0.1, 1.0)), (1, pen.near(-0.1, 1.0))):
        pen.line(
            [(0, height + 0.25), (side * 0.6, height + 0.25), (side * 0.6, height - 0.3)], 0.24
        )
        pen.ellipse(side * 0.6, height - 0.3, 0.12, 0.12)
    for x in (-0.1, 0.1):
        pen.line([(x, -0.6), (x, 0.85)], 0.045, on="detail")


def _car(pen: "Pen") -> None:
    roof = pen.near(0.5, 0.1)
    pen.rectangle(0, 0.2, 0.95, 0.28)
    pen.polygon([(-0.7, 0), (-0.45, -roof), (0.35, -roof), (0.65, 0)])
    wheel = pen.near(0.22)
    for side in (-0.52, 0.52):
        pen.ellipse(side, 0.5, wheel, wheel, on="detail")
    pen.polygon(
        [(-0.5, -0.02), (-0.36, -roof * 0.75), (-0.1, -roof * 0.75), (-0.1, -0.02)], on="detail"
    )
    pen.polygon(
        [(0.05, -0.02), (0.05, -roof * 0.75), (0.3, -roof * 0.75), (0.46, -0.02)], on="detail"
    )


def _boat(pen: "Pen") -> None:
    pen.polygon([(-0.95, 0.35), (0.95, 0.35), (pen.near(0.6), 0.85), (-pen.near(0.6), 0.85)])
    pen.line([(0, 0.4), (0, -0.95)], 0.09)
    pen.polygon([(0.08, -0.9), (0.08, 0.2), (pen.near(0.75), 0.2)], on="detail")
    pen.polygon([(-0.08, -0.6), (-0.08, 0.2), (-pen.near(0.55), 0.2)], on="detail")


def _rocket(pen: "Pen") -> None:
    wide = pen.near(0.28)
    pen.ellipse(0, -0.1, wide, 0.85)
    pen.rectangle(0, 0.3, wide * 0.85, 0.35)
    fin = pen.near(0.62)
    for side in (-1, 1):
        pen.polygon([(side * wide * 0.8, 0.1), (side * fin, 0.75), (side * wide * 0.6, 0.6)])
    pen.polygon([(-0.18, 0.66), (0.18, 0.66), (0, 0.97)], on="detail")
    pen.ellipse(0, -0.25, 0.13, 0.13, on="detail")


DRAWN: dict[str, Callable[["Pen"], None]] = {
    "fish": _fish,
    "cat": _cat,
    "butterfly": _butterfly,
    "tree": _tree,
    "flower": _flower,
    "cactus": _cactus,
    "car": _car,
    "boat": _boat,
    "rocket": _rocket,
}
