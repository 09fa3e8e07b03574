"""What is made small for each task on pictures."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from edgept.tune.vision.matching import generalized_iou, match
from edgept.tune.vision.rows import IGNORED
from edgept.tune.vision.store import Target

__all__ = ["detection_loss", "segmentation_loss", "upsample", "with_no_object"]

_NO_OBJECT_WEIGHT, _L1_WEIGHT, _GIOU_WEIGHT = 0.1, 5.0, 2.0  # as DETR has them


def upsample(logits: torch.Tensor, grid: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """Logits of patches as those of pixels, bilinearly between the patches' centres.

    Args:
        logits: (pictures, rows · columns, classes), row by row.
        grid: rows and columns.
        size: height and width.

    Returns:
        (pictures, classes, height, width).
    """
    planes = logits.transpose(1, 2).reshape(len(logits), logits.shape[2], *grid)
    return functional.interpolate(planes, size=size, mode="bilinear", align_corners=False)


def segmentation_loss(
    logits: torch.Tensor, grid: tuple[int, int], masks: torch.Tensor
) -> torch.Tensor:
    """Mean cross-entropy of the pixels' classes, in nats; pixels of the class 255 are left out.

    Args:
        logits: (pictures, rows · columns, classes), of the patches.
        grid: rows and columns.
        masks: (pictures, height, width) int64, of the model's input.
    """
    pixels = upsample(logits, grid, (masks.shape[1], masks.shape[2]))
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
    probabilities = extended.softmax(dim=-1)
    num_labels = logits.shape[-1]
    wanted = torch.full(logits.shape[:2], num_labels, device=logits.device)  # no object
    distance = overlap = logits.sum() * 0.0
    for index, target in enumerate(targets):
        classes, found = target.classes.to(logits.device), target.boxes.to(logits.device)
        tokens, objects = match(probabilities[index, :, :-1], boxes[index], classes, found)
        wanted[index, tokens] = classes[objects]
        pairs = boxes[index, tokens], found[objects]
        distance = distance + (pairs[0] - pairs[1]).abs().sum()
        overlap = overlap + (1 - generalized_iou(*pairs).diagonal()).sum()
    weights = torch.ones(num_labels + 1, device=logits.device)
    weights[-1] = _NO_OBJECT_WEIGHT
    named = functional.cross_entropy(extended.transpose(1, 2), wanted, weight=weights)
    count = max(1, sum(len(target.classes) for target in targets))
    return named + (_L1_WEIGHT * distance + _GIOU_WEIGHT * overlap) / count
