"""What transformers' image processors do where a preprocessor_config.json does not say it."""

from collections.abc import Mapping
from typing import Any

from edgept.errors import InvalidFileError

__all__ = ["DEFAULTS", "EVERYWHERE", "family_of"]

_IMAGENET_STANDARD = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_OPENAI_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_SQUARE_224 = {"height": 224, "width": 224}
# What transformers takes where a file lacks a setting, by the processor's class.
EVERYWHERE: dict[str, Any] = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_pad": False,
    "default_to_square": True,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {"size": _SQUARE_224, "resample": 2, **_IMAGENET_STANDARD},
    "DeiT": {
        "size": {"height": 256, "width": 256},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": _SQUARE_224,
        **_IMAGENET_STANDARD,
    },
    "Beit": {"size": _SQUARE_224, "resample": 3, "crop_size": _SQUARE_224, **_IMAGENET_STANDARD},
    "Bit": {
        "size": {"shortest_edge": 224},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": _SQUARE_224,
        **_OPENAI_CLIP,
    },
    "CLIP": {
        "size": {"shortest_edge": 224},
        "default_to_square": False,
        "resample": 3,
        "do_center_crop": True,
        "crop_size": _SQUARE_224,
        **_OPENAI_CLIP,
    },
    "Siglip": {
        "size": _SQUARE_224,
        "default_to_square": False,
        "resample": 3,
        **_IMAGENET_STANDARD,
    },
    "OwlViT": {
        "size": {"height": 768, "width": 768},
        "resample": 3,
        "crop_size": {"height": 768, "width": 768},
        **_OPENAI_CLIP,
    },
    "Owlv2": {
        "size": {"height": 960, "width": 960},
        "resample": 2,
        "do_pad": True,
        **_OPENAI_CLIP,
    },
}


def family_of(given: Mapping[str, Any], origin: str) -> str:
    """Whose processor a file is of, a key of DEFAULTS; the class's name has endings of several ages.

    Raises:
        InvalidFileError: it is none of these.
    """
    name = given.get("image_processor_type", given.get("feature_extractor_type"))
    if isinstance(name, str):
        family = name
        for ending in ("Pil", "Fast", "ImageProcessor", "FeatureExtractor"):
            family = family.removesuffix(ending)
        if family in DEFAULTS and family != name:
            return family
    raise InvalidFileError(
        "preprocessor-unknown",
        f"{origin}: image_processor_type is {name!r}, expected one of "
        f"{', '.join(f'{family}ImageProcessor' for family in DEFAULTS)}. What another one does to a picture "
        "is not known here: save the model with one of these if it does the same.",
    )
