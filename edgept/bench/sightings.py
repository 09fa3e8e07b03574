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
    """A result in one row, whatever its task: equal where its bits are."""
    if isinstance(found, ImageClassification):
        return found.logits
    if isinstance(found, Segmentation):
        return found.probabilities.ravel()
    if isinstance(found, Detections):
        places = [(found.labels.index(item.label), item.score, *item.box) for item in found.found]
        return np.array(places, np.float64).ravel()
    return found.vector


def first_number(values: npt.NDArray[Any]) -> int:
    """The place of the largest one: of a classification its class, as a token's id is among logits."""
    return int(values.argmax()) if values.size else 0
