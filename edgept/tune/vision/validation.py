"""Loss and metric of held-out pictures, whoever computed what the head and the box layer give."""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import torch
from torch.nn import functional

from edgept.tune.job import Job
from edgept.tune.vision.average_precision import Found, average_precision
from edgept.tune.vision.losses import (
    detection_loss,
    patch_detection_loss,
    segmentation_loss,
    upsample,
    with_no_object,
)
from edgept.tune.vision.matching import box_corners
from edgept.tune.vision.metrics import classification_metric, confusion, mean_iou
from edgept.tune.vision.rows import IGNORED
from edgept.tune.vision.store import Target

__all__ = ["Outputs", "finds_by_patches", "masks_of", "score_pictures"]

Outputs: TypeAlias = tuple[list[int], list[Target], torch.Tensor, torch.Tensor | None]
"""Of some pictures: their indices, what is right, logits (pictures, positions, labels) and, to detect, boxes
(pictures, positions, 4). The positions are those that the task reads: the picture's own, the patches or the
virtual tokens."""


def score_pictures(job: Job, outputs: Iterable[Outputs]) -> tuple[float, dict[str, float]]:
    """Loss and metric over all held-out pictures.

    Args:
        job: task, labels and held-out pictures.
        outputs: of all of them, in order.

    Returns:
        The task's loss; accuracy, macro_f1 and auc; mean_iou and pixel_accuracy, over the pixels of the
        pictures as they are; or ap and ap50.
    """
    measure = {
        "image-classification": _classes,
        "image-segmentation": _pixels,
        "object-detection": _objects,
    }[job.task]
    return measure(job, outputs)


def finds_by_patches(job: Job) -> bool:
    """Whether patches find things, with boxes of the model's own, and not virtual tokens."""
    return bool(job.backbone.vision.geometry.detects == "patches")


def masks_of(targets: Iterable[Target]) -> torch.Tensor:
    """(pictures, height, width) int64, of the model's input."""
    return torch.stack([target.mask for target in targets if target.mask is not None]).long()


def _classes(_: Job, outputs: Iterable[Outputs]) -> tuple[float, dict[str, float]]:
    parts, classes = [], []
    for _rows, targets, logits, _boxes in outputs:
        parts.append(logits[:, 0].cpu())
        classes += [target.label for target in targets]
    found, right = torch.cat(parts), torch.tensor(classes)
    metric = classification_metric(found.softmax(dim=1).numpy(), right.numpy())
    return float(functional.cross_entropy(found, right)), metric


def _pixels(job: Job, outputs: Iterable[Outputs]) -> tuple[float, dict[str, float]]:
    num_labels, image = len(job.labels), job.backbone.vision.geometry
    table = np.zeros((num_labels, num_labels), dtype=np.int64)
    total, pixels = 0.0, 0
    for rows, targets, logits, _boxes in outputs:
        masks = masks_of(targets).to(logits.device)
        count = int((masks != IGNORED).sum())
        total += float(segmentation_loss(logits, image.grid, masks, image.sides)) * count
        pixels += count
        for row, own in zip(rows, logits, strict=True):
            mask = job.held_out.mask(row)  # of the picture itself, as the device answers
            width, height = size = job.held_out.sizes[row]
            sides = image.sides_of(size, job.held_out.frame(size))
            logits_of_pixels = upsample(own[None], image.grid, (height, width), sides)[0]
            found = logits_of_pixels.argmax(dim=0)  # (height, width)
            table += confusion(found.cpu().numpy(), mask, num_labels, IGNORED)
    return total / max(1, pixels), mean_iou(table)


def _objects(job: Job, outputs: Iterable[Outputs]) -> tuple[float, dict[str, float]]:
    made: list[Found] = []
    right: list[Found] = []
    total = 0.0
    for rows, targets, logits, boxes in outputs:
        if boxes is None:
            raise AssertionError("what detects gives boxes")
        if finds_by_patches(job):
            loss, chances = patch_detection_loss(logits, boxes, targets), logits.sigmoid()
        else:
            loss = detection_loss(logits, boxes, targets)
            chances = with_no_object(logits).softmax(dim=-1)[..., :-1]
        total += float(loss) * len(targets)
        scores, classes = chances.max(dim=-1)  # (pictures, tokens or patches)
        corners = box_corners(boxes).cpu().clamp(min=0)  # (pictures, tokens, 4)
        for index, row in enumerate(rows):
            size = job.held_out.sizes[row]
            frame = job.held_out.frame(size)
            ends = torch.tensor(
                [size[0] / frame[0], size[1] / frame[1]] * 2
            )  # of the picture in it
            inside = corners[index].minimum(ends)
            is_there = (inside[:, 2:] > inside[:, :2]).all(dim=1)  # as the device's detector has it
            own = (inside, classes[index].cpu(), scores[index].cpu())
            made.append(Found(*(tensor[is_there].numpy() for tensor in own)))
            right.append(_to_be_found(targets[index], *job.held_out.crowds(row)))
    return total / len(right), average_precision(made, right, len(job.labels))


def _to_be_found(target: Target, classes: torch.Tensor, corners: torch.Tensor) -> Found:
    """A picture's objects, and behind them its crowds, of these classes (n,) and corners (n, 4)."""
    return Found(
        torch.cat([box_corners(target.boxes), corners]).numpy(),
        torch.cat([target.classes, classes]).numpy(),
        is_crowd=np.arange(len(target.classes) + len(classes)) >= len(target.classes),
    )
