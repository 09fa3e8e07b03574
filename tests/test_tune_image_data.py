"""Pictures to learn from, in every form, and everything that can be wrong with them, named."""

import json
import os
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgept.errors import EdgeptError, InvalidFileError, UsageError

pytest.importorskip("torch", reason="needs the workstation's extra")

import torch

from edgept.tune import Columns, Settings
from edgept.tune.vision.data import read_picture_data, read_picture_training
from edgept.tune.vision.learner import _mirrored, _mirrored_target
from edgept.tune.vision.masks import read_mask
from edgept.tune.vision.picture_labels import picture_labels
from edgept.tune.vision.rows import Shape
from edgept.tune.vision.run_length import decode_counts, paint
from edgept.tune.vision.store import Target, open_store
from edgept.tune.vision.validation import score_pictures

ROOT = Path(__file__).resolve().parents[1]
PNEUMONIA = ROOT.parent / "shared" / "data" / "pneumoniamnist" / "pneumoniamnist.npz"


class Small:
    """A preprocessor that makes 8 x 8 pixels of a picture."""

    def __call__(self, picture: Image.Image, *, whole: bool) -> Any:
        pixels = np.asarray(picture.resize((8, 8)), dtype=np.float32)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)) + float(whole)

    def frame(self, size: tuple[int, int]) -> tuple[int, int]:
        return size


def save(path: Path, size: tuple[int, int] = (10, 6), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 1).save(path)
    return path


IMAGE = {"id": 1, "file_name": "a.png", "width": 10, "height": 6}


def coco(root: Path, **changes: Any) -> Path:
    """A picture of 10 x 6 pixels with one annotation, changed."""
    save(root / "a.png")
    annotation = {
        "id": 7,
        "image_id": 1,
        "category_id": 3,
        "bbox": [1, 2, 4, 3],
        "segmentation": [[1, 2, 4, 2, 4, 4, 1, 4]],
    }
    content = {
        "images": [{**IMAGE, **changes.pop("image", {})}],
        "annotations": [{**annotation, **changes.pop("annotation", {})}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}],
        **changes,
    }
    (root / "a.json").write_text(json.dumps(content))
    return root / "a.json"


