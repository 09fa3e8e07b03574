"""What the vision model is taught: targets read off generated scenes, and the losses on them.

Shapes, letters and nameless figures only: what `edgept demo vision` looks for (`THINGS`) is not among them.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgept.demo.scenes import GROUNDS, SURFACES, Scene, make_scene
from edgept.demo.shapes import SHAPES

__all__ = ["PATCH", "SIDE", "Lesson", "Teacher", "make_lesson"]

SIDE = 64
PATCH = 8
MOST_THINGS = 4
_GRID = SIDE // PATCH
_HIDDEN_SHARE = 0.25  # of the patches, in half of the pictures
_CHANNEL_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


@dataclass
class Lesson:
    """Pictures and what is to be said about them; N pictures of P patches, row by row.

    Attributes:
        pixels: uint8 (N, SIDE, SIDE, 3).
        ground: uint8 (N,), index of `GROUNDS`.
        present: float16 (N, kinds), share of each kind in what is seen of all things.
        kind: uint8 (N, P), index of `SHAPES` of the thing that most of the patch belongs to; 255: none.
        surface: uint8 (N, P), index of `SURFACES` of that thing.
        colour: uint8 (N, P, 3), of that thing.
        box: float16 (N, P, 4), that thing's left, top, right, bottom, as shares of the side.
        cover: float16 (N, P), how much of the patch belongs to things.
    """

    pixels: torch.Tensor
    ground: torch.Tensor
    present: torch.Tensor
    kind: torch.Tensor
    surface: torch.Tensor
    colour: torch.Tensor
    box: torch.Tensor
    cover: torch.Tensor

    def __getitem__(self, rows: torch.Tensor) -> "Lesson":
        """Some of the pictures."""
        return Lesson(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})


def make_lesson(seed: int, count: int) -> Lesson:
    """Scenes of shapes with their targets.

    Args:
        seed: of the scenes; each has its own number under it.
        count: how many.
    """
    patches = _GRID**2
    arrays: dict[str, Any] = {
        "pixels": np.zeros((count, SIDE, SIDE, 3), np.uint8),
        "ground": np.zeros(count, np.uint8),
        "present": np.zeros((count, len(SHAPES)), np.float16),
        "kind": np.full((count, patches), 255, np.uint8),
        "surface": np.zeros((count, patches), np.uint8),
        "colour": np.zeros((count, patches, 3), np.uint8),
        "box": np.zeros((count, patches, 4), np.float16),
        "cover": np.zeros((count, patches), np.float16),
    }
    for row in range(count):
        # half of the pictures show one thing, larger than several could be: from these it learns first
        most = MOST_THINGS if row % 2 else 1
        scene = make_scene(np.random.default_rng((seed, row)), SHAPES, most=most, side=SIDE)
        _fill(arrays, row, scene)
    return Lesson(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def _fill(arrays: dict[str, Any], row: int, scene: Scene) -> None:
    arrays["pixels"][row] = scene.pixels
    arrays["ground"][row] = GROUNDS.index(scene.ground)
    if not scene.things:
        return
    # share of each patch that each thing owns: (things, patches)
    owned = np.stack(
        [
            (scene.owner == number).reshape(_GRID, PATCH, _GRID, PATCH).mean((1, 3)).ravel()
            for number in range(1, len(scene.things) + 1)
        ]
    )
    whose = owned.argmax(0)
    things = scene.things
    kinds = np.array([SHAPES.index(thing.kind) for thing in things], np.uint8)
    arrays["kind"][row] = np.where(owned.max(0) > 0.25, kinds[whose], 255)
    arrays["surface"][row] = np.array([SURFACES.index(thing.surface) for thing in things])[whose]
    arrays["colour"][row] = np.array([thing.colour for thing in things])[whose]
    arrays["box"][row] = np.array([thing.box for thing in things])[whose] / SIDE
    arrays["cover"][row] = owned.sum(0)
    np.add.at(arrays["present"][row], kinds, owned.sum(1) / owned.sum())


class Teacher(nn.Module):
    """Heads on the frozen model's features that exist in pretraining only."""

    def __init__(self, hidden: int) -> None:
        """For features of this width."""
        super().__init__()
        self.picture = nn.Linear(hidden, len(SHAPES) + len(GROUNDS))
        self.patch = nn.Linear(hidden, len(SHAPES) + len(SURFACES) + 3 + 4 + 1)
        self.pixels = nn.Linear(hidden, PATCH * PATCH * 3)

    def forward(self, features: torch.Tensor, lesson: Lesson, hidden: torch.Tensor) -> Any:
        """Losses by name.

        Args:
            features: float32 (N, 1 + P, hidden).
            lesson: of N pictures, `pixels` normalised to (N, 3, SIDE, SIDE).
            hidden: bool (N, P), patches that the model did not see.
        """
        kinds, ground = self.picture(features[:, 0]).split([len(SHAPES), len(GROUNDS)], -1)
        some = (lesson.present.sum(-1) > 0).float()
        losses = {
            "present": (
                functional.cross_entropy(kinds, lesson.present.float(), reduction="none") * some
            ).mean(),
            "ground": functional.cross_entropy(ground, lesson.ground.long()),
        }
        said = self.patch(features[:, 1:])
        kind, surface, colour, box, cover = said.split([len(SHAPES), len(SURFACES), 3, 4, 1], -1)
        on = lesson.kind != 255  # (N, P)
        losses["kind"] = functional.cross_entropy(kind[on], lesson.kind[on].long())
        losses["surface"] = functional.cross_entropy(surface[on], lesson.surface[on].long())
        losses["colour"] = functional.mse_loss(colour[on], lesson.colour[on].float() / 127.5 - 1)
        losses["box"] = functional.l1_loss(box[on].sigmoid(), lesson.box[on].float())
        losses["cover"] = functional.binary_cross_entropy_with_logits(
            cover[..., 0], lesson.cover.float().clamp(0, 1)
        )
        if hidden.any():
            patches = functional.unfold(lesson.pixels, PATCH, stride=PATCH).transpose(1, 2)
            wanted = patches[hidden]  # (hidden ones, 3 * PATCH * PATCH)
            losses["pixels"] = functional.mse_loss(self.pixels(features[:, 1:][hidden]), wanted)
        return losses


