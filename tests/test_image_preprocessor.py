"""The preprocessor of a model's folder: found as transformers finds it, and checked before an export."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgept.bundle import PREPROCESSOR_NAME
from edgept.errors import ExportError
from edgept.export import export_model
from edgept.export.image_preprocessor import read_preprocessor
from edgept.export.source import find_model
from edgept.pictures import Preprocessor
from tests.image_models import SIDE, save_image_model
from tests.test_seeing import photo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_image_model("clip", tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / PREPROCESSOR_NAME
    settings = json.loads(path.read_text())
    edit(settings)
    path.write_text(json.dumps(settings))


def test_every_default_is_written_out(folder: Path, tmp_path: Path) -> None:
    source = find_model(str(folder))
    expected, text = read_preprocessor(source)
    # as processors of text and pictures are saved
    inner = json.loads((folder / PREPROCESSOR_NAME).read_text())
    both = {"image_processor": inner, "processor_class": "CLIPProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(both))
    (folder / PREPROCESSOR_NAME).unlink()
    found, _ = read_preprocessor(source)
    (tmp_path / PREPROCESSOR_NAME).write_text(text)
    written = Preprocessor.from_bundle(tmp_path)
    picture = Image.fromarray(photo())
    for other in (found, written):
        assert np.array_equal(other(picture), expected(picture))


def test_the_models_family_counts_where_no_class_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_image_model("vit", folder)

    def forget(settings: dict[str, Any]) -> None:
        del settings["image_processor_type"]

    change(folder, forget)
    assert read_preprocessor(find_model(str(folder)))[0].height == SIDE


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda s: s.update(crop_size={"height": 64, "width": 48}), "makes pictures of 48 x 64"),
        (lambda s: s.update(image_processor_type="DonutImageProcessor"), "DonutImageProcessor"),
        (lambda s: s.update(do_center_crop=False), "own proportions"),
        (lambda s: s.update(do_pad=True, pad_size=64), "do_pad is True"),
    ],
)
def test_what_a_device_would_not_do_alike_is_refused_before_the_export(
    folder: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], object], says: str
) -> None:
    change(folder, edit)
    with pytest.raises(ExportError, match=says):
        export_model(str(folder), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_model_without_one_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / PREPROCESSOR_NAME).unlink()
    with pytest.raises(ExportError, match="does not say how a picture becomes its input"):
        export_model(str(folder), tmp_path / "bundle")