def test_a_folder_of_folders(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/deep/1.JPG", "b/1.png", "a/.hidden.png", "b/note.txt"):
        save(tmp_path / name) if name.lower().endswith(("png", "jpg")) else (
            tmp_path / name
        ).write_text("x")
    data = read_picture_data(tmp_path, Settings())
    assert [(row.place, row.label) for row in data.rows] == [
        ("a/deep/1.JPG", "a"),
        ("b/1.png", "b"),
        ("b/2.png", "b"),
    ]
    assert picture_labels(data, None) == ("a", "b")
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert read_picture_data(moved, Settings()).sha256 == data.sha256
    save(moved / "b" / "2.png", (11, 6))
    assert read_picture_data(moved, Settings()).sha256 != data.sha256


def test_a_csv(tmp_path: Path) -> None:
    save(tmp_path / "x" / "1.png")
    save(tmp_path / "x" / "0.png")
    path = tmp_path / "list.csv"
    path.write_text("file,kind,more\nx/1.png,cat,1\nx/0.png,dog,2\n")
    settings = Settings(columns=Columns(image="file", label="kind"))
    data = read_picture_data(path, settings)
    assert [row.label for row in data.rows] == ["cat", "dog"]
    with pytest.raises(InvalidFileError, match="--image-column"):
        read_picture_data(path, Settings())
    long = "y" * 5000
    path.write_text(
        f"image,label\nx/1.png,cat\nx/2.png,dog\nx/1.png\n,cat\n{long},dog\nx/1.png,dog\n"
    )
    with pytest.raises(InvalidFileError) as caught:
        read_picture_data(path, Settings())
    assert "\n  line 3: there is no file x/2.png" in str(caught.value)
    assert "\n  line 4 has 1 fields, the first line 2" in str(caught.value)
    assert "\n  line 5 has no path" in str(caught.value)
    assert "\n  line 6: there is no file yyy" in str(caught.value)
    assert "\n  line 7: x/1.png is 'dog', and 'cat' in line 2" in str(caught.value)
    (tmp_path / "far.csv").write_text(f"image,label\n{tmp_path / 'x' / '1.png'},cat\n")
    assert len(read_picture_data(tmp_path / "far.csv", Settings()).rows) == 1


def test_an_archive_has_splits(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    images = np.zeros((4, 5, 6), np.uint8)
    labels = np.array([[0], [1], [10], [2]])
    np.savez(
        path, train_images=images, train_labels=labels, val_images=images[:1], val_labels=[[1]]
    )
    training, held_out = read_picture_training(path, None, Settings())
    assert held_out is not None
    assert [row.label for row in training.rows] == ["0", "1", "10", "2"]
    assert picture_labels(training, held_out)[:3] == ("0", "1", "2")
    assert [row.place for row in held_out.rows] == ["val_images[0]"]
    training, held_out = read_picture_training(f"{path}:val", None, Settings())
    assert (len(training.rows), held_out) == (1, None)
    with pytest.raises(UsageError, match="no test_images"):
        read_picture_data(f"{path}:test", Settings())
    store = open_store(training, ["0", "1"], Small(), whole=False)
    pixels, target = store[0]
    assert pixels.shape == (3, 8, 8)  # grey as RGB
    assert target.label == 1


@pytest.mark.skipif(not PNEUMONIA.is_file(), reason="needs ../shared/data/pneumoniamnist")
def test_real_x_rays() -> None:
    settings = Settings(labels=("normal", "pneumonia"))
    training, held_out = read_picture_training(PNEUMONIA, None, settings)
    assert held_out is not None
    assert (len(training.rows), len(held_out.rows)) == (2428, 270)
    assert picture_labels(training, held_out) == ("normal", "pneumonia")
    assert len(read_picture_data(f"{PNEUMONIA}:test", settings).rows) == 468


def test_coco_boxes_and_masks(tmp_path: Path) -> None:
    path = coco(tmp_path)
    boxes = read_picture_data(path, Settings())
    assert boxes.labels == ("dog", "cat")  # by their ids
    target = open_store(boxes, boxes.labels, Small(), whole=True)[0][1]
    np.testing.assert_allclose(target.boxes, [[0.3, 3.5 / 6, 0.4, 0.5]], atol=1e-6)
    assert target.classes.tolist() == [1]
    masks = read_picture_data(path, Settings(task="image-segmentation"))
    assert masks.labels == ("background", "dog", "cat")
    mask = read_mask(masks.rows[0], masks.labels, (10, 6), masks.labels)
    assert mask.shape == (6, 10)
    assert set(mask[2:4, 1:4].ravel()) == {2}
    assert mask.sum() == 2 * 6


def test_crowds_are_no_objects_and_their_pixels_are_of_their_class(tmp_path: Path) -> None:
    def with_crowd(counts: object) -> Path:
        whole = {"size": [6, 10], "counts": counts}
        crowd = {"id": 8, "image_id": 1, "category_id": 1, "iscrowd": 1, "segmentation": whole}
        cat = {"id": 7, "image_id": 1, "category_id": 3, "bbox": [1, 2, 4, 3]}
        cat["segmentation"] = [[1, 2, 4, 2, 4, 4, 1, 4]]
        return coco(tmp_path, annotations=[cat, {**crowd, "bbox": [0, 0, 5, 6]}])

    boxes = read_picture_data(with_crowd([0, 60]), Settings())
    store = open_store(boxes, boxes.labels, Small(), whole=True)
    assert store[0][1].classes.tolist() == [1]  # the cat alone
    classes, corners = store.crowds(0)
    assert (classes.tolist(), corners.tolist()) == ([0], [[0, 0, 0.5, 1]])
    for counts in ([0, 60], "0l1"):  # as numbers, and packed
        masks = read_picture_data(with_crowd(counts), Settings(task="image-segmentation"))
        mask = read_mask(masks.rows[0], masks.labels, (10, 6), masks.labels)
        assert set(mask[2:4, 1:4].ravel()) == {2}  # the cat stands before the crowd
        assert np.bincount(mask.ravel()).tolist() == [0, 54, 6]


def test_a_crowd_is_not_judged_in_validation(tmp_path: Path) -> None:
    crowd = {"id": 8, "image_id": 1, "category_id": 3, "iscrowd": 1, "bbox": [5, 0, 5, 6]}
    cat = {"id": 7, "image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 6]}
    data = read_picture_data(coco(tmp_path, annotations=[crowd, cat]), Settings())
    store = open_store(data, data.labels, Small(), whole=True)
    vision = SimpleNamespace(geometry=SimpleNamespace(detects="tokens"))
    job: Any = SimpleNamespace(task="object-detection", labels=data.labels, held_out=store)
    job.backbone = SimpleNamespace(vision=vision)
    # centre x, centre y, width, height: in the crowd, around the cat, and nowhere
    boxes = torch.tensor([[[0.8, 0.5, 0.2, 0.5], [0.2, 0.5, 0.4, 1.0], [0.45, 0.5, 0.1, 0.1]]])
    logits = torch.tensor([[[0.0, 5.0], [0.0, 4.0], [0.0, 3.0]]])
    loss, metric = score_pictures(job, [([0], [store[0][1]], logits, boxes)])
    assert metric == {"ap": 1.0, "ap50": 1.0}
    assert loss > 0
    boxes[..., 1] = 1.5  # below the picture, where padding may be
    _, metric = score_pictures(job, [([0], [store[0][1]], logits, boxes)])
    assert metric == {"ap": 0.0, "ap50": 0.0}


def test_ids_with_gaps_and_pictures_without_annotations(tmp_path: Path) -> None:
    """As tools write them: ids from anywhere on, as texts, or with .0 behind them."""
    save(tmp_path / "images" / "b.png")
    images = [
        {"id": name, "file_name": f"{letter}.png", "width": 10, "height": 6}
        for letter, name in (("a", "000012"), ("b", 700))
    ]
    box = {"id": 7, "image_id": 12.0, "category_id": "3", "bbox": [0, 0, 10, 6]}
    path = coco(tmp_path, images=images, annotations=[box])
    data = read_picture_data(path, Settings())
    assert [[one.label for one in row.boxes] for row in data.rows] == [["cat"], []]
    assert len(open_store(data, data.labels, Small(), whole=True)[1][1].classes) == 0
    masks = read_picture_data(
        coco(tmp_path, images=images, annotations=[]), Settings(task="image-segmentation")
    )
    assert not read_mask(masks.rows[1], masks.labels, (10, 6), masks.labels).any()


@pytest.mark.parametrize(
    ("polygon", "rows"),
    [
        ((1, 1, 3, 1, 3, 3, 1, 3), ["0000", "0110", "0110", "0000"]),
        ((1, 1, 1, 3, 3, 3, 3, 1), ["0000", "0110", "0110", "0000"]),  # the other way round
        ((-1, -1, 5, -1, 5, 5, -1, 5), ["1111"] * 4),
        ((0, 0, 3.9, 0, 0, 3.9), ["1110", "1100", "1000", "0000"]),
        ((0.2, 0, 3.8, 4, 3.8, 0, 0.2, 4), ["1001", "1111", "1111", "1001"]),  # it crosses itself
        ((1.2, 1.2, 1.4, 1.2, 1.4, 3), ["0000"] * 4),  # between the centres
        ((0.5, 0.5, 2.5, 0.5, 2.5, 2.5, 0.5, 2.5), ["1100", "1100", "0000", "0000"]),
    ],
)
def test_a_polygon_covers_the_centres_inside(polygon: tuple[float, ...], rows: list[str]) -> None:
    found = paint([Shape("cat", (polygon,))], ["background", "cat"], 4, 4)
    assert ["".join(map(str, row)) for row in found.tolist()] == rows


def test_a_polygon_is_as_large_as_its_runs() -> None:
    labels = ["background", "cat"]
    square = paint([Shape("cat", ((2, 2, 4, 2, 4, 4, 2, 4),))], labels, 6, 6)
    runs = paint([Shape("cat", counts=(14, 2, 4, 2, 14), size=(6, 6))], labels, 6, 6)
    np.testing.assert_array_equal(square, runs)
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = np.stack([50.3 + 40 * np.cos(angles), 49.8 + 40 * np.sin(angles)], axis=1)
    area = int(paint([Shape("cat", (tuple(circle.ravel()),))], labels, 100, 100).sum())
    assert area == pytest.approx(np.pi * 40**2, rel=0.003)


def test_packed_runs() -> None:
    """Worked out from COCO's rules: differences from the fourth number on, five bits a character."""
    assert decode_counts("32m13[m0") == [3, 2, 61, 5, 1000]
    assert decode_counts("594I") == [5, 9, 4, 2]
    assert decode_counts("32m") is None  # the last number goes on
    assert decode_counts("3 2") is None
    shape = Shape("cat", counts=(2, 3, 1), size=(2, 3))  # down the columns
    found = paint([shape], ["background", "cat"], 3, 2)
    assert found.tolist() == [[0, 1, 1], [0, 1, 0]]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"annotation": {"bbox": [8, 2, 4, 3]}}, "outside of the picture's 10 x 6 pixels"),
        ({"annotation": {"bbox": [-3, 2, 4, 3]}}, "outside of the picture's"),
        ({"annotation": {"bbox": [1, 2, 0, 3]}}, "a box of 0 x 3 pixels"),
        ({"annotation": {"bbox": [1, 2, float("nan"), 3]}}, "expected x, y, width, height"),
        ({"annotation": {"bbox": [1, 2, 3]}}, "expected x, y, width, height"),
        ({"annotation": {"category_id": 9}}, "of the category 9, not listed"),
        ({"annotation": {"image_id": 5}}, "annotation 7 is of image 5, which is not listed"),
        ({"image": {"file_name": "b.png"}}, "'b.png' is neither beside the file"),
        ({"image": {"file_name": "b" * 5000}}, "is neither beside the file"),
        ({"image": {"file_name": "\ud800.png"}}, "'\\ud800.png' is no text"),
        ({"image": {"file_name": "/etc/a.png"}}, "'/etc/a.png' leads out of the file's folder"),
        ({"image": {"file_name": "x/../../a.png"}}, "leads out of the file's folder"),
        ({"image": {"id": float("inf")}}, "is no COCO annotation file"),
        ({"annotation": {"bbox": [-0.9, 5, 0.5, 0.5]}}, "outside of the picture's 10 x 6 pixels"),
        ({"annotation": {"bbox": [5, 6.5, 0.5, 0.5]}}, "outside of the picture's 10 x 6 pixels"),
        ({"image": {"file_name": None}}, "image 1: None is no file_name"),
        ({"images": [IMAGE, {**IMAGE, "id": 2}]}, "two images have the file '"),
        ({"images": [IMAGE, {**IMAGE, "id": 2, "file_name": "./a.png"}]}, "/a.png'. Make them"),
        ({"images": [IMAGE, IMAGE]}, "two images have the id '1'"),
        ({"images": [IMAGE, {**IMAGE, "id": 2, "file_name": "b.png"}]}, "image 2: 'b.png' is neit"),
        ({"annotation": {"iscrowd": "0"}}, "annotation 7 has iscrowd '0'; expected 0 or 1"),
        ({"annotation": {"image_id": True}}, "an id is True, expected a whole number"),
        ({"image": {"width": 0}}, "has no width and height"),
        ({"categories": []}, "no image or no category"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "have the name 'a'"),
        ({"images": 5}, "is no COCO annotation file"),
        ({"annotations": [5]}, "is no COCO annotation file"),
        ({"images": [{"file_name": "a.png"}]}, "is no COCO annotation file"),
    ],
)
def test_wrong_boxes_are_named(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match=r"a\.json") as caught:
        read_picture_data(coco(tmp_path, **changes), Settings())
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([[1, 2, 3, 4]], "three points or more"),
        ([[1, 2, 3, 4, 5, 6, 7]], "three points or more"),
        ([[1, 2, 30, 4, 5, 6]], "outside of the picture's"),
        ([["1", 2, 3, 4, 5, 6]], "three points or more"),
        ({"size": [10, 6], "counts": [60]}, "runs for [10, 6]"),
        ({"size": [6, 10], "counts": [59]}, "not the number of pixels"),
        ({"size": [6, 10], "counts": "~"}, "not the number of pixels"),
        ({"size": [6, 10], "counts": [61, -1]}, "not the number of pixels"),
        ([], "no segmentation"),
        (None, "no segmentation"),
    ],
)
def test_wrong_masks_are_named(segmentation: Any, expected: str, tmp_path: Path) -> None:
    path = coco(tmp_path, annotation={"segmentation": segmentation})
    with pytest.raises(InvalidFileError, match=r"a\.png, annotation 7") as caught:
        read_picture_data(path, Settings(task="image-segmentation"))
    assert expected in str(caught.value)


