"""Losses and figures of tasks on pictures, against values worked out by hand."""

import math

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the workstation's extra")

import torch

from edgept.manifest import ImageGeometry
from edgept.runtime.segmenter import upsampled_argmax
from edgept.tune.vision.average_precision import Found, average_precision
from edgept.tune.vision.losses import (
    detection_loss,
    patch_detection_loss,
    segmentation_loss,
    upsample,
)
from edgept.tune.vision.matching import generalized_iou, match
from edgept.tune.vision.metrics import (
    area_under_curve,
    classification_metric,
    confusion,
    mean_iou,
)
from edgept.tune.vision.store import Target
from edgept.tune.vision.visual_prompt import VisualPrompt


def test_area_under_the_curve() -> None:
    right = np.array([True, False, True, False])
    # of the four pairs of a right and a wrong one: 0.9 > 0.4, 0.9 > 0.1, 0.4 = 0.4 (half), 0.4 > 0.1
    assert area_under_curve(np.array([0.9, 0.4, 0.4, 0.1]), right) == 3.5 / 4
    assert area_under_curve(np.array([0.1, 0.9, 0.2, 0.8]), right) == 0
    assert area_under_curve(np.zeros(4), right) == 0.5


def test_figures_of_a_classifier() -> None:
    probabilities = np.array([[0.7, 0.3], [0.4, 0.6], [0.8, 0.2], [0.1, 0.9]])
    metric = classification_metric(probabilities, np.array([0, 1, 1, 1]))
    assert metric["accuracy"] == 0.75
    assert metric["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert metric["auc"] == pytest.approx(2 / 3)  # 0.6 and 0.9 are above 0.3, 0.2 is not
    assert "auc" not in classification_metric(probabilities, np.array([1, 1, 1, 1]))
    three = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8]])
    metric = classification_metric(three, np.array([0, 1, 1, 2]))
    assert metric["auc"] == pytest.approx((3 / 3 + 4 / 4 + 3 / 3) / 3)


def test_mean_iou() -> None:
    mask = np.array([[0, 0, 1], [1, 2, 255]])
    found = np.array([[0, 1, 1], [1, 2, 2]])
    table = confusion(found, mask, 4, 255)
    assert table.sum() == 5
    metric = mean_iou(table)  # class 3 neither occurs nor was found
    assert metric["mean_iou"] == pytest.approx((1 / 2 + 2 / 3 + 1 / 1) / 3)
    assert metric["pixel_accuracy"] == 4 / 5


def boxes(*corners: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(corners, dtype=float).reshape(-1, 4)


def test_average_precision() -> None:
    """Two objects; the best detection is right, the second finds nothing, the third is right at 0.5 only."""
    right = [Found(boxes((0, 0, 10, 10), (20, 0, 30, 10)), np.array([0, 0]))]
    made = [
        Found(
            boxes((0, 0, 10, 10), (50, 50, 60, 60), (20, 0, 30, 5.8)),  # IoU 1, 0, 0.58
            np.array([0, 0, 0]),
            np.array([0.9, 0.8, 0.7]),
        )
    ]
    found = average_precision(made, right, 2)
    # recall 0.5 at precision 1, recall 1 at precision 2/3: 51 of 101 recalls are up to 0.5
    at_half = (51 * 1 + 50 * 2 / 3) / 101
    alone = 51 / 101  # from 0.6 on, the second object is never found
    assert found["ap50"] == pytest.approx(at_half)
    assert found["ap"] == pytest.approx((2 * at_half + 8 * alone) / 10)


def test_average_precision_takes_an_object_once_and_each_class_alone() -> None:
    right = [
        Found(boxes((0, 0, 4, 4)), np.array([0])),
        Found(boxes((0, 0, 4, 4)), np.array([1])),
        Found(boxes(), np.array([], dtype=int)),
    ]
    twice = boxes((0, 0, 4, 4), (0, 0, 4, 4))
    made = [
        Found(twice, np.array([0, 0]), np.array([0.9, 0.8])),
        Found(twice[:1], np.array([0]), np.array([0.95])),  # the right box of a wrong class
        Found(boxes(), np.array([], dtype=int), np.array([])),
    ]
    # class 0: wrong, right, wrong: precision 1/2 at recall 1; class 1: nothing found
    assert average_precision(made, right, 2)["ap50"] == pytest.approx((1 / 2 + 0) / 2)
    assert average_precision(made[2:], right[2:], 2) == {}


def test_a_hundred_detections_of_each_class_count() -> None:
    """As in COCO's own evaluation, many of one class leave another's in."""
    right = [Found(boxes((0, 0, 4, 4), (0, 0, 4, 4)), np.array([0, 1]))]
    scores = np.r_[np.linspace(1, 0.9, 150), 0.5]
    places = np.tile((8.0, 8.0, 9.0, 9.0), (151, 1))
    places[[120, 150]] = 0, 0, 4, 4
    classes = np.r_[np.zeros(150, int), 1]
    # of class 0 the right one is the 121st, of class 1 the only one
    assert average_precision([Found(places, classes, scores)], right, 2)["ap"] == 1 / 2


def test_boxes_that_are_no_numbers_make_no_finite_loss() -> None:
    target = Target(0, torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]), None)
    broken, fine = torch.full((1, 2, 4), math.nan), torch.full((1, 2, 4), 0.5)
    for loss in (detection_loss, patch_detection_loss):
        assert not loss(torch.zeros(1, 2, 2), broken, [target]).isfinite()
        assert not loss(torch.full((1, 2, 2), math.nan), fine, [target]).isfinite()


