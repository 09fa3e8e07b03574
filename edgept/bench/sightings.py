"""What is found in a picture as numbers, so that two results can be compared."""

from typing import Any

import numpy as np
import numpy.typing as npt

from edgept.runtime.detector import Detections
from edgept.runtime.image_classifier import ImageClassification
from edgept.runtime.seeing import Sighting
from edgept.runtime.segmenter import Segmentation

__all__ = ["first_number", "numbers"]


def numbers(found: Sighting) -> npt.NDArray[Any]:
    """A result as numbers, whatever its task: equal where its bits are.

    Of detections, (found, 6): label's index, score, and left, top, right and bottom as shares of the
    picture's sides. Of all else, one row.
    """
    if isinstance(found, ImageClassification):
        return found.logits
    if isinstance(found, Segmentation):
        return found.probabilities.ravel()
    if isinstance(found, Detections):
        sides = np.array([*found.size, *found.size], np.float64)
        rows = [
            (found.labels.index(item.label), item.score, *(item.box / sides))
            for item in found.found
        ]
        return np.array(rows, np.float64).reshape(-1, 6)
    return found.vector


def first_number(values: npt.NDArray[Any]) -> int:
    """The place of the largest one: of a classification its class, as a token's id is among logits.

    Of detections, the first one's label, counted from 1; 0 where nothing is found.
    """
    if values.ndim == 2:
        return int(values[0, 0]) + 1 if len(values) else 0
    return int(values.argmax())