def mask_folder(root: Path, *, size: tuple[int, int] = (10, 6), mode: str = "L") -> Path:
    save(root / "images" / "a.jpg")
    save(root / "masks" / "a.png", size, mode)
    return root


def test_a_folder_of_masks(tmp_path: Path) -> None:
    data = read_picture_data(mask_folder(tmp_path), Settings())
    assert data.labels == ("0", "1")
    assert read_mask(data.rows[0], data.labels, (10, 6), data.labels).tolist() == [[1] * 10] * 6
    named = read_picture_data(tmp_path, Settings(labels=("road", "sky", "sea")))
    assert named.labels == ("road", "sky", "sea")
    (tmp_path / "labels.txt").write_text("road\nsky\n")
    assert read_picture_data(tmp_path, Settings()).labels == ("road", "sky")


def test_what_is_learnt_lies_where_a_padded_picture_shows_it(tmp_path: Path) -> None:
    """10 x 6 pixels at the top of a square, whose 8 x 8 pixels the model reads."""

    class Padding(Small):
        def frame(self, size: tuple[int, int]) -> tuple[int, int]:
            return max(size), max(size)

    path = coco(tmp_path)
    boxes = read_picture_data(path, Settings())
    target = open_store(boxes, boxes.labels, Padding(), whole=True)[0][1]
    np.testing.assert_allclose(target.boxes, [[0.3, 0.35, 0.4, 0.3]], atol=1e-6)
    masks = read_picture_data(path, Settings(task="image-segmentation"))
    mask = open_store(masks, masks.labels, Padding(), whole=True)[0][1].mask
    own = open_store(masks, masks.labels, Small(), whole=True)[0][1].mask
    assert mask is not None
    assert own is not None
    assert (mask == 255).all(dim=1).tolist() == [False] * 5 + [True] * 3
    assert (own != 255).all()
    assert {*mask[:5].flatten().tolist()} == {*own.flatten().tolist()}


