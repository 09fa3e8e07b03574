"""What generated pictures show: shapes that the vision model learned from, and things that it never saw.

Each kind is drawn in a square from -1 to 1, y downwards, with proportions that differ from one variant
to the next: a body, and a detail on it in another colour.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

from edgept.demo import things

__all__ = [
    "FIGURES",
    "GEOMETRY",
    "LETTERS",
    "SHAPES",
    "THINGS",
    "VARIANTS",
    "Pen",
    "Stamp",
    "stamp",
]

VARIANTS = 12
THINGS = tuple(things.DRAWN)
LETTERS = tuple("ABCDEFGHJKLMNPQRSTUVXYZ23457")
FIGURES = tuple(f"figure {number}" for number in range(32))

_DRAWN_SIDE = 256
_LEVELS = 3  # 128, 64 and 32 pixels


class Pen:
    """Draws in a square from -1 to 1 on one of two layers.

    Attributes:
        rng: for what differs between variants.
        body, detail: masks of one byte a pixel.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.body = Image.new("L", (_DRAWN_SIDE, _DRAWN_SIDE))
        self.detail = Image.new("L", (_DRAWN_SIDE, _DRAWN_SIDE))

    def near(self, value: float, share: float = 0.15) -> float:
        """A number within a share of the value."""
        return value * float(self.rng.uniform(1 - share, 1 + share))

    def polygon(self, points: Sequence[tuple[float, float]], *, on: str = "body") -> None:
        """A filled polygon."""
        self._on(on).polygon([_pixel(point) for point in points], fill=255)

    def ellipse(
        self, x: float, y: float, width: float, height: float, *, on: str = "body", fill: int = 255
    ) -> None:
        """A filled ellipse about (x, y) with these half axes; filled with 0 it is a hole."""
        corners = (_pixel((x - width, y - height)), _pixel((x + width, y + height)))
        self._on(on).ellipse(corners, fill=fill)

    def rectangle(
        self, x: float, y: float, width: float, height: float, *, on: str = "body", fill: int = 255
    ) -> None:
        """A filled rectangle about (x, y) with these half sides."""
        corners = (_pixel((x - width, y - height)), _pixel((x + width, y + height)))
        self._on(on).rectangle(corners, fill=fill)

    def line(
        self, points: Sequence[tuple[float, float]], width: float, *, on: str = "body"
    ) -> None:
        """A line through points, of this width."""
        pixels = [_pixel(point) for point in points]
        self._on(on).line(pixels, fill=255, width=round(width * _DRAWN_SIDE / 2), joint="curve")

    def regular(self, corners: int, inner: float | None = None) -> None:
        """A regular polygon; with an inner radius, a star."""
        count = corners if inner is None else 2 * corners
        radii = [0.95 if inner is None or index % 2 == 0 else inner for index in range(count)]
        angles = [2 * math.pi * index / count - math.pi / 2 for index in range(count)]
        self.polygon(
            [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]
        )

    def letter(self, letter: str) -> None:
        """A letter of Pillow's own font, as large as fits."""
        font = ImageFont.load_default(size=300)
        glyph = Image.new("L", (400, 400))
        weight = int(self.rng.integers(4, 14))
        ImageDraw.Draw(glyph).text((60, 10), letter, font=font, fill=255, stroke_width=weight)
        box = glyph.getbbox() or (0, 0, 400, 400)
        width, height = box[2] - box[0], box[3] - box[1]
        side = 0.95 * _DRAWN_SIDE / max(width, height)
        glyph = glyph.crop(box).resize((round(width * side), round(height * side)))
        self.body.paste(
            glyph, ((_DRAWN_SIDE - glyph.width) // 2, (_DRAWN_SIDE - glyph.height) // 2)
        )

    def _on(self, layer: str) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self.body if layer == "body" else self.detail)


def _pixel(point: tuple[float, float]) -> tuple[int, int]:
    """Where a point of the square is in the drawing."""
    return (
        round((point[0] + 1) / 2 * (_DRAWN_SIDE - 1)),
        round((point[1] + 1) / 2 * (_DRAWN_SIDE - 1)),
    )


def _crescent(pen: Pen) -> None:
    pen.ellipse(0, 0, 0.95, 0.95)
    pen.ellipse(pen.near(0.45), 0, 0.8, 0.8, fill=0)


def _ring(pen: Pen) -> None:
    pen.ellipse(0, 0, 0.95, 0.95)
    hole = pen.near(0.55)
    pen.ellipse(0, 0, hole, hole, fill=0)


def _heart(pen: Pen) -> None:
    pen.ellipse(-0.45, -0.4, 0.48, 0.48)
    pen.ellipse(0.45, -0.4, 0.48, 0.48)
    pen.polygon([(-0.9, -0.22), (0.9, -0.22), (0, pen.near(0.95, 0.08))])


def _drop(pen: Pen) -> None:
    pen.ellipse(0, 0.35, 0.6, 0.6)
    pen.polygon([(-0.57, 0.2), (0.57, 0.2), (0, -0.95)])


def _gear(pen: Pen) -> None:
    teeth = 8
    for index in range(teeth):
        angle = 2 * math.pi * index / teeth
        pen.line([(0, 0), (0.95 * math.cos(angle), 0.95 * math.sin(angle))], 0.3)
    pen.ellipse(0, 0, 0.7, 0.7)
    pen.ellipse(0, 0, 0.25, 0.25, fill=0)


def _plus(pen: Pen) -> None:
    arm = pen.near(0.3)
    pen.rectangle(0, 0, arm, 0.95)
    pen.rectangle(0, 0, 0.95, arm)


