"""Pictures with the class of each pixel: a folder `images`, and PNGs of the same names in `masks`."""

from collections.abc import Sequence
from pathlib import Path

from edgept.errors import InvalidFileError
from edgept.tune.vision.files import digest, pictures_under
from edgept.tune.vision.masks import read_mask_file
from edgept.tune.vision.rows import IGNORED, PictureData, PictureRow, malformed

__all__ = ["is_mask_folder", "read_mask_folder"]

_NAMES = "labels.txt"


def is_mask_folder(folder: Path) -> bool:
    """Whether a folder is of this form."""
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


def read_mask_folder(folder: Path) -> PictureData:
    """Read the pairs. The classes' names are the lines of `labels.txt`, if that is there.

    A mask is a PNG of one channel whose numbers are classes from 0 on; 255 is not learnt from.

    Raises:
        InvalidFileError: a picture has no mask, a mask no picture, or there are none.
    """
    images, masks = folder / "images", folder / "masks"
    paths = pictures_under(images)
    pictures = {path.relative_to(images).with_suffix(""): path for path in paths}
    found = {
        path.relative_to(masks).with_suffix(""): path
        for path in pictures_under(masks)
        if path.suffix.lower() == ".png"
    }
    problems = [f"images/{name} has no mask" for name in pictures if name not in found]
    problems += [f"masks/{name} has no picture" for name in found if name not in pictures]
    problems += [
        f"{path.relative_to(folder)} and {other.relative_to(folder)} share a mask"
        for path in paths
        if (other := pictures[path.relative_to(images).with_suffix("")]) != path
    ]
    if problems:
        raise malformed(
            str(folder), problems, "A picture and its mask, a .png, have the same name; add them."
        )
    if not pictures:
        raise InvalidFileError(
            "training-data", f"{images} holds no picture. Give it some, and masks for them."
        )
    rows = tuple(
        PictureRow(path.relative_to(folder).as_posix(), path, mask=found[name])
        for name, path in pictures.items()
    )
    names, raw = folder / _NAMES, b""
    if names.is_file():
        raw = names.read_bytes()
    try:
        labels = tuple(line.strip() for line in raw.decode("utf-8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise InvalidFileError("training-data", f"{names} is not UTF-8. Convert it.") from error
    labels = labels or _numbered(rows, folder)
    sha256 = digest([*pictures.values(), *found.values()], folder, raw)
    return PictureData("masks", rows, sha256, str(folder), labels)


def _numbered(rows: Sequence[PictureRow], folder: Path) -> tuple[str, ...]:
    """Names of classes that nobody named: "0", "1", … up to the highest of any mask."""
    highest, problems = 0, []
    for row in rows:
        if not isinstance(row.mask, Path):
            continue
        try:
            mask = read_mask_file(row.mask)
        except InvalidFileError as error:
            problems.append(str(error))
        else:
            highest = max(highest, int(mask[mask != IGNORED].max(initial=0)))
    if problems:
        raise malformed(str(folder), problems, "Correct or remove them.")
    return tuple(str(index) for index in range(highest + 1))