def test_a_mirrored_picture_is_padded_where_others_are() -> None:
    shown, padding = torch.arange(3), torch.full((2,), -1)
    pixels = torch.cat([shown, padding]).float().expand(3, 4, 5)
    assert _mirrored(pixels, 2)[0, 0].tolist() == [2, 1, 0, -1, -1]
    assert _mirrored(pixels, 0)[0, 0].tolist() == [-1, -1, 2, 1, 0]
    target = Target(0, torch.tensor([0]), torch.tensor([[0.1, 0.5, 0.2, 0.4]]), pixels[0])
    mirrored = _mirrored_target(target, 2, 5)
    # from 0 to 0.2 of a picture that ends at 0.6: from 0.4 to 0.6
    torch.testing.assert_close(mirrored.boxes, torch.tensor([[0.5, 0.5, 0.2, 0.4]]))
    assert mirrored.mask is not None
    assert mirrored.mask[0].tolist() == [2, 1, 0, -1, -1]


def test_numbers_of_masks_stand_for_names(tmp_path: Path) -> None:
    """A run that goes on from a prompt has the classes in the prompt's order, and the files in theirs."""
    data = read_picture_data(mask_folder(tmp_path), Settings())
    mask = np.array([[0, 1, 255] + [1] * 7] * 6, np.uint8)
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    store = open_store(data, ["sky", "sea", "road"], Small(), whole=True, numbered=["road", "sky"])
    assert store.mask(0)[0].tolist() == [2, 0, 255] + [0] * 7
    with pytest.raises(InvalidFileError, match="has the class 1; there are 1 classes"):
        open_store(data, ["sky", "road"], Small(), whole=True, numbered=["road"])


