"""What was found in a picture, drawn on it: boxes with their labels, areas in colours."""

import colorsys
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

__all__ = ["colour", "draw_areas", "draw_boxes", "draw_caption", "to_mask", "to_png"]

Box = tuple[float, float, float, float]

# Steps of the golden ratio around the colour wheel: neighbours in a list look unlike each other.
_STEP = 0.618034
_OPACITY = 0.5


def colour(index: int) -> tuple[int, int, int]:
    """Red, green and blue of a class, the same in every picture."""
    red, green, blue = colorsys.hsv_to_rgb(index * _STEP % 1.0, 0.85, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(picture: Image.Image, boxes: Iterable[tuple[Box, str, int]]) -> Image.Image:
    """A copy of a picture with boxes.

    Args:
        picture: RGB.
        boxes: left, top, right and bottom in pixels; what to write there; the class, for its colour.
    """
    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    line, font = _pen_and_font(picture)
    for (left, top, right, bottom), text, index in boxes:
        pen.rectangle((left, top, right, bottom), outline=colour(index), width=line)
        _write(pen, font, (left, max(top - font.size - line, 0)), text, colour(index))
    return drawn


def draw_areas(
    picture: Image.Image, classes: npt.NDArray[np.uint16], labels: Sequence[str]
) -> Image.Image:
    """A copy of a picture whose areas are tinted by their class, and a legend of those that occur.

    Args:
        picture: RGB.
        classes: (height, width) of the picture; indices of labels. The class "background" is not tinted.
        labels: names of all classes.
    """
    colours = np.array([colour(index) for index in range(len(labels))], np.float32)
    pixels = np.array(picture)  # (height, width, 3)
    present = [
        index for index in np.unique(classes).tolist() if labels[index].lower() != "background"
    ]
    for index in present:
        area = classes == index
        pixels[area] = pixels[area] * (1 - _OPACITY) + colours[index] * _OPACITY
    drawn = Image.fromarray(pixels)
    pen = ImageDraw.Draw(drawn)
    line, font = _pen_and_font(picture)
    top = float(line)
    for index in present:
        _write(pen, font, (line, top), labels[index], colour(index))
        top += font.size + 3 * line
    return drawn


def draw_caption(picture: Image.Image, text: str, index: int) -> Image.Image:
    """A copy of a picture with a text in its corner, in the colour of a class."""
    drawn = picture.copy()
    line, font = _pen_and_font(picture)
    _write(ImageDraw.Draw(drawn), font, (line, line), text, colour(index))
    return drawn


def to_mask(classes: npt.NDArray[np.uint16]) -> Image.Image:
    """The class of every pixel as a grey picture whose levels are indices, 16 bits where 8 are too few."""
    return Image.fromarray(classes if classes.max(initial=0) > 0xFF else classes.astype(np.uint8))


def to_png(picture: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _pen_and_font(picture: Image.Image) -> tuple[int, ImageFont.FreeTypeFont]:
    """Width of lines and the letters, by the size of the picture."""
    shorter = min(picture.size)
    font = ImageFont.load_default(size=max(10, shorter // 32))
    # without a size, and without FreeType, it is of another class
    return max(1, shorter // 200), cast("ImageFont.FreeTypeFont", font)


def _write(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    place: tuple[float, float],
    text: str,
    on: tuple[int, int, int],
) -> None:
    """Text on a ground of its colour, so that it can be read on any picture."""
    pen.rectangle(pen.textbbox(place, text, font=font), fill=on)
    is_light = sum(on) > 382  # half of three times 255
    pen.text(place, text, font=font, fill=(0, 0, 0) if is_light else (255, 255, 255))
