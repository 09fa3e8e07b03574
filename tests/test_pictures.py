"""Reading pictures: every form and mode, and files that are broken, huge or no pictures."""

import io
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgept.errors import InvalidFileError, UsageError
from edgept.pictures import MAX_PIXELS, read_picture, reading
from edgept.pictures.drawing import draw_areas, draw_boxes, to_mask
from edgept.pictures.finding import find_pictures


def gradient(height: int = 12, width: int = 20) -> npt.NDArray[np.uint8]:
    """A picture with no symmetry: (height, width, 3)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 9, columns * 7, (rows + columns) * 4], -1).astype(np.uint8)


def same(found: Any, expected: Any) -> bool:
    """Whether two pictures, or arrays, have the same pixels."""
    return np.array_equal(np.asarray(found), np.asarray(expected))


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = (
        chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


def test_forms_are_read_alike(tmp_path: Path) -> None:
    pixels = gradient()
    picture = Image.fromarray(pixels)
    for form in ("PNG", "TIFF", "BMP", "PPM", "GIF"):
        path = tmp_path / f"picture.{form.lower()}"
        saved = picture.quantize(256) if form == "GIF" else picture
        saved.save(path, form)
        for source in (path, str(path), path.read_bytes(), memoryview(path.read_bytes())):
            found = read_picture(source)  # type: ignore[arg-type]
            assert (found.mode, found.size) == ("RGB", (20, 12))
            assert same(found, saved.convert("RGB")), form
    for form, options in (("JPEG", {"quality": 95}), ("WEBP", {"lossless": True})):
        found = read_picture(encoded(picture, form, **options))
        assert np.abs(np.asarray(found, int) - pixels).max() <= (0 if form == "WEBP" else 12)
    assert same(read_picture(pixels), pixels)
    assert same(read_picture(picture), pixels)


def test_grey_becomes_three_equal_channels() -> None:
    grey = gradient()[..., 0]
    expected = np.repeat(grey[..., None], 3, -1)
    for source in (grey, grey[..., None], encoded(Image.fromarray(grey), "PNG")):
        assert same(read_picture(source), expected)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_odd_modes_are_converted_as_pillow_converts_them(mode: str) -> None:
    picture = Image.fromarray(gradient()).convert("RGBA" if mode == "PA" else "RGB").convert(mode)
    assert same(read_picture(picture), picture.convert("RGB"))


def test_transparency_is_left_out_as_transformers_load_image_does(tmp_path: Path) -> None:
    from transformers.image_utils import load_image

    rgba = np.dstack([gradient(), np.zeros((12, 20), np.uint8)])  # nothing would be seen
    path = tmp_path / "clear.png"
    Image.fromarray(rgba).save(path)
    found = read_picture(path)
    assert same(found, gradient())
    assert same(found, load_image(str(path)))


def test_16_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    wide = np.array([[0, 257, 128 * 257], [254 * 257, 0xFFFF, 1000]], np.uint16)
    expected = [[0, 1, 128], [254, 255, 4]]
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide).save(tmp_path / "wide.tif")
    (tmp_path / "wide.pgm").write_bytes(b"P5 3 2 65535\n" + wide.astype(">u2").tobytes())
    for name in ("wide.png", "wide.tif", "wide.pgm"):
        found = np.asarray(read_picture(tmp_path / name))
        assert same(found, np.repeat(np.array(expected)[..., None], 3, -1)), name


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_range_are_refused(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "depth.tif"
    Image.fromarray(np.full((3, 3), 70_000, np.float32 if mode == "F" else np.int32)).save(path)
    with pytest.raises(InvalidFileError, match=f"depth.tif has pixels of mode {mode}") as error:
        read_picture(path)
    assert error.value.reason == "picture-mode"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(orientation: int) -> None:
    from PIL import ImageOps

    picture = Image.fromarray(gradient())
    exif = Image.Exif()
    exif[0x0112] = orientation
    for form in ("PNG", "TIFF"):
        data = encoded(picture, form, exif=exif)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert same(read_picture(data), expected)
        assert (read_picture(data).size == (12, 20)) == (orientation > 4)


def test_of_an_animation_the_first_frame_is_read() -> None:
    frames = [Image.fromarray(np.full((4, 4, 3), level, np.uint8)) for level in (10, 200)]
    for form in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if form == "WEBP" else {}
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
        assert np.asarray(read_picture(data)).max() == 10, form


BROKEN = {
    "empty": (b"", "picture-unknown-format", "it is empty"),
    "text": (b"not a picture at all", "picture-unknown-format", "begins with b'not a pi'"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "picture-unknown-format", "convert it"),
    "numbers as text": (b"P3 2 2 255\n" + b"9 " * 12, "picture-unknown-format", "b'P3 2 2 2'"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "picture-unknown-format", "Expected one of PNG"),
    "sound": (b"RIFF\0\0\0\0WAVEfmt ", "picture-unknown-format", "RIFF"),
    "bomb": (claiming(30_000, 30_000), "picture-too-large", "30000 x 30000 pixels"),
    "line": (claiming(2**31 - 1, 1), "picture-too-large", "may claim any size"),
    "no pixel": (claiming(0, 5), "picture-corrupt", "broken PNG"),
    "short data": (claiming(300, 300), "picture-corrupt", "cut short"),
    "signature": (b"\x89PNG\r\n\x1a\n", "picture-corrupt", "broken PNG"),
    "jpeg": (b"\xff\xd8\xff" + bytes(50), "picture-corrupt", "broken JPEG"),
    "tiff": (b"II*\0" + b"\xff" * 50, "picture-corrupt", "broken TIFF"),
    "gif": (b"GIF89a" + bytes(4), "picture-corrupt", "broken GIF"),
    "bmp": (b"BM" + b"\xff" * 60, "picture-corrupt", "broken BMP"),
    "webp": (b"RIFF\x10\0\0\0WEBPVP8 " + bytes(9), "picture-corrupt", "broken WebP"),
    "ppm": (b"P6 10 10 255\nabc", "picture-corrupt", "broken PPM"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_by_name(case: str, tmp_path: Path) -> None:
    data, reason, says = BROKEN[case]
    path = tmp_path / "scan.png"
    path.write_bytes(data)
    with pytest.raises(InvalidFileError) as error:
        read_picture(path)
    assert error.value.reason == reason
    assert str(path) in str(error.value)
    assert says in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_files_that_were_cut_short_are_refused() -> None:
    picture = Image.fromarray(gradient())
    for form in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"):
        data = encoded(picture, form)
        for end in range(0, len(data) * 3 // 4, 7):
            with pytest.raises(InvalidFileError):
                read_picture(data[:end])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_changed_bytes_are_an_error_or_a_picture() -> None:
    random = np.random.default_rng(0)
    picture = Image.fromarray(gradient())
    exif = Image.Exif()
    exif[0x0112] = 6
    for form in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM"):
        options = {} if form in ("BMP", "GIF", "PPM") else {"exif": exif}
        data = np.frombuffer(encoded(picture, form, **options), np.uint8)
        for _ in range(40):
            changed = data.copy()
            places = random.integers(0, len(data), 3)
            changed[places] = random.integers(0, 256, 3, np.uint8)
            with suppress(InvalidFileError):
                assert read_picture(changed.tobytes()).mode == "RGB"


def test_limits_hold_whatever_the_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.fromarray(gradient(10, 10)).save(path)
    monkeypatch.setattr(reading, "MAX_PIXELS", 99)
    with Image.open(path) as opened:
        for source in (path, path.read_bytes(), gradient(10, 10), opened):
            with pytest.raises(InvalidFileError, match=r"10 x 10 pixels, 99 is the most"):
                read_picture(source)
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 10)
    with pytest.raises(InvalidFileError, match=r"wide.png has \d+ bytes, the limit .* is 10"):
        read_picture(path)
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS  # Pillow's own bound, from which on it warns


def test_a_size_is_read_without_the_pixels(tmp_path: Path) -> None:
    path = tmp_path / "claims.png"
    path.write_bytes(claiming(50_000, 40_000))
    assert reading.read_size(path) == (50_000, 40_000)
    path.write_bytes(b"text")
    with pytest.raises(InvalidFileError, match=r"claims\.png is no picture"):
        reading.read_size(path)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*absent.png"):
        read_picture(tmp_path / "absent.png")
    with pytest.raises(InvalidFileError, match="regular file"):
        read_picture(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InvalidFileError, match="regular file"):
        read_picture(tmp_path / "pipe.png")
    Image.fromarray(gradient()).save(tmp_path / "real.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    assert read_picture(tmp_path / "link.png").size == (20, 12)


@pytest.mark.parametrize(
    "source",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros(4, np.uint8),
        7,
        None,
        ["a.png"],
    ],
)
def test_what_is_no_picture_is_refused(source: Any) -> None:
    with pytest.raises(UsageError, match="expected"):
        read_picture(source)


def test_empty_arrays_are_refused() -> None:
    with pytest.raises(InvalidFileError, match="0 x 4 pixels"):
        read_picture(np.zeros((4, 0, 3), np.uint8))


def test_folders_and_patterns_stand_for_their_files(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", "sub/c.tif", ".hidden/d.png", "e[1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [str(path.relative_to(tmp_path)) for path in find_pictures([tmp_path])]
    assert names == ["a.JPG", "b.png", "e[1].png", "sub/c.tif"]
    assert [*find_pictures([tmp_path / "*.png"])] == [tmp_path / "b.png", tmp_path / "e[1].png"]
    assert [*find_pictures([tmp_path / "e[1].png"])] == [tmp_path / "e[1].png"]
    assert [*find_pictures([tmp_path / "absent.png"])] == [tmp_path / "absent.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty holds no file that ends in"):
        [*find_pictures([tmp_path / "empty"])]
    with pytest.raises(UsageError, match=r"nothing matches .*\*.gif"):
        [*find_pictures([tmp_path / "*.gif"])]


def test_drawing_changes_what_it_marks_and_no_more() -> None:
    grey = Image.fromarray(np.full((64, 64, 3), 128, np.uint8))
    boxes = np.asarray(draw_boxes(grey, [((10.0, 30.0, 40.0, 50.0), "cat 0.9", 0)]))
    assert not same(boxes[30, 10:40], np.asarray(grey)[30, 10:40])
    assert same(boxes[35:45, 15:35], np.asarray(grey)[35:45, 15:35])
    classes = np.zeros((64, 64), np.uint16)
    classes[32:, 32:] = 1
    areas = np.asarray(draw_areas(grey, classes, ("background", "lung")))
    assert (areas[40:, 40:] != 128).any(-1).all()
    assert (areas[40:, :20] == 128).all()
    assert same(np.asarray(to_mask(classes)), classes)
    assert to_mask(classes + 300).mode.startswith("I;16")
    assert same(np.asarray(grey), np.full((64, 64, 3), 128))