def test_what_coco_masks_leave_uncovered_is_background(tmp_path: Path) -> None:
    categories = [{"id": 3, "name": "cat"}, {"id": 9, "name": "background"}]
    path = coco(tmp_path, categories=categories)
    data = read_picture_data(path, Settings(task="image-segmentation"))
    assert data.labels == ("cat", "background")
    for labels in (data.labels, ("background", "cat")):
        mask = read_mask(data.rows[0], labels, (10, 6), labels)
        assert labels[mask[0, 0]] == "background"
        assert labels[mask[3, 2]] == "cat"
    folder = read_picture_data(mask_folder(tmp_path / "train"), Settings())
    with pytest.raises(InvalidFileError, match=r"a\.png 'background'"):
        picture_labels(folder, data)


def test_held_out_masks_number_the_same_classes(tmp_path: Path) -> None:
    training, held_out = (mask_folder(tmp_path / name) for name in ("train", "eval"))
    (training / "labels.txt").write_text("road\nsky\n")
    data = read_picture_training(training, held_out, Settings())
    assert picture_labels(*data) == ("road", "sky")
    (held_out / "labels.txt").write_text("sky\nroad\n")
    data = read_picture_training(training, held_out, Settings())
    with pytest.raises(InvalidFileError, match="Give both the same labels"):
        picture_labels(*data)


