"""Pictures to learn from, in every form, and everything that can be wrong with them, named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgept.errors import EdgeptError, InvalidFileError, UsageError

pytest.importorskip("torch", reason="needs the workstation's extra")

from edgept.tune import Columns, Settings
from edgept.tune.vision.data import read_picture_data, read_picture_training
from edgept.tune.vision.masks import read_mask
from edgept.tune.vision.picture_labels import picture_labels
from edgept.tune.vision.rows import Shape
from edgept.tune.vision.run_length import decode_counts, paint
from edgept.tune.vision.store import open_store

ROOT = Path(__file__).resolve().parents[1]
PNEUMONIA = ROOT.parent / "shared" / "data" / "pneumoniamnist" / "pneumoniamnist.npz"


class Small:
    """A preprocessor that makes 8 x 8 pixels of a picture."""

    def __call__(self, picture: Image.Image, *, whole: bool) -> Any:
        pixels = np.asarray(picture.resize((8, 8)), dtype=np.float32)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)) + float(whole)


def save(path: Path, size: tuple[int, int] = (10, 6), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 1).save(path)
    return path


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
    image = {"id": 1, "file_name": "a.png", "width": 10, "height": 6}
    content = {
        "images": [{**image, **changes.pop("image", {})}],
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
    path = tmp_path / "list.csv"
    path.write_text("file,kind,more\nx/1.png,cat,1\nx/1.png,dog,2\n")
    settings = Settings(columns=Columns(image="file", label="kind"))
    data = read_picture_data(path, settings)
    assert [row.label for row in data.rows] == ["cat", "dog"]
    with pytest.raises(InvalidFileError, match="--image-column"):
        read_picture_data(path, Settings())
    path.write_text("image,label\nx/1.png,cat\nx/2.png,dog\nx/1.png\n,cat\n")
    with pytest.raises(InvalidFileError) as caught:
        read_picture_data(path, Settings())
    assert "\n  line 3: there is no file x/2.png" in str(caught.value)
    assert "\n  line 4 has 1 fields, the first line 2" in str(caught.value)
    assert "\n  line 5 has no path" in str(caught.value)


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
    mask = read_mask(masks.rows[0], masks.labels, (10, 6))
    assert mask.shape == (6, 10)
    assert set(mask[2:5, 1:5].ravel()) == {2}
    assert mask.sum() == 2 * 12
    mirrored = coco(tmp_path, annotation={"iscrowd": 1})
    assert read_picture_data(mirrored, Settings()).rows[0].boxes == ()


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
        ({"image": {"file_name": "b.png"}}, "b.png is neither beside the file"),
        ({"image": {"file_name": None}}, "image 1 has no file_name"),
        ({"image": {"width": 0}}, "has no width and height"),
        ({"categories": []}, "no image or no category"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "one id or name"),
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
    assert read_mask(data.rows[0], data.labels, (10, 6)).tolist() == [[1] * 10] * 6
    named = read_picture_data(tmp_path, Settings(labels=("road", "sky", "sea")))
    assert named.labels == ("road", "sky", "sea")
    (tmp_path / "labels.txt").write_text("road\nsky\n")
    assert read_picture_data(tmp_path, Settings()).labels == ("road", "sky")


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


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (with_a_lone_mask, "masks/b has no picture"),
        (with_a_lone_picture, "images/b has no mask"),
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


def test_held_out_pictures_of_other_classes_are_named(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "eval/a/1.png", "eval/c/1.png"):
        save(tmp_path / name)
    training, held_out = read_picture_training(tmp_path / "train", tmp_path / "eval", Settings())
    with pytest.raises(InvalidFileError, match=r"\n  c/1.png 'c'"):
        picture_labels(training, held_out)
    with pytest.raises(UsageError, match=r"has classes, .* has boxes"):
        read_picture_training(tmp_path / "train", coco(tmp_path), Settings())


def test_a_picture_of_another_size_than_stated_is_named(tmp_path: Path) -> None:
    data = read_picture_data(coco(tmp_path, image={"width": 20}), Settings())
    with pytest.raises(InvalidFileError, match=r"a\.png: has 10 x 6 pixels, the data state 20 x 6"):
        open_store(data, data.labels, Small(), whole=True)
