"""Set matching: which virtual token is to find which object (DETR, Carion et al. 2020)."""

import torch

__all__ = ["box_corners", "generalized_iou", "match"]

# what a match costs, as DETR has it
_CLASS_COST, _L1_COST, _GIOU_COST = 1.0, 5.0, 2.0


def match(
    probabilities: torch.Tensor,
    boxes: torch.Tensor,
    classes: torch.Tensor,
    targets: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The cheapest pairs of tokens and objects of one picture.

    Args:
        probabilities: (tokens, labels), of the classes.
        boxes: (tokens, 4), centre x, centre y, width, height.
        classes: (objects,) int64.
        targets: (objects, 4), as `boxes`.

    Returns:
        Indices of tokens and of objects, each (the fewer of both,) int64; a token is of one object at most.
    """
    from scipy.optimize import linear_sum_assignment

    with torch.no_grad():
        cost = -_CLASS_COST * probabilities[:, classes]  # (tokens, objects)
        cost = cost + _L1_COST * torch.cdist(boxes, targets, p=1)
        cost = cost - _GIOU_COST * generalized_iou(boxes, targets)
        if not bool(
            cost.isfinite().all()
        ):  # a training that diverged: any pairs show it in the loss
            cost = torch.zeros_like(cost)
    tokens, objects = linear_sum_assignment(cost.double().cpu().numpy())
    device = boxes.device
    return torch.as_tensor(tokens, device=device), torch.as_tensor(objects, device=device)


def box_corners(boxes: torch.Tensor) -> torch.Tensor:
    """Centre x, centre y, width, height as x0, y0, x1, y1; each (…, 4)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def generalized_iou(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Generalised intersection over union of all pairs (Rezatofighi et al. 2019), from -1 to 1.

    Args:
        left: (n, 4), centre x, centre y, width, height.
        right: (m, 4).

    Returns:
        (n, m).
    """
    first, second = box_corners(left)[:, None], box_corners(right)[None]  # (n, 1, 4), (1, m, 4)
    inner = torch.minimum(first[..., 2:], second[..., 2:])
    inner = (inner - torch.maximum(first[..., :2], second[..., :2])).clamp(min=0)
    shared = inner[..., 0] * inner[..., 1]  # (n, m)
    union = left[:, 2:].prod(dim=1)[:, None] + right[:, 2:].prod(dim=1)[None] - shared
    outer = torch.maximum(first[..., 2:], second[..., 2:])
    outer = outer - torch.minimum(first[..., :2], second[..., :2])
    hull = outer[..., 0] * outer[..., 1]
    tiny = torch.finfo(hull.dtype).tiny
    return shared / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)