def with_a_lone_mask(root: Path) -> Path:
    save(mask_folder(root) / "masks" / "b.png", mode="L")
    return root


def with_a_lone_picture(root: Path) -> Path:
    save(mask_folder(root) / "images" / "b.png")
    return root


def with_two_pictures_of_a_mask(root: Path) -> Path:
    save(mask_folder(root) / "images" / "a.png")
    return root


def with_one_name(root: Path) -> Path:
    (mask_folder(root) / "labels.txt").write_text("road\n")
    return root


def with_few_names(root: Path) -> Path:
    mask = np.full((6, 10), 4, np.uint8)
    Image.fromarray(mask).save(mask_folder(root) / "masks" / "a.png")
    (root / "labels.txt").write_text("road\nsky\n")
    return root


def with_a_broken_mask(root: Path) -> Path:
    (mask_folder(root) / "masks" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nx")
    return root


def with_a_pipe(root: Path) -> Path:
    (mask_folder(root) / "masks" / "a.png").unlink()
    os.mkfifo(root / "masks" / "a.png")
    return root


def with_a_huge_mask(root: Path) -> Path:
    path = mask_folder(root) / "masks" / "a.png"
    raw = bytearray(path.read_bytes())
    struct.pack_into(">II", raw, 16, 12_000, 10_000)
    struct.pack_into(">I", raw, 29, zlib.crc32(raw[12:29]))
    path.write_bytes(raw)
    return root


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (with_a_pipe, "is a folder, pipe, socket or device"),
        (with_a_huge_mask, "12000 x 10000 pixels"),
        (with_a_lone_mask, "masks/b has no picture"),
        (with_a_lone_picture, "images/b has no mask"),
        (with_two_pictures_of_a_mask, "images/a.jpg and images/a.png share a mask"),
        (with_one_name, "one label only, 'road'"),
        (with_few_names, "a.png has the class 4; there are 2 classes"),
        (with_a_broken_mask, "is no readable PNG"),
        (lambda root: mask_folder(root, size=(9, 6)), "has 9 x 6 pixels, its picture 10 x 6"),
        (lambda root: mask_folder(root, mode="RGB"), "of the mode RGB"),
    ],
)
def test_wrong_mask_folders_are_named(
    make: Callable[[Path], Path], expected: str, tmp_path: Path
) -> None:
    def read() -> None:
        data = read_picture_data(make(tmp_path), Settings())
        open_store(data, picture_labels(data, None), Small(), whole=True)

    with pytest.raises(InvalidFileError) as caught:
        read()
    assert expected in str(caught.value)


def empty_folder(root: Path) -> Path:
    return root


def pictures_alone(root: Path) -> Path:
    return save(root / "1.png").parent


def a_picture_beside(root: Path) -> Path:
    save(root / "a" / "1.png")
    return save(root / "1.png").parent