def _arch(pen: Pen) -> None:
    pen.ellipse(0, 0.2, 0.9, 1.1)
    pen.ellipse(0, 0.35, 0.5, 0.8, fill=0)
    pen.rectangle(0, 1.2, 1, 0.6, fill=0)


def _half_disc(pen: Pen) -> None:
    pen.ellipse(0, 0.45, 0.95, 0.95)
    pen.rectangle(0, 1, 1, 0.5, fill=0)


def _spiral(pen: Pen) -> None:
    turns = [(0.1 + 0.8 * t, 2 * math.pi * 1.8 * t) for t in np.linspace(0, 1, 60).tolist()]
    pen.line([(r * math.cos(a), r * math.sin(a)) for r, a in turns], pen.near(0.26))


GEOMETRY: dict[str, Callable[[Pen], None]] = {
    "disc": lambda pen: pen.ellipse(0, 0, 0.9, 0.9),
    "square": lambda pen: pen.rectangle(0, 0, 0.8, 0.8),
    "triangle": lambda pen: pen.polygon([(0, -0.9), (0.95, 0.8), (-0.95, 0.8)]),
    "pentagon": lambda pen: pen.regular(5),
    "bar": lambda pen: pen.rectangle(0, 0, 0.95, pen.near(0.28)),
    "four-pointed star": lambda pen: pen.regular(4, pen.near(0.35)),
    "five-pointed star": lambda pen: pen.regular(5, pen.near(0.4)),
    "sun": lambda pen: pen.regular(9, pen.near(0.6, 0.08)),
    "plus": _plus,
    "ring": _ring,
    "crescent": _crescent,
    "heart": _heart,
    "drop": _drop,
    "gear": _gear,
    "arch": _arch,
    "spiral": _spiral,
    "half disc": _half_disc,
    "arrow": lambda pen: pen.polygon(
        [(-0.95, -0.2), (0.1, -0.2), (0.1, -0.7), (0.95, 0), (0.1, 0.7), (0.1, 0.2), (-0.95, 0.2)]
    ),
    "chevron": lambda pen: pen.line([(-0.8, 0.5), (0, -0.4), (0.8, 0.5)], pen.near(0.36)),
    "hourglass": lambda pen: pen.polygon([(-0.8, -0.9), (0.8, -0.9), (-0.8, 0.9), (0.8, 0.9)]),
    "lightning": lambda pen: pen.polygon(
        [(0.3, -0.95), (-0.5, 0.15), (-0.05, 0.15), (-0.3, 0.95), (0.5, -0.2), (0.05, -0.2)]
    ),
    "trapezium": lambda pen: pen.polygon([(-0.5, -0.6), (0.5, -0.6), (0.95, 0.6), (-0.95, 0.6)]),
}
SHAPES = (*GEOMETRY, *LETTERS, *FIGURES)


def _figure(pen: Pen, number: int) -> None:
    """Some arrangement of a few pieces, the same for every drawing of this number but for small shifts."""
    fixed = np.random.default_rng((2022, number))
    for index in range(int(fixed.integers(3, 7))):
        # the first piece holds the others together
        far = 0.15 if index == 0 else 0.62
        x, y = (float(v) + pen.rng.normal(0, 0.03) for v in fixed.uniform(-far, far, 2))
        width, height = (
            pen.near(float(v), 0.1) for v in fixed.uniform(0.3, 0.6, 2) * (1.2 if index == 0 else 1)
        )
        layer = "body" if index == 0 or fixed.random() < 0.65 else "detail"
        piece = int(fixed.integers(4))
        if layer == "detail":
            width, height = width * 0.5, height * 0.5
        if piece == 0:
            pen.ellipse(x, y, width, height, on=layer)
        elif piece == 1:
            pen.rectangle(x, y, width, height, on=layer)
        else:
            turn = float(fixed.uniform(0, 2 * math.pi))
            angles = [turn + 2 * math.pi * corner / 3 for corner in range(3)]
            pen.polygon(
                [(x + width * math.cos(a), y + height * math.sin(a)) for a in angles], on=layer
            )


@dataclass(frozen=True)
class Stamp:
    """A drawing of a kind, from large to small.

    Attributes:
        bodies: its silhouette, 128, 64 and 32 pixels wide; one byte a pixel.
        details: what is on it in another colour, of the same sizes.
    """

    bodies: tuple[Image.Image, ...]
    details: tuple[Image.Image, ...]


@cache
def stamp(kind: str, variant: int) -> Stamp:
    """The drawing of one variant of a kind.

    Args:
        kind: one of `SHAPES` or `THINGS`.
        variant: below `VARIANTS`.
    """
    pen = Pen(np.random.default_rng((*kind.encode(), variant)))
    if kind in things.DRAWN:
        things.DRAWN[kind](pen)
    elif kind in GEOMETRY:
        GEOMETRY[kind](pen)
    elif kind in FIGURES:
        _figure(pen, FIGURES.index(kind))
    else:
        pen.letter(kind)
    if kind in GEOMETRY and variant % 2:
        # half of the plain shapes carry a smaller copy of themselves
        small = pen.body.resize((_DRAWN_SIDE * 2 // 5, _DRAWN_SIDE * 2 // 5))
        pen.detail.paste(small, (_DRAWN_SIDE * 3 // 10, _DRAWN_SIDE * 3 // 10))
        pen.detail = ImageChops.darker(pen.detail, pen.body)
    pen.body = ImageChops.lighter(pen.body, pen.detail)
    return Stamp(_levels(pen.body), _levels(pen.detail))


def _levels(mask: Image.Image) -> tuple[Image.Image, ...]:
    """A drawing at half its size, a quarter, an eighth."""
    return tuple(mask.reduce(2 ** (level + 1)) for level in range(_LEVELS))
