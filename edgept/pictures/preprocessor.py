"""From a picture to the graph's pixel values, as transformers' own image processors make them.

preprocessor_config.json says how. transformers has a class for each family; all of those here resize,
crop, scale and normalise in this order, and differ in their defaults only. But for OWLv2's, which blurs what
it shrinks, and pads the picture to a square: black at the bottom or on the right.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgept.bundle import PREPROCESSOR_NAME
from edgept.errors import InvalidFileError, UsageError
from edgept.pictures.processor_defaults import DEFAULTS, EVERYWHERE, family_of
from edgept.pictures.reading import MAX_PIXELS
from edgept.pictures.smooth_resize import smooth_resized

__all__ = ["Preprocessor"]

_MAX_BYTES = 1 << 20
_MAX_SIDE = 1 << 14
_MAX_SMOOTH_SIDE = 1 << 16  # as long as a JPEG's; a blur of all of a longer one takes minutes

# Settings that change no pixel here: pictures come as RGB, one by one, and the rest is about tensors.
_WITHOUT_EFFECT = {
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "do_convert_rgb",
    "do_reduce_labels",
    "reduce_labels",
    "data_format",
    "input_data_format",
    "return_tensors",
    "device",
    "disable_grouping",
    "pad_size",
    "_valid_processor_keys",
    "_valid_kwargs_names",
}


@dataclass(frozen=True)
class _Size:
    """Where a resize goes: to two sides, or to the shorter one, with a limit for the longer."""

    height: int | None = None
    width: int | None = None
    shortest_edge: int | None = None
    longest_edge: int | None = None

    def of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that a picture of these sides gets."""
        if self.height is not None and self.width is not None:
            return self.height, self.width
        if self.shortest_edge is None:
            raise AssertionError("a size has two sides or the shorter one")
        short, long = sorted((height, width))
        if self.longest_edge is None:
            new_short, new_long = self.shortest_edge, int(self.shortest_edge * long / short)
            return (new_short, new_long) if height <= width else (new_long, new_short)
        edge, raw = self.shortest_edge, None
        if long / short * edge > self.longest_edge:
            raw = self.longest_edge * short / long
            edge = round(raw)
        if short == edge:
            return height, width
        new_long = int((edge if raw is None else raw) * long / short)
        return (edge, new_long) if height <= width else (new_long, edge)