def an_empty_class(root: Path) -> Path:
    save(root / "a" / "1.png")
    (root / "b").mkdir()
    return root


def one_class(root: Path) -> Path:
    save(root / "a" / "1.png")
    return root


def no_archive(root: Path) -> Path:
    (root / "a.npz").write_bytes(b"no zip")
    return root / "a.npz"


def archive(**arrays: Any) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        np.savez(root / "a.npz", **arrays)
        return root / "a.npz"

    return make


def raw_archive(name: str = "train_images.npy", data: bytes = b"", **changes: Any) -> Any:
    """An archive with good labels and one member of these bytes, whose directory may lie."""

    def make(root: Path) -> Path:
        path = root / "a.npz"
        np.savez(path, train_labels=[0, 1])
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
            file.writestr(name, data)
        raw = bytearray(path.read_bytes())
        for at in (raw.rfind(b"PK\1\2") + 8, raw.rfind(b"PK\3\4") + 6):  # flags, then the method
            struct.pack_into("<H", raw, at, changes.get("flags", 0))
            struct.pack_into("<H", raw, at + 2, changes.get("method", 8))
        path.write_bytes(raw)
        return path

    return make


def npy(shape: str, descr: str = "|u1", data: bytes = b"") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def array_alone(root: Path) -> Path:
    with (root / "a.npz").open("wb") as file:
        np.save(file, GREY)
    return root / "a.npz"


def other_file(root: Path) -> Path:
    (root / "a.txt").write_text("x")
    return root / "a.txt"


GREY = np.zeros((2, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (empty_folder, "holds nothing to learn from"),
        (pictures_alone, "holds 1 pictures and no sub-folder"),
        (a_picture_beside, "1.png lies in no class's folder"),
        (an_empty_class, "b holds no picture"),
        (one_class, "one label only, 'a'"),
        (no_archive, "is no .npz of plain arrays"),
        (other_file, "Convert it"),
        (lambda root: root / "nowhere", "there is no file or folder"),
        (archive(train_images=GREY), "has no train_images and train_labels"),
        (archive(train_images=GREY, train_labels=[0]), "2 train_images and 1 train_labels"),
        (archive(train_images=GREY, train_labels=[[0, 1], [1, 0]]), "one whole number"),
        (archive(train_images=GREY, train_labels=[0.0, 1.0]), "one whole number"),
        (archive(train_images=GREY, train_labels=[-1, 1]), "train_images[0] has the label -1"),
        (archive(train_images=GREY[..., None], train_labels=[0, 1]), "expected uint8"),
        (archive(train_images=GREY.astype(float), train_labels=[0, 1]), "expected uint8"),
        (archive(train_images=np.array([{}, {}]), train_labels=[0, 1]), "plain arrays"),
        (archive(train_images=GREY, train_labels=[0, 2**40]), "has the label 1099511627776"),
        (
            archive(train_images=GREY, train_labels=np.array([0, 2**32 - 1], np.uint32)),
            "a prompt file names",
        ),
        (array_alone, "is no .npz of plain arrays"),
        (raw_archive(data=npy("(1125899906842624,)")), "is more than the 1073741824 bytes"),
        (raw_archive(data=npy("(0, 1125899906842624)")), "is more than the 1073741824 bytes"),
        (raw_archive(data=npy("(-2, 4, 4)", data=b"0" * 32)), "the shape (-2, 4, 4)"),
        (raw_archive(data=npy("(2, 4, 4)", data=b"0" * 31)), "1 bytes are missing"),
        (raw_archive(data=npy("(2, 4, 4)", data=b"0" * 33)), "more than the shape says"),
        (raw_archive(data=npy("(2, 4, 4)", "|O")), "plain arrays"),
        (raw_archive(data=b"no array"), "plain arrays"),
        (raw_archive(data=npy("(2, 4, 4)", data=b"0" * 32), method=99), "plain arrays"),
        (raw_archive(data=npy("(2, 4, 4)", data=b"0" * 32), flags=1), "is encrypted"),
        (raw_archive("train_images", npy("(2, 4, 4)", data=b"0" * 32)), "plain arrays"),
    ],
)
def test_wrong_data_are_refused(
    make: Callable[[Path], Path], expected: str, tmp_path: Path
) -> None:
    def read() -> None:
        picture_labels(read_picture_data(make(tmp_path), Settings()), None)

    with pytest.raises(EdgeptError) as caught:
        read()
    assert expected in str(caught.value)


