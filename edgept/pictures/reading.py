"""Read a picture that a stranger may have made: its size is known before a pixel is decoded.

What is read is what transformers' `load_image` reads: the first frame, upright by its EXIF orientation,
converted to RGB, so that transparency is left out and not put on a background.
"""

import os
from collections.abc import Callable
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from edgept.errors import InvalidFileError, UsageError
from edgept.formats.regular_file import open_regular

__all__ = [
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "Picture",
    "check_size",
    "read_picture",
    "read_picture_bytes",
    "read_size",
]

MAX_FILE_BYTES = 128 << 20
# Pillow warns of a decompression bomb from here on. It holds RGB in four bytes a pixel, 341 MiB, and while a
# picture is converted and turned upright there are three such copies, of 16-bit grey four: 1.4 GiB at most.
MAX_PIXELS = (1 << 30) // 4 // 3

Picture: TypeAlias = str | os.PathLike[str] | bytes | npt.NDArray[np.uint8] | Image.Image
"""A file, its bytes, uint8 (height, width, 3) or (height, width), or Pillow's own."""

# Only these: Pillow knows forty more, one of which starts Ghostscript.
_OPENERS: dict[str, tuple[tuple[bytes, ...], Callable[[BytesIO], Image.Image]]] = {
    "PNG": ((b"\x89PNG\r\n\x1a\n",), PngImagePlugin.PngImageFile),
    "JPEG": ((b"\xff\xd8\xff",), JpegImagePlugin.JpegImageFile),
    "WebP": ((b"RIFF",), WebPImagePlugin.WebPImageFile),
    "TIFF": ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImagePlugin.TiffImageFile),
    "GIF": ((b"GIF87a", b"GIF89a"), GifImagePlugin.GifImageFile),
    "BMP": ((b"BM",), BmpImagePlugin.BmpImageFile),
    # not P1 to P3, numbers as text: reading them takes minutes
    "PPM": ((b"P4", b"P5", b"P6"), PpmImagePlugin.PpmImageFile),
}
# EXIF's orientation to what makes it upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(source: Picture, *, name: str | None = None, may_turn: bool = True) -> Image.Image:
    """Read a picture: RGB, 8 bits a channel, upright.

    16-bit grey is scaled to 8 bits, CMYK and palettes are converted, transparency is left out as
    transformers leaves it out; of an animation or a file of pages, the first one is read.

    Args:
        source: see `Picture`.
        name: what to call it in an error; None takes the file's name.
        may_turn: whether one that its EXIF orientation turns is read; not where somebody gave boxes or masks
            for its pixels, and nobody knows whether before or after the turn.

    Raises:
        UsageError: there is no such file, or what is given is no picture.
        InvalidFileError: the file is too large, in no format that is read, corrupt or cut short; its
            pixels are of a kind that has no grey levels (floats, wide integers); or it may not be turned.
    """
    if isinstance(source, (str, os.PathLike)):
        name = name or os.fsdecode(source)
        return _decode(read_picture_bytes(source), name, may_turn)
    name = name or "the picture"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), name, may_turn)
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    if isinstance(source, Image.Image):
        return _finish(source, getattr(source, "filename", "") or name, may_turn)
    raise UsageError(
        f"{name} is a {type(source).__name__}; expected a path, bytes, a numpy array or a Pillow image."
    )


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height that a file says that it has, as it lies; no pixel is decoded.

    Raises:
        UsageError: there is no such file.
        InvalidFileError: the file is too large, in no format that is read, or its header is broken.
    """
    return _open(read_picture_bytes(path), os.fsdecode(path)).size


def read_picture_bytes(path: str | os.PathLike[str]) -> bytes:
    """A picture's file as it is.

    Raises:
        UsageError: there is no such file.
        InvalidFileError: it is no regular file, or too large.
    """
    with open_regular(path, max_bytes=1 << 62, follow_links=True) as (stream, size):
        if size > MAX_FILE_BYTES:
            raise InvalidFileError(
                "picture-too-large",
                f"{path} has {size} bytes, the limit for a picture is {MAX_FILE_BYTES}. Save it compressed, "
                "or smaller.",
            )
        return stream.read(size)


def _decode(data: bytes, name: str, may_turn: bool) -> Image.Image:
    return _finish(_open(data, name), name, may_turn, _form(data, name))


def _open(data: bytes, name: str) -> Image.Image:
    """The picture before its pixels are decoded."""
    form = _form(data, name)
    try:
        return _OPENERS[form][1](BytesIO(data))
    except Exception as error:  # of a broken file Pillow raises nearly anything
        raise _corrupt(name, form, error) from error


def _form(data: bytes, name: str) -> str:
    form = next((form for form in _OPENERS if _is(form, data)), None)
    if form is None:
        found = f"it begins with {data[:8]!r}" if data else "it is empty"
        raise InvalidFileError(
            "picture-unknown-format",
            f"{name} is no picture that is read: {found}. Expected one of {', '.join(_OPENERS)}: convert it.",
        )
    return form


def _is(form: str, data: bytes) -> bool:
    return data.startswith(_OPENERS[form][0]) and (form != "WebP" or data[8:12] == b"WEBP")


def _finish(picture: Image.Image, name: str, may_turn: bool, form: str = "picture") -> Image.Image:
    width, height = picture.size
    check_size(width, height, name)
    try:
        picture.load()
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
        if orientation in _UPRIGHT and not may_turn:
            raise InvalidFileError(
                "picture-turned",
                f"{name} has the EXIF orientation {orientation}: it is shown turned or mirrored, and nothing says "
                "whether its boxes or its mask are. Save it turned, without that entry, and see that they fit.",
            )
        if picture.mode in ("I", "I;16", "I;16L", "I;16B", "I;16N"):
            picture = _of_16_bits(picture, name)
        if picture.mode in ("F", "LAB"):
            raise _refuse_mode(name, picture.mode)
        rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
        return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb
    except InvalidFileError:
        raise
    except Exception as error:  # as above
        raise _corrupt(name, form, error) from error


def _of_16_bits(picture: Image.Image, name: str) -> Image.Image:
    """Grey of 16 bits as 8: white stays white. Pillow's own conversion cuts all above 255."""
    values = np.asarray(picture)  # (height, width)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise _refuse_mode(name, picture.mode)
    levels = (values.astype(np.uint32) + 128) // 257
    return Image.fromarray(levels.astype(np.uint8))