WEIGHTS = {
    "present": 1.0,
    "ground": 0.2,
    "kind": 1.0,
    "surface": 0.2,
    "colour": 1.0,
    "box": 4.0,
    "cover": 1.0,
    "pixels": 1.0,
}


def prepare(lesson: Lesson, generator: torch.Generator) -> tuple[Lesson, torch.Tensor]:
    """Recolour pictures at random, normalise them, and choose the patches to hide.

    Returns:
        The lesson with float32 pixels (N, 3, SIDE, SIDE) from -1 to 1; bool (N, P), what is hidden.
    """
    count = len(lesson.ground)
    order = torch.tensor(_CHANNEL_ORDERS)[torch.randint(6, (count,), generator=generator)]
    sign = torch.randint(2, (count, 1), generator=generator) * 2.0 - 1  # -1: the negative
    pixels = lesson.pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    pixels = pixels.gather(1, order[:, :, None, None].expand_as(pixels)) * sign[:, :, None, None]
    colour = lesson.colour.gather(2, order[:, None].expand_as(lesson.colour)).float() / 127.5 - 1
    colour = (colour * sign[:, :, None] + 1) * 127.5
    hidden = torch.rand(count, _GRID**2, generator=generator) < _HIDDEN_SHARE
    hidden &= torch.rand(count, 1, generator=generator) < 0.5
    changed = {item.name: getattr(lesson, item.name) for item in fields(lesson)}
    return Lesson(**(changed | {"pixels": pixels, "colour": colour})), hidden