def test_an_archive_is_not_unpacked_beyond_what_it_says(tmp_path: Path) -> None:
    """A member that is not asked for is not touched, and a bomb not beyond the shape it gives."""
    bomb = npy("(2, 4, 4)", data=bytes(1 << 26))
    path = raw_archive("other.npy", b"no array")(tmp_path)
    np.savez(tmp_path / "b.npz", train_images=GREY)
    with zipfile.ZipFile(tmp_path / "b.npz") as made, zipfile.ZipFile(path, "a") as file:
        file.writestr("train_images.npy", made.read("train_images.npy"))
    assert len(read_picture_data(path, Settings()).rows) == 2
    path = raw_archive(data=bomb)(tmp_path)
    tracemalloc.start()
    with pytest.raises(InvalidFileError, match="more than the shape says"):
        read_picture_data(path, Settings())
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()


def test_arrays_in_columns_are_read(tmp_path: Path) -> None:
    images = np.asfortranarray(np.arange(60, dtype=np.uint8).reshape(2, 5, 6))
    np.savez_compressed(tmp_path / "a.npz", train_images=images, train_labels=[0, 1])
    rows = read_picture_data(tmp_path / "a.npz", Settings()).rows
    np.testing.assert_array_equal(np.stack([np.asarray(row.picture) for row in rows]), images)


def test_held_out_pictures_of_other_classes_are_named(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "eval/a/1.png", "eval/c/1.png"):
        save(tmp_path / name)
    training, held_out = read_picture_training(tmp_path / "train", tmp_path / "eval", Settings())
    with pytest.raises(InvalidFileError, match=r"\n  c/1.png 'c'"):
        picture_labels(training, held_out)
    with pytest.raises(UsageError, match=r"has classes, .* has boxes"):
        read_picture_training(tmp_path / "train", coco(tmp_path), Settings())


def test_a_split_leaves_each_class_some_pictures_to_learn(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        save(tmp_path / name)
    settings = Settings(eval_split=0.34)
    splits = [replace(settings, seed=seed) for seed in range(6)]
    data = [read_picture_training(tmp_path, None, one) for one in splits]
    lone = [one for one in data if one[1] is not None and one[1].rows[0].label == "a"]
    assert 0 < len(lone) < 6
    with pytest.raises(UsageError, match="--eval-split puts all rows of the label 'a' among"):
        picture_labels(*lone[0])


def test_a_picture_of_another_size_than_stated_is_named(tmp_path: Path) -> None:
    data = read_picture_data(coco(tmp_path, image={"width": 20}), Settings())
    with pytest.raises(InvalidFileError, match=r"a\.png: has 10 x 6 pixels, the data state 20 x 6"):
        open_store(data, data.labels, Small(), whole=True)


def test_a_pipe_among_the_pictures_is_not_waited_for(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png")
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "2.png")
    with pytest.raises(InvalidFileError, match=r"2\.png is a folder, pipe, socket or device"):
        read_picture_data(tmp_path, Settings())


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_picture_with_boxes_or_a_mask_is_refused(orientation: int, tmp_path: Path) -> None:
    def turn(path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (10, 6), 1).save(path, exif=exif)

    path = coco(tmp_path)
    turn(tmp_path / "a.png")
    masks = mask_folder(tmp_path / "masks")
    turn(masks / "images" / "a.jpg")
    for data in (read_picture_data(path, Settings()), read_picture_data(masks, Settings())):
        with pytest.raises(
            InvalidFileError, match=f"EXIF orientation {orientation}: .* Save it turned"
        ):
            open_store(data, data.labels, Small(), whole=True)
    for name in ("x/1.jpg", "y/1.jpg"):
        turn(save(tmp_path / "classes" / name))
    classes = read_picture_data(tmp_path / "classes", Settings())
    assert len(open_store(classes, ("x", "y"), Small(), whole=False)) == 2  # a class is of any side