def _from_array(array: npt.NDArray[Any], name: str) -> Image.Image:
    is_grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if array.dtype != np.uint8 or not (is_grey or (array.ndim == 3 and array.shape[2] == 3)):
        raise UsageError(
            f"{name} is an array of {array.dtype} with shape {array.shape}; expected uint8 of shape (height, "
            "width, 3), red first, or (height, width) in grey."
        )
    check_size(array.shape[1], array.shape[0], name)
    plane = array.reshape(array.shape[:2]) if is_grey else array
    return Image.fromarray(np.ascontiguousarray(plane)).convert("RGB")


def check_size(width: int, height: int, name: str) -> None:
    """Refuse a picture before it is decoded.

    Raises:
        InvalidFileError: it has no pixels, or more than `MAX_PIXELS`.
    """
    if width < 1 or height < 1:
        raise InvalidFileError(
            "picture-empty", f"{name} has {width} x {height} pixels: there is nothing to see."
        )
    if width * height > MAX_PIXELS:
        raise InvalidFileError(
            "picture-too-large",
            f"{name} says that it has {width} x {height} pixels, {MAX_PIXELS} is the most that is decoded (a "
            "small file may claim any size). Save it smaller.",
        )


def _corrupt(name: str, form: str, error: Exception) -> InvalidFileError:
    return InvalidFileError(
        "picture-corrupt",
        f"{name} is a broken {form}, or one that was cut short: {error or type(error).__name__}. Copy it "
        "again, or save it anew.",
    )


def _refuse_mode(name: str, mode: str) -> InvalidFileError:
    return InvalidFileError(
        "picture-mode",
        f"{name} has pixels of mode {mode} whose range nothing states. Expected grey of 8 or 16 bits or "
        "colours of 8: convert it, and choose the range there.",
    )
