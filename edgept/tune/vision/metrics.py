"""Figures of classifiers and of maps of classes: accuracy, area under the ROC curve, mean IoU."""

import numpy as np
import numpy.typing as npt

__all__ = ["area_under_curve", "classification_metric", "confusion", "mean_iou"]

Scores = npt.NDArray[np.floating]
Indices = npt.NDArray[np.integer]


def classification_metric(probabilities: Scores, classes: Indices) -> dict[str, float]:
    """Accuracy, macro-F1 over the classes that occur, and the area under the ROC curve where it is defined.

    Args:
        probabilities: (pictures, labels).
        classes: (pictures,) what is right.

    Returns:
        accuracy, macro_f1; auc: of two classes that of the second one, of more the mean of each against
        all others, over those that occur and are not all. Left out where there is none.
    """
    found = probabilities.argmax(axis=1)
    f1 = []
    for label in np.unique(classes):
        hits = int(((found == label) & (classes == label)).sum())
        f1.append(2 * hits / int((found == label).sum() + (classes == label).sum()))
    metric = {"accuracy": float((found == classes).mean()), "macro_f1": float(np.mean(f1))}
    labels = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    areas = [
        area_under_curve(probabilities[:, label], classes == label)
        for label in labels
        if 0 < int((classes == label).sum()) < len(classes)
    ]
    return {**metric, "auc": float(np.mean(areas))} if areas else metric


def area_under_curve(scores: Scores, is_right: npt.NDArray[np.bool_]) -> float:
    """The chance that a right one scores higher than a wrong one; equal scores count half.

    Args:
        scores: (pictures,).
        is_right: (pictures,), both kinds among them.
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]  # (pictures,) from 1; of equal scores their mean
    right = int(is_right.sum())
    wrong = len(scores) - right
    return float((ranks[is_right].sum() - right * (right + 1) / 2) / (right * wrong))


def confusion(
    found: Indices, masks: Indices, num_labels: int, ignored: int
) -> npt.NDArray[np.int64]:
    """Pixels by what is right and what was found, (labels, labels); those of the class `ignored` left out."""
    counted = masks != ignored
    pairs = masks[counted].astype(np.int64) * num_labels + found[counted]
    return np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)


def mean_iou(table: npt.NDArray[np.int64]) -> dict[str, float]:
    """Mean intersection over union, over the classes that occur or were found, and pixel accuracy.

    Args:
        table: see `confusion`, summed over all pictures.
    """
    shared = np.diag(table)
    union = table.sum(axis=0) + table.sum(axis=1) - shared
    there = union > 0
    total = int(table.sum())
    if not total:
        return {}
    return {
        "mean_iou": float((shared[there] / union[there]).mean()),
        "pixel_accuracy": float(shared.sum() / total),
    }
