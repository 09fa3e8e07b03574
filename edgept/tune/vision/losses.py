"""What is made small for each task on pictures."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from edgept.tune.vision.matching import generalized_iou, match
from edgept.tune.vision.rows import IGNORED
from edgept.tune.vision.store import Target

__all__ = [
    "detection_loss",
    "patch_detection_loss",
    "segmentation_loss",
    "upsample",
    "with_no_object",
]

_NO_OBJECT_WEIGHT, _L1_WEIGHT, _GIOU_WEIGHT = 0.1, 5.0, 2.0  # as DETR has them
_FOCAL_ALPHA, _FOCAL_GAMMA = 0.25, 2.0


def upsample(
    logits: torch.Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    sides: tuple[float, float] | None = None,
) -> torch.Tensor:
    """Logits of patches as those of pixels, bilinearly between the patches' centres.

    Args:
        logits: (pictures, rows · columns, classes), row by row.
        grid: rows and columns.
        size: height and width in pixels.
        sides: height and width in patches, see ImageGeometry; None is the grid.

    Returns:
        (pictures, classes, height, width).
    """
    planes = logits.transpose(1, 2).reshape(len(logits), logits.shape[2], *grid)
    if sides is None or sides == grid:
        return functional.interpolate(planes, size=size, mode="bilinear", align_corners=False)
    # -1 and 1 are the outer edges of the first and the last patch
    down, across = (
        (torch.arange(pixels, device=logits.device) + 0.5) * (2 * side / pixels / patches) - 1
        for pixels, side, patches in zip(size, sides, grid, strict=True)
    )
    rows, columns = torch.meshgrid(down, across, indexing="ij")  # each (height, width)
    places = torch.stack([columns, rows], -1).to(planes.dtype).expand(len(planes), -1, -1, -1)
    return functional.grid_sample(
        planes, places, mode="bilinear", padding_mode="border", align_corners=False
    )


def segmentation_loss(
    logits: torch.Tensor,
    grid: tuple[int, int],
    masks: torch.Tensor,
    sides: tuple[float, float] | None = None,
) -> torch.Tensor:
    """Mean cross-entropy of the pixels' classes, in nats; pixels of the class 255 are left out.

    Args:
        logits: (pictures, rows · columns, classes), of the patches.
        grid: rows and columns.
        masks: (pictures, height, width) int64, of the model's input.
        sides: as in `upsample`.
    """
    pixels = upsample(logits, grid, (masks.shape[1], masks.shape[2]), sides)
    total = functional.cross_entropy(pixels, masks, ignore_index=IGNORED, reduction="sum")
    return total / (masks != IGNORED).sum().clamp(min=1)


def with_no_object(logits: torch.Tensor) -> torch.Tensor:
    """Class logits (…, labels) with that of "no object", which is 0, behind them: (…, labels + 1)."""
    return functional.pad(logits, (0, 1))


def detection_loss(
    logits: torch.Tensor, boxes: torch.Tensor, targets: Sequence[Target]
) -> torch.Tensor:
    """DETR's loss under the cheapest matching: 1 of the classes, 5 of L1, 2 of generalised IoU.

    Args:
        logits: (pictures, tokens, labels), of the virtual tokens.
        boxes: (pictures, tokens, 4), centre x, centre y, width, height as shares of the picture.
        targets: of each picture.
    """
    extended = with_no_object(logits)  # (pictures, tokens, labels + 1)
    probabilities = extended.softmax(dim=-1)[..., :-1]
    wanted, moved = _matched(probabilities, boxes, targets)
    weights = torch.ones(extended.shape[-1], device=logits.device)
    weights[-1] = _NO_OBJECT_WEIGHT
    named = functional.cross_entropy(extended.transpose(1, 2), wanted, weight=weights)
    return named + moved


def patch_detection_loss(
    logits: torch.Tensor, boxes: torch.Tensor, targets: Sequence[Target]
) -> torch.Tensor:
    """The same where each patch says of each label whether it is there (OWL-ViT, Minderer et al. 2022).

    Instead of a class, each patch has a chance for each label, learnt with the focal loss (Lin et al. 2017).

    Args:
        logits: (pictures, patches, labels).
        boxes: (pictures, patches, 4), the model's own.
        targets: of each picture.
    """
    chances = logits.sigmoid()
    wanted, moved = _matched(chances, boxes, targets)
    right = functional.one_hot(wanted, logits.shape[-1] + 1)[..., :-1].to(logits.dtype)
    each = functional.binary_cross_entropy_with_logits(logits, right, reduction="none")
    missed = (1 - chances) * right + chances * (1 - right)
    balance = _FOCAL_ALPHA * right + (1 - _FOCAL_ALPHA) * (1 - right)
    focal = (balance * missed**_FOCAL_GAMMA * each).sum() / _count(targets)
    return focal + moved


def _matched(
    probabilities: torch.Tensor, boxes: torch.Tensor, targets: Sequence[Target]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The class that each token is to find, (pictures, tokens), labels where none; and the boxes' loss."""
    wanted = torch.full(probabilities.shape[:2], probabilities.shape[2], device=boxes.device)
    distance = overlap = boxes.sum() * 0.0
    for index, target in enumerate(targets):
        classes, found = target.classes.to(boxes.device), target.boxes.to(boxes.device)
        tokens, objects = match(probabilities[index], boxes[index], classes, found)
        wanted[index, tokens] = classes[objects]
        pairs = boxes[index, tokens], found[objects]
        distance = distance + (pairs[0] - pairs[1]).abs().sum()
        overlap = overlap + (1 - generalized_iou(*pairs).diagonal()).sum()
    return wanted, (_L1_WEIGHT * distance + _GIOU_WEIGHT * overlap) / _count(targets)


def _count(targets: Sequence[Target]) -> int:
    return max(1, sum(len(target.classes) for target in targets))
