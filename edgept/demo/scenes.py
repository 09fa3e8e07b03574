"""Generated pictures: things on all sorts of grounds, in all sorts of colours, light and disorder."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from edgept.demo.shapes import VARIANTS, stamp

__all__ = ["GROUNDS", "SURFACES", "Scene", "Thing", "make_scene"]

GROUNDS = ("plain", "gradient", "clouds", "stripes", "checks", "blobs", "grain")
SURFACES = ("plain", "gradient", "stripes", "checks", "clouds")

_PLACES = 20  # tries to find one that is free
_LEAST_CONTRAST = 80.0  # distance of two colours, of 442


@dataclass(frozen=True)
class Thing:
    """A thing in a scene.

    Attributes:
        kind: what it is.
        box: left, top, right and bottom of what is seen of it, in pixels.
        colour: red, green and blue, 0 to 255.
        surface: one of `SURFACES`.
    """

    kind: str
    box: tuple[int, int, int, int]
    colour: tuple[int, int, int]
    surface: str


@dataclass(frozen=True)
class Scene:
    """A generated picture and what is in it.

    Attributes:
        pixels: uint8 (side, side, 3), RGB.
        owner: uint8 (side, side): whose a pixel is, 1 + index of the thing, or 0.
        things: the largest first.
        ground: one of `GROUNDS`.
    """

    pixels: npt.NDArray[np.uint8]
    owner: npt.NDArray[np.uint8]
    things: tuple[Thing, ...]
    ground: str


def make_scene(
    rng: np.random.Generator,
    kinds: Sequence[str],
    *,
    fewest: int = 1,
    most: int = 3,
    side: int = 64,
) -> Scene:
    """A picture of some things.

    Args:
        rng: decides everything.
        kinds: to choose from, see `edgept.demo.shapes`.
        fewest: how many things at least.
        most: how many things at most; a crowded picture may hold fewer.
        side: height and width in pixels.
    """
    ground = GROUNDS[int(rng.integers(len(GROUNDS)))]
    first, second = _colours(rng, 2, least=25)
    canvas = _surface(rng, ground, first, second, side)  # float32 (side, side, 3)
    if rng.random() < 0.5:
        canvas = _litter(rng, canvas)
    owner = np.zeros((side, side), np.uint8)
    count = int(rng.integers(fewest, most + 1))
    largest = {1: 0.86, 2: 0.62, 3: 0.52}.get(count, 0.44)
    sizes = sorted(rng.uniform(0.3, largest, count).tolist(), reverse=True)
    drawn: list[tuple[str, tuple[int, int, int], str]] = []
    taken: list[tuple[float, float, float]] = []
    for size in sizes:
        place = _place(rng, size, taken)
        if place is None:
            continue
        kind = kinds[int(rng.integers(len(kinds)))]
        body, detail = _masks(rng, kind, place, size, side)  # float32 (side, side)
        colour, other = _contrast(rng, (first, second))
        surface = SURFACES[int(rng.integers(len(SURFACES)))]
        if rng.random() < 0.3:
            shift = max(1, side // 32)
            shade = np.roll(body, (shift, shift), (0, 1)) * 0.45
            canvas *= 1 - shade[..., None]
        shades = tuple(min(255.0, max(0.0, c * rng.uniform(0.72, 1.28))) for c in colour)
        paint = _surface(rng, surface, colour, shades, side)
        paint += detail[..., None] * (np.asarray(other, np.float32) - paint)
        canvas += body[..., None] * (paint - canvas)
        drawn.append((kind, (round(colour[0]), round(colour[1]), round(colour[2])), surface))
        owner[body > 0.5] = len(drawn)
        taken.append((*place, size))
    if rng.random() < 0.2:
        _cross(rng, canvas, owner)
    seen = [(number, _box(owner == number)) for number in range(1, len(drawn) + 1)]
    things = []
    renumbered = np.zeros(len(drawn) + 1, np.uint8)
    for number, box in seen:
        if box is not None:
            things.append(Thing(drawn[number - 1][0], box, *drawn[number - 1][1:]))
            renumbered[number] = len(things)
    return Scene(_light(rng, canvas), renumbered[owner], tuple(things), ground)


def _colours(
    rng: np.random.Generator, count: int, *, least: float
) -> list[tuple[float, float, float]]:
    """Random colours, each at least so far from the first."""
    found: list[tuple[float, float, float]] = []
    while len(found) < count:
        colour = tuple(rng.uniform(15, 240, 3).tolist())
        if not found or math.dist(found[0], colour) >= least:
            found.append(colour)
    return found


def _contrast(
    rng: np.random.Generator, ground: Sequence[tuple[float, float, float]]
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """A colour that stands out from those of the ground, and one that stands out from that."""
    while True:
        colour, other = _colours(rng, 2, least=_LEAST_CONTRAST)
        if all(math.dist(colour, each) >= _LEAST_CONTRAST for each in ground):
            return colour, other


def _surface(
    rng: np.random.Generator,
    kind: str,
    first: tuple[float, ...],
    second: tuple[float, ...],
    side: int,
) -> npt.NDArray[np.float32]:
    """A texture of two colours, (side, side, 3)."""
    one, two = np.asarray(first, np.float32), np.asarray(second, np.float32)
    mix: npt.NDArray[np.float32]
    if kind == "plain":
        return np.broadcast_to(one, (side, side, 3)).copy()
    if kind in ("clouds", "blobs", "grain"):
        cells = int(rng.integers(3, 7)) if kind != "grain" else int(rng.integers(16, 33))
        grid = Image.fromarray(rng.random((cells, cells), np.float32))
        mix = np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC))
        if kind == "blobs":
            mix = np.clip((mix - 0.5) * 12 + 0.5, 0, 1)
    else:
        angle = float(rng.uniform(0, math.pi))
        line = np.linspace(-1, 1, side, dtype=np.float32)
        along = line[None, :] * math.cos(angle) + line[:, None] * math.sin(angle)
        if kind == "gradient":
            mix = np.clip(along * 0.5 + 0.5, 0, 1)
        else:
            pace = float(rng.uniform(8, 24))
            mix = np.clip(np.sin(along * pace) * 3 + 0.5, 0, 1)
            if kind == "checks":
                across = line[:, None] * math.cos(angle) - line[None, :] * math.sin(angle)
                mix = np.abs(mix - np.clip(np.sin(across * pace) * 3 + 0.5, 0, 1))
    painted: npt.NDArray[np.float32] = one + mix[..., None] * (two - one)
    return painted


def _place(
    rng: np.random.Generator, size: float, taken: Sequence[tuple[float, float, float]]
) -> tuple[float, float] | None:
    """Centre of a thing of this size, as shares of the side; what stands there may be covered a little."""
    for _ in range(_PLACES):
        x, y = rng.uniform(size * 0.42, 1 - size * 0.42, 2).tolist()
        if all(max(abs(x - a), abs(y - b)) > 0.42 * (size + other) for a, b, other in taken):
            return x, y
    return None


def _masks(
    rng: np.random.Generator, kind: str, place: tuple[float, float], size: float, side: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A thing turned, stretched, sheared and put in its place: body and detail, (side, side), 0 to 1."""
    drawing = stamp(kind, int(rng.integers(VARIANTS)))
    turn = float(np.clip(rng.normal(0, 0.28), -0.6, 0.6))
    stretch = float(rng.uniform(0.85, 1.18))
    shear = float(rng.normal(0, 0.08))
    flip = -1.0 if kind.islower() and len(kind) > 1 and rng.random() < 0.5 else 1.0
    pixels = size * side
    level = next((i for i in (2, 1) if drawing.bodies[i].width >= pixels), 0)
    width = drawing.bodies[level].width
    # from a place in the picture back to one in the drawing
    scale = width / pixels
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
    a, b = flip * (cos * stretch + shear * sin), flip * (sin * stretch - shear * cos)
    c, d = -sin / stretch, cos / stretch
    x, y = place[0] * side, place[1] * side
    affine = (a, b, width / 2 - a * x - b * y, c, d, width / 2 - c * x - d * y)
    body, detail = (
        np.asarray(
            mask.transform((side, side), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR),
            np.float32,
        )
        for mask in (drawing.bodies[level], drawing.details[level])
    )
    return body / np.float32(255), detail / np.float32(255)