def test_generalized_iou() -> None:
    left = torch.tensor([[1.0, 1.0, 2.0, 2.0]])  # corners 0, 0, 2, 2
    right = torch.tensor([[1.0, 1.0, 2.0, 2.0], [2.0, 1.0, 2.0, 2.0], [5.0, 1.0, 2.0, 2.0]])
    # the second shares 2 of 6; the third shares nothing, 8 of a hull of 12 are covered
    np.testing.assert_allclose(generalized_iou(left, right), [[1, 1 / 3, -1 / 3]], atol=1e-6)


def test_the_cheapest_matching() -> None:
    """Token 0 is nearest to both objects, and takes the one for which no other is near."""
    found = torch.tensor([[0.55, 0.5, 0.2, 0.2], [0.4, 0.5, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1]])
    targets = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.6, 0.5, 0.2, 0.2]])
    probabilities = torch.full((3, 1), 0.5)
    tokens, objects = match(probabilities, found, torch.tensor([0, 0]), targets)
    assert dict(zip(objects.tolist(), tokens.tolist(), strict=True)) == {0: 1, 1: 0}
    sure = torch.tensor([[0.0], [0.0], [1.0]])  # one that is sure does not make up for a far box
    tokens, _ = match(sure, found, torch.tensor([0]), targets[:1])
    assert tokens.tolist() == [0]


def test_the_loss_of_detections() -> None:
    """One object of class 1, two tokens: the first has its box moved by 0.1, the second finds nothing."""
    found = torch.tensor([[[0.4, 0.5, 0.2, 0.2], [0.9, 0.1, 0.1, 0.1]]])
    logits = torch.tensor([[[0.0, 2.0], [-1.0, 1.0]]])
    target = Target(0, torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]), None)
    first = -2 + math.log(1 + math.exp(2) + 1)  # classes 0, 1, and no object of logit 0
    second = math.log(math.exp(-1) + math.exp(1) + 1)
    named = (1 * first + 0.1 * second) / 1.1
    iou, hull = 0.02 / 0.06, 0.06  # boxes of 0.04 that share 0.02
    giou = iou - (hull - 0.06) / hull
    expected = named + 5 * 0.1 + 2 * (1 - giou)
    assert float(detection_loss(logits, found, [target])) == pytest.approx(expected, rel=1e-5)
    empty = Target(0, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), None)
    other = math.log(1 + math.exp(2) + 1)
    nothing = (other + second) / 2  # both weigh 0.1
    assert float(detection_loss(logits, found, [empty])) == pytest.approx(nothing, rel=1e-5)


def test_the_loss_of_segments() -> None:
    """One patch is as large as the picture, so that each pixel has its logits; one pixel is left out."""
    logits = torch.tensor([[[1.0, 0.0, -1.0]]])  # (pictures, patches, classes)
    masks = torch.tensor([[[0, 0], [2, 255]]])
    total = math.log(math.exp(1) + 1 + math.exp(-1))
    expected = (2 * (total - 1) + (total + 1)) / 3
    assert float(segmentation_loss(logits, (1, 1), masks)) == pytest.approx(expected, rel=1e-6)


def test_rows_begin_as_in_the_paper() -> None:
    torch.manual_seed(0)
    module = VisualPrompt(
        layers=12,
        num_virtual_tokens=50,
        hidden=768,
        patch_size=16,
        num_labels=2,
        head_size=768,
    )
    rows = module.tensors()["prompt_embeds"]
    assert rows.shape == (12, 50, 768)
    bound = math.sqrt(6 / (3 * 16 * 16 + 768))
    assert 0.99 * bound < np.abs(rows).max() <= bound
    assert abs(rows.mean()) < 1e-3
    assert set(module.tensors()) == {"prompt_embeds", "head.weight", "head.bias"}


@pytest.mark.parametrize("size", [(38, 45), (19, 100)])
def test_pixels_beyond_the_last_whole_patch_are_trained_as_they_are_found(
    size: tuple[int, int],
) -> None:
    image = ImageGeometry(num_layers=1, height=38, width=45, patch_size=8)  # 4 x 5 patches
    logits = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    wide = upsample(torch.from_numpy(logits).view(1, 20, 3), image.grid, size, image.sides)[0]
    found = upsampled_argmax(logits, *size, image.sides)
    assert np.array_equal(wide.argmax(dim=0).numpy(), found)
    assert not np.array_equal(upsampled_argmax(logits, *size), found)
