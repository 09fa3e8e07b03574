"""Pictures as the model reads them, with what is to be learnt of each, kept in memory where there is room."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from edgept.errors import EdgeptError, InvalidFileError
from edgept.pictures import read_picture
from edgept.tune.vision.masks import read_mask
from edgept.tune.vision.rows import IGNORED, PictureData, PictureRow, malformed

__all__ = ["Store", "Target", "open_store"]

_ROOM_BYTES = 1 << 30  # of pictures kept in memory, training and held-out each

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Target:
    """What is to be learnt of a picture.

    Attributes:
        label: its class; 0 where pixels or boxes have classes.
        classes: (objects,) int64, of its objects.
        boxes: (objects, 4) float32: centre x, centre y, width, height as shares of the picture, or of the
            square that it is padded to.
        mask: (height, width) uint8 of the model's input, the class of each pixel, 255 where it is padded;
            None without masks.
    """

    label: int
    classes: torch.Tensor
    boxes: torch.Tensor
    mask: torch.Tensor | None


class Store:
    """The pictures of a data set in the model's form.

    Args:
        rows: the pictures.
        labels: names of the classes.
        numbered: what the numbers of masks in files stand for, all of them among `labels`.
        read: a row's picture.
        preprocess: a picture to (3, height, width) float32.
        frame: width and height of a picture to those of what becomes the input, see `Preprocessor.frame`.
    """

    def __init__(
        self,
        rows: Sequence[PictureRow],
        labels: Sequence[str],
        numbered: Sequence[str],
        read: Callable[[PictureRow], Image.Image],
        preprocess: Callable[[Image.Image], Pixels],
        frame: Callable[[tuple[int, int]], tuple[int, int]],
    ) -> None:
        self.rows = rows
        self.labels, self._numbered = tuple(labels), tuple(numbered)
        self._read, self._preprocess, self.frame = read, preprocess, frame
        self._kept: dict[int, tuple[torch.Tensor, Target]] = {}
        self.sizes: list[tuple[int, int]] = []  # width and height of each picture

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        """(3, height, width) float32, and what is to be learnt."""
        if index in self._kept:
            return self._kept[index]
        row = self.rows[index]
        picture = self._read(row)
        pixels = torch.from_numpy(self._preprocess(picture))
        return pixels, self._target(row, picture.size, (pixels.shape[2], pixels.shape[1]))

    def check(self) -> list[str]:
        """Read every picture once; what is wrong with them, one line for each. They are kept while there is room."""
        problems: list[str] = []
        room = _ROOM_BYTES
        for index, row in enumerate(self.rows):
            try:
                picture = self._read(row)
                if row.size is not None and row.size != picture.size:
                    found = "{} x {}".format(*picture.size)
                    stated = "{} x {}".format(*row.size)
                    raise InvalidFileError(
                        "training-data", f"has {found} pixels, the data state {stated}"
                    )
                self.sizes.append(picture.size)
                pixels = torch.from_numpy(self._preprocess(picture))
                target = self._target(row, picture.size, (pixels.shape[2], pixels.shape[1]))
            except EdgeptError as error:
                problems.append(f"{row.place}: {error}")
                continue
            room -= pixels.nbytes + (0 if target.mask is None else target.mask.nbytes)
            if room > 0:
                self._kept[index] = pixels, target
        return problems

    def mask(self, index: int) -> npt.NDArray[np.uint8]:
        """The class of each pixel of the picture itself, (its height, its width)."""
        return read_mask(self.rows[index], self.labels, self.sizes[index], self._numbered)

    def _target(
        self, row: PictureRow, size: tuple[int, int], input_size: tuple[int, int]
    ) -> Target:
        label = self.labels.index(row.label) if row.label else 0
        classes = torch.tensor(
            [self.labels.index(box.label) for box in row.boxes], dtype=torch.int64
        )
        corners = torch.tensor([box.corners for box in row.boxes]).reshape(-1, 4)
        frame = self.frame(size)
        corners = corners / torch.tensor([*frame, *frame])  # (objects, 4), shares of what is seen
        boxes = torch.cat(
            [(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1
        )
        mask = None
        if row.mask is not None:
            found = Image.fromarray(read_mask(row, self.labels, size, self._numbered))
            extent = found.transform(
                input_size, Image.Transform.EXTENT, (0, 0, *frame), fillcolor=IGNORED
            )
            mask = torch.from_numpy(np.array(extent))
        return Target(label, classes, boxes, mask)


def open_store(
    data: PictureData,
    labels: Sequence[str],
    preprocessor: Any,
    *,
    whole: bool,
    numbered: Sequence[str] | None = None,
) -> Store:
    """Read all pictures of a data set.

    Args:
        data: the rows.
        labels: names of the classes.
        preprocessor: the model's.
        whole: whether a picture is resized whole, and not cropped.
        numbered: what the numbers of masks in files stand for; None takes `labels`.

    Raises:
        InvalidFileError: pictures cannot be read, or do not match what the data say; each is named.
    """
    store = Store(
        data.rows,
        labels,
        labels if numbered is None else numbered,
        lambda row: read_picture(row.picture, name="it", may_turn=data.kind == "classes"),
        lambda picture: preprocessor(picture, whole=whole),
        preprocessor.frame,
    )
    if problems := store.check():
        raise malformed(data.path, problems, "Correct or remove them.")
    return store
