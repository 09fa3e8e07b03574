"""The picture that is measured: a file as it is, or one that is made where none is given."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from edgept.errors import EdgeptError
from edgept.pictures.reading import read_picture, read_picture_bytes

__all__ = ["PictureFile", "find_picture"]

_SIZE = (640, 480)  # of the picture that is made
_QUALITY = 90  # of its JPEG


@dataclass(frozen=True)
class PictureFile:
    """The picture that is looked at, a file in memory.

    Attributes:
        name: of its file; "" of one that was made from the report's seed.
        width: in pixels.
        height: in pixels.
        nbytes: of the file.
        sha256: of the file.
    """

    name: str
    width: int
    height: int
    nbytes: int
    sha256: str

    of: ClassVar[str] = "pictures"
    swaps: ClassVar[str] = "each hands over a prompt's rows and head, and copies neither"

    def describe(self, virtual_tokens: int) -> str:
        """In a few words, with the prompt's tokens."""
        size = f"{self.width} x {self.height} pixels in {self.nbytes} bytes"
        return f"{virtual_tokens} virtual tokens, {size}"


def find_picture(
    path: Path | None, wanted: PictureFile | None, seed: int
) -> tuple[bytes, PictureFile]:
    """A file's bytes, once it is known to be a picture, and what is said of it.

    Args:
        path: of the file; None takes the one that is wanted, or else makes one.
        wanted: of another report: where it is gone or has changed, a picture is made in its place.
        seed: of a picture that is made.

    Raises:
        UsageError: there is no such file.
        InvalidFileError: it is no picture that is read.
    """
    if path is not None:
        return _read(path)
    if wanted is not None and wanted.name:
        try:
            data, found = _read(Path(wanted.name))
        except EdgeptError:  # it is gone; the comparison says so
            pass
        else:
            if found.sha256 == wanted.sha256:
                return data, found
    data = _make(seed)
    return data, _describe(data, "")


def _read(path: Path) -> tuple[bytes, PictureFile]:
    data = read_picture_bytes(path)
    return data, _describe(data, str(path.absolute()))


def _describe(data: bytes, name: str) -> PictureFile:
    width, height = read_picture(data, name=name or None).size
    return PictureFile(name, width, height, len(data), hashlib.sha256(data).hexdigest())


def _make(seed: int) -> bytes:
    """A JPEG with edges and some noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
    smooth = np.asarray(coarse.resize(_SIZE, Image.Resampling.BICUBIC), np.int16)
    noisy = (smooth + random.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
