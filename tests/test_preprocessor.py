"""Pixel values are those of transformers' own processors, or the settings are refused."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgept.bundle import PREPROCESSOR_NAME
from edgept.errors import InvalidFileError, UsageError
from edgept.pictures import Preprocessor, preprocessor, read_picture

FAMILIES = ("ViT", "DeiT", "Beit", "Bit", "CLIP", "Siglip", "OwlViT")
# (height, width)
SIZES = [(64, 64), (61, 103), (240, 97), (224, 224), (300, 500), (1, 1), (7, 300), (301, 3)]


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    """Pixels that a resize changes everywhere."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def transformers_processor(family: str, **settings: Any) -> Any:
    import transformers

    return getattr(transformers, f"{family}ImageProcessorPil")(**settings)


def saved(processor: Any, folder: Path) -> Preprocessor:
    processor.save_pretrained(folder)
    return Preprocessor.from_bundle(folder)


def values_of(processor: Any, picture: Image.Image) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = processor(picture, return_tensors="np")["pixel_values"][0]
    return found


def one_grey_level(processor: Any) -> float:
    return float(processor.rescale_factor / max(processor.image_std))


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    processor = transformers_processor(family)
    ours = saved(processor, tmp_path)
    side = 768 if family == "OwlViT" else 224
    assert (ours.height, ours.width) == (side, side)
    for height, width in SIZES:
        picture = noise(height, width)
        expected, found = values_of(processor, picture), ours(picture)
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        assert found.shape == expected.shape == (3, side, side)
        assert np.abs(found - expected).max() < one_grey_level(processor), (height, width)
        assert np.array_equal(found, expected)  # more than is promised


def test_grey_pictures_too(tmp_path: Path) -> None:
    processor = transformers_processor("CLIP")
    grey = noise(50, 80).convert("L")
    assert np.array_equal(
        saved(processor, tmp_path)(read_picture(grey)), values_of(processor, grey)
    )


SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "other sides": ("ViT", {"size": {"height": 48, "width": 80}}),
    "nearest": ("ViT", {"resample": 0}),
    "lanczos": ("ViT", {"resample": 1}),
    "box": ("Siglip", {"resample": 4}),
    "hamming": ("Siglip", {"resample": 5}),
    "as dinov2": (
        "Bit",
        {
            "size": {"shortest_edge": 256},
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
    ),
    "odd crop": ("CLIP", {"size": {"shortest_edge": 51}, "crop_size": {"height": 33, "width": 44}}),
    "padding crop": ("CLIP", {"size": {"shortest_edge": 30}, "crop_size": 57}),
    "longest edge": ("Bit", {"size": {"shortest_edge": 60, "longest_edge": 77}, "crop_size": 64}),
    "no scaling": ("ViT", {"do_rescale": False}),
    "no normalising": ("ViT", {"do_normalize": False}),
    "neither": ("ViT", {"do_normalize": False, "do_rescale": False}),
    "no resizing": ("DeiT", {"do_resize": False}),
    "other factor": ("ViT", {"rescale_factor": 1 / 127.5}),
    "one mean": ("ViT", {"image_mean": 0.4, "image_std": 0.3}),
    "a number": ("CLIP", {"size": 70, "crop_size": 64}),
    "a number of sides": ("ViT", {"size": 70}),
    "two numbers": ("ViT", {"size": [40, 50]}),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_are_followed(case: str, tmp_path: Path) -> None:
    family, settings = SETTINGS[case]
    processor = transformers_processor(family, **settings)
    ours = saved(processor, tmp_path)
    for height, width in [(40, 41), (123, 61), (90, 250)]:
        picture = noise(height, width)
        assert np.array_equal(ours(picture), values_of(processor, picture)), (height, width)


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_settings_are_the_defaults_of_the_class(family: str) -> None:
    picture = noise(70, 110)
    expected = values_of(transformers_processor(family), picture)
    for name in (
        {"image_processor_type": f"{family}ImageProcessor"},
        {"image_processor_type": f"{family}ImageProcessorFast", "size": None},
        {"feature_extractor_type": f"{family}FeatureExtractor"},
    ):
        assert np.array_equal(Preprocessor(name)(picture), expected)


def test_random_settings_agree() -> None:
    chance = random.Random(0)
    for _ in range(40):
        family = chance.choice(FAMILIES)
        settings: dict[str, Any] = {"resample": chance.randrange(6)}
        if chance.random() < 0.5:
            settings |= {"do_center_crop": True, "crop_size": chance.randrange(20, 90)}
            settings["size"] = {"shortest_edge": chance.randrange(20, 90)}
        else:
            settings |= {"do_center_crop": False}
            settings["size"] = {key: chance.randrange(9, 99) for key in ("height", "width")}
        processor = transformers_processor(family, **settings)
        ours = Preprocessor(json.loads(processor.to_json_string()))
        picture = noise(chance.randrange(1, 200), chance.randrange(1, 200), chance.randrange(99))
        assert np.array_equal(ours(picture), values_of(processor, picture)), settings


@pytest.mark.parametrize("settings", [{}, {"do_pad": False}, {"size": {"height": 40, "width": 56}}])
def test_owlv2_blurs_what_it_shrinks_and_pads_to_a_square(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    size = {"height": 48, "width": 48}
    processor = transformers_processor("Owlv2", **{"size": size, **settings})
    ours = saved(processor, tmp_path)
    for height, width in [*SIZES, (49, 47), (48, 48), (311, 900)]:
        picture = noise(height, width)
        expected, found = values_of(processor, picture), ours(picture)
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < one_grey_level(processor) / 100, (height, width)
        assert np.array_equal(found, ours(picture, whole=True))
    frame = (300, 300) if settings.get("do_pad", True) else (300, 7)
    assert ours.frame((300, 7)) == frame
    assert Preprocessor({"image_processor_type": "Owlv2ImageProcessor"}).height == 960
    settings = {"image_processor_type": "Owlv2ImageProcessor", "do_pad": False}
    assert Preprocessor(settings).digest != Preprocessor({**settings, "do_pad": True}).digest


def test_the_whole_picture_can_be_asked_for() -> None:
    ours = Preprocessor({"image_processor_type": "CLIPImageProcessor"})
    picture = noise(60, 300)
    squeezed = picture.resize((224, 224), Image.Resampling.BICUBIC)
    whole = ours(picture, whole=True)
    assert np.array_equal(whole, ours(squeezed))
    assert not np.array_equal(whole, ours(picture))


def test_a_processors_file_holds_one_too(tmp_path: Path) -> None:
    inner = json.loads(transformers_processor("CLIP").to_json_string())
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps({"processor_class": "CLIPProcessor", "image_processor": inner}))
    assert Preprocessor.from_file(path).height == 224


VIT = {"image_processor_type": "ViTImageProcessor"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no class": ({"size": 224}, "image_processor_type is None"),
    "another class": ({"image_processor_type": "DonutImageProcessor"}, "'DonutImageProcessor'"),
    "unlike owlv2": ({"image_processor_type": "Owlv2ImageProcessor", "resample": 3}, "blurs first"),
    "cropped": (
        {"image_processor_type": "Owlv2ImageProcessor", "do_center_crop": True},
        "do_center_crop is True",
    ),
    "a bare family": ({"image_processor_type": "ViT"}, "image_processor_type is 'ViT'"),
    "unknown": ({**VIT, "do_solarize": True}, "do_solarize is True"),
    "code": ({**VIT, "auto_map": {"AutoImageProcessor": "evil.Processor"}}, "auto_map"),
    "padding": ({**VIT, "do_pad": True}, "do_pad is True"),
    "channels": ({**VIT, "data_format": "channels_last"}, "data_format"),
    "proportions": ({**VIT, "size": {"shortest_edge": 224}}, "own proportions"),
    "as it is": ({**VIT, "do_resize": False}, "own proportions"),
    "pixels": ({**VIT, "size": {"min_pixels": 1, "max_pixels": 9}}, "which is no size"),
    "negative": ({**VIT, "size": {"height": -1, "width": 4}}, "which is no size"),
    "huge": ({**VIT, "size": 1 << 20}, "which is no size"),
    "fraction": ({**VIT, "size": {"height": 2.5, "width": 4}}, "which is no size"),
    "crop": ({**VIT, "do_center_crop": True}, "crop_size is None"),
    "filter": ({**VIT, "resample": 9}, "resample is 9"),
    "flag": ({**VIT, "do_resize": "yes"}, "do_resize is 'yes'"),
    "factor": ({**VIT, "rescale_factor": "x"}, "rescale_factor"),
    "mean": ({**VIT, "image_mean": [0.5]}, "image_mean"),
    "infinite": ({**VIT, "image_mean": [0.5, 0.5, float("inf")]}, "image_mean"),
    "zero": ({**VIT, "image_std": [0.5, 0, 0.5]}, "image_std holds a 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_are_not_known_are_refused(case: str, tmp_path: Path) -> None:
    settings, says = REFUSED[case]
    (tmp_path / PREPROCESSOR_NAME).write_text(json.dumps(settings))
    with pytest.raises(InvalidFileError, match=says) as error:
        Preprocessor.from_bundle(tmp_path)
    assert error.value.reason == "preprocessor-unknown"
    assert PREPROCESSOR_NAME in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, "\x00", " " * (2 << 20)])
def test_files_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / PREPROCESSOR_NAME).write_text(text)
    with pytest.raises(InvalidFileError, match=PREPROCESSOR_NAME):
        Preprocessor.from_bundle(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=PREPROCESSOR_NAME):
        Preprocessor.from_bundle(tmp_path)


def test_a_picture_whose_resized_form_would_be_huge_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preprocessor, "MAX_PIXELS", 100_000)
    ours = Preprocessor({"image_processor_type": "CLIPImageProcessor"})
    with pytest.raises(InvalidFileError, match="448000 x 224 before it is cropped"):
        ours(noise(1, 2000))
    assert ours(noise(1, 2000), whole=True).shape == (3, 224, 224)
    long = Image.new("RGB", ((1 << 16) + 1, 1))
    with pytest.raises(InvalidFileError, match="is 65537 long"):
        Preprocessor({"image_processor_type": "Owlv2ImageProcessor"})(long)