def _litter(rng: np.random.Generator, canvas: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Small dots and lines that mean nothing."""
    side = canvas.shape[0]
    picture = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(2, 9))):
        x, y, dx, dy = (rng.uniform(0, 1, 4) * side).tolist()
        colour = tuple(rng.integers(0, 256, 3).tolist())
        if rng.random() < 0.5:
            small = rng.uniform(0.01, 0.035) * side
            pen.ellipse((x - small, y - small, x + small, y + small), fill=colour)
        else:
            end = (x + (dx - side / 2) * 0.5, y + (dy - side / 2) * 0.5)
            pen.line(((x, y), end), fill=colour, width=max(1, side // 64))
    return np.asarray(picture, np.float32).copy()


def _cross(
    rng: np.random.Generator, canvas: npt.NDArray[np.float32], owner: npt.NDArray[np.uint8]
) -> None:
    """A bar in front of everything."""
    side = canvas.shape[0]
    wide = max(1, round(rng.uniform(0.02, 0.07) * side))
    at = int(rng.integers(0, side - wide))
    where = np.s_[at : at + wide, :] if rng.random() < 0.5 else np.s_[:, at : at + wide]
    canvas[where] = rng.uniform(0, 255, 3)
    owner[where] = 0


def _light(rng: np.random.Generator, canvas: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Light from one side, blur and noise."""
    side = canvas.shape[0]
    angle, depth = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0, 0.3))
    line = np.linspace(-1, 1, side, dtype=np.float32)
    along = line[None, :] * math.cos(angle) + line[:, None] * math.sin(angle)
    canvas *= float(rng.uniform(0.7, 1.15)) * (1 + depth * along[..., None])
    radius = float(rng.uniform(0, 0.9)) * side / 64
    if radius > 0.3 * side / 64:
        picture = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
        canvas = np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), np.float32)
    noise = rng.standard_normal((side, side, 1), np.float32) * float(rng.uniform(0, 9))
    return np.clip(canvas + noise, 0, 255).astype(np.uint8)


def _box(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """The box around what is seen of a thing; None if that is next to nothing."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if mask.sum() < mask.size / 200:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