class Preprocessor:
    """Makes pixel values of pictures. Threads may share one.

    Attributes:
        height: of the pixel values, as of the graph's input.
        width: of the pixel values.
    """

    height: int
    width: int

    def __init__(self, settings: Mapping[str, Any], origin: str = PREPROCESSOR_NAME) -> None:
        """Check the settings of a preprocessor_config.json.

        Args:
            settings: its object.
            origin: what to call it in an error.

        Raises:
            InvalidFileError: they are of a processor that is not known, hold a setting that is not known,
                or do not make all pictures the same size.
        """
        self._origin = origin
        given = {name: value for name, value in settings.items() if value is not None}
        family = family_of(given, origin)
        chosen = {**EVERYWHERE, **DEFAULTS[family], **given}
        self._is_smooth = family == "Owlv2"
        off = {"use_square_size", "do_center_crop" if self._is_smooth else "do_pad"}
        for name in given:
            if name not in {*EVERYWHERE, *DEFAULTS["CLIP"], *_WITHOUT_EFFECT, *off} or (
                name in off and given[name]
            ):
                raise self._refuse(f"{name} is {given[name]!r}, which is not known here")
        if chosen.get("data_format", "channels_first") not in ("channels_first", "FIRST"):
            raise self._refuse(f"data_format is {chosen['data_format']!r}, not channels_first")
        for name, default in EVERYWHERE.items():
            if type(default) is bool and type(chosen[name]) is not bool:
                raise self._refuse(f"{name} is {chosen[name]!r}, expected true or false")
        self._pads = chosen["do_pad"]
        is_square = chosen["default_to_square"]
        self._size = self._read_size(chosen, "size", is_square) if chosen["do_resize"] else None
        self._crop = (
            self._read_size(chosen, "crop_size", True) if chosen["do_center_crop"] else None
        )
        if chosen["resample"] not in [*Image.Resampling] or isinstance(chosen["resample"], bool):
            raise self._refuse(f"resample is {chosen['resample']!r}, expected 0 to 5")
        self._resample = Image.Resampling(chosen["resample"])
        if self._is_smooth and self._resample != Image.Resampling.BILINEAR:
            raise self._refuse(
                f"resample is {chosen['resample']!r}, expected 2 where it blurs first"
            )
        last = self._crop or self._size
        if last is None or last.height is None or last.width is None:
            raise self._refuse(
                "it keeps a picture's own proportions, so that no two need be of one size"
            )
        self.height, self.width = last.height, last.width
        self._levels = self._make_levels(chosen)  # (3, 256)

    @property
    def digest(self) -> str:
        """SHA-256 over what it does to a picture, whatever its settings are called; 64 hex digits."""
        steps: tuple[object, ...]
        steps = (self._size, self._crop, int(self._resample), self.height, self.width)
        if self._is_smooth:
            steps = (*steps, "smooth", self._pads)
        digest = hashlib.sha256(repr(steps).encode())
        digest.update(np.asarray(self._levels, "<f4").tobytes())
        return digest.hexdigest()

    @classmethod
    def from_bundle(cls, folder: str | os.PathLike[str]) -> "Preprocessor":
        """The one of a bundle, or of a model's folder; arguments and errors as `from_file`."""
        return cls.from_file(Path(folder) / PREPROCESSOR_NAME)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "Preprocessor":
        """Read a preprocessor_config.json, or the image processor of a processor_config.json.

        Raises:
            UsageError: there is no such file.
            InvalidFileError: it is none, or see `Preprocessor`.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise UsageError(
                f"cannot read {path}: {error.strerror}. Expected the settings that transformers' image "
                f"processor saves beside its model, {PREPROCESSOR_NAME}."
            ) from error
        try:
            if len(data) > _MAX_BYTES:
                raise ValueError(f"it has {len(data)} bytes")
            settings = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InvalidFileError(
                "preprocessor-malformed",
                f"{path} is no {PREPROCESSOR_NAME}: {error}. Copy it from the model again.",
            ) from error
        if isinstance(settings, dict) and isinstance(settings.get("image_processor"), dict):
            settings = settings["image_processor"]
        if not isinstance(settings, dict):
            raise InvalidFileError(
                "preprocessor-malformed",
                f"{path} is no JSON object. Copy it from the model again.",
            )
        return cls(settings, str(path))

    def frame(self, size: tuple[int, int]) -> tuple[int, int]:
        """What becomes the model's input where all of a picture does: it, or the square that it is padded to.

        Places in the input, as boxes and patches have them, are shares of it; it begins where the picture
        does, at the top left.

        Args:
            size: width and height of the picture in pixels.

        Returns:
            Its width and height in the same pixels.
        """
        return (max(size), max(size)) if self._pads else size

    def __call__(self, picture: Image.Image, *, whole: bool = False) -> npt.NDArray[np.float32]:
        """Pixel values of a picture.

        Args:
            picture: RGB and upright, as `read_picture` gives it.
            whole: squeeze all of the picture into the graph's input, where the model's own way cuts its
                sides off: what is looked for anywhere in a picture, as segments and boxes are, may not
                be lost. See `frame`.

        Returns:
            (3, height, width) float32, C-contiguous.

        Raises:
            InvalidFileError: the picture is so narrow that its resized form would be over the limit, or so
                long that blurring it would take minutes.
        """
        if self._is_smooth:
            return self._smooth(picture)
        if whole:
            picture = picture.resize((self.width, self.height), self._resample)
        else:
            picture = self._resized(picture)
        pixels = np.asarray(picture)  # (height, width, 3) uint8
        if not whole and self._crop is not None:
            pixels = _crop_center(pixels, self.height, self.width)
        values = np.empty((3, self.height, self.width), np.float32)
        for channel, levels in enumerate(self._levels):
            # a level is never outside its table, so "clip" only saves the check
            np.take(levels, pixels[..., channel], out=values[channel], mode="clip")
        return values

    def _smooth(self, picture: Image.Image) -> npt.NDArray[np.float32]:
        columns, rows = self.frame(picture.size)
        if max(picture.size) > _MAX_SMOOTH_SIDE:
            raise InvalidFileError(
                "picture-too-narrow",
                f"a picture of {picture.width} x {picture.height} pixels is {max(picture.size)} long, the limit "
                f"is {_MAX_SMOOTH_SIDE} where it is blurred. Cut it to the part that matters.",
            )
        pixels = smooth_resized(np.asarray(picture), (rows, columns), self.height, self.width)
        values = np.empty((3, self.height, self.width), np.float32)
        for channel, levels in enumerate(self._levels):
            # levels lie between those of the table: it is a straight line
            slope = (levels[255] - levels[0]) / 255
            np.add(pixels[..., channel] * slope, levels[0], out=values[channel])
        return values

    def _resized(self, picture: Image.Image) -> Image.Image:
        if self._size is None:
            return picture
        width, height = picture.size
        new_height, new_width = self._size.of(height, width)
        if new_height < 1 or new_width < 1 or new_height * new_width > MAX_PIXELS:
            raise InvalidFileError(
                "picture-too-narrow",
                f"a picture of {width} x {height} pixels would be {new_width} x {new_height} before it is "
                f"cropped, the limit is {MAX_PIXELS} pixels. Cut it to the part that matters.",
            )
        return picture.resize((new_width, new_height), self._resample)

    def _read_size(self, chosen: Mapping[str, Any], name: str, is_square: bool) -> _Size:
        value = chosen.get(name)
        if type(value) is int:  # as older files have it
            value = {"height": value, "width": value} if is_square else {"shortest_edge": value}
        elif isinstance(value, list) and len(value) == 2:
            value = {"height": value[0], "width": value[1]}
        known = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})
        if isinstance(value, dict):
            value = {key: side for key, side in value.items() if side is not None}
        if (
            not isinstance(value, dict)
            or set(value) not in known
            or not all(type(side) is int and 0 < side <= _MAX_SIDE for side in value.values())
            or (name == "crop_size" and "height" not in value)
        ):
            raise self._refuse(f"{name} is {chosen.get(name)!r}, which is no size")
        return _Size(**value)

    def _make_levels(self, chosen: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """(3, 256): what each level of red, green and blue becomes, rounded where transformers rounds."""
        factor = chosen["rescale_factor"] if chosen["do_rescale"] else 1.0
        if not _is_number(factor):
            raise self._refuse(f"rescale_factor is {factor!r}, expected a number")
        levels = np.repeat((np.arange(256) * float(factor)).astype(np.float32)[None], 3, axis=0)
        if chosen["do_normalize"]:
            mean, std = (self._read_triple(chosen, name) for name in ("image_mean", "image_std"))
            if not all(std):
                raise self._refuse("image_std holds a 0")
            levels = (levels - np.array(mean, np.float32)[:, None]) / np.array(std, np.float32)[
                :, None
            ]
        if not np.isfinite(levels).all():
            raise self._refuse("its scaling gives values that are not finite")
        return levels

    def _read_triple(self, chosen: Mapping[str, Any], name: str) -> list[float]:
        value = chosen[name]
        triple = [value] * 3 if _is_number(value) else value
        if not (isinstance(triple, list) and len(triple) == 3 and all(map(_is_number, triple))):
            raise self._refuse(f"{name} is {value!r}, expected three numbers")
        return [float(item) for item in triple]

    def _refuse(self, found: str) -> InvalidFileError:
        return InvalidFileError(
            "preprocessor-unknown",
            f"{self._origin}: {found}. Pictures would not be what the model was trained on, so it is refused. "
            f"Expected the settings of transformers' {', '.join(DEFAULTS)} image processors.",
        )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _crop_center(pixels: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """The middle of (height, width, 3) pixels; black around what is smaller."""
    for axis, wanted in ((0, height), (1, width)):
        found = pixels.shape[axis]
        if found >= wanted:
            first = (found - wanted) // 2
            pixels = pixels.take(range(first, first + wanted), axis)
        else:
            lacking = wanted - found
            around = [(0, 0)] * 3
            around[axis] = (math.ceil(lacking / 2), lacking // 2)
            pixels = np.pad(pixels, around)
    return pixels
