"""A resize that blurs before it shrinks, as OWLv2's processor has it: Gaussian, then linear.

Both are linear along each side, so each side is one product with a narrow matrix: what a pixel of the result
takes of the picture's. The picture stands at the top left of a black square, of which no pixel is made: black
adds nothing.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["smooth_resized"]

# Pixels of the picture, about, that one product reads along a side; and of the result, at least, so that few
# are read twice: each takes four times as many as it stands for.
_BLOCK, _FEWEST = 128, 8
_TRUNCATED = 4.0  # standard deviations, where scipy's filter ends

Array = npt.NDArray[np.float32]


def smooth_resized(
    pixels: npt.NDArray[np.uint8], frame: tuple[int, int], height: int, width: int
) -> Array:
    """Pixels of another size.

    Equal to scipy.ndimage's gaussian_filter and zoom (order 1, mode "mirror", grid_mode), as transformers
    calls them, but for rounding.

    Args:
        pixels: (rows, columns, 3), levels 0 to 255.
        frame: rows and columns of the black picture at whose top left they stand.
        height: of the result, which shows all of the frame.
        width: of the result.

    Returns:
        (height, width, 3), levels 0 to 255.
    """
    found: npt.NDArray[np.uint8] | Array = pixels
    for axis in sorted((0, 1), key=lambda side: -pixels.shape[side]):  # the less memory between
        found = _along(found, axis, frame[axis], (height, width)[axis])
    return found.astype(np.float32, copy=False)


def _along(pixels: npt.NDArray[np.uint8] | Array, axis: int, length: int, new_length: int) -> Array:
    """Resize one side; `length` is the frame's."""
    lines = np.moveaxis(pixels, axis, 0)  # (pixels of the side, of the other side, 3)
    made = np.zeros((new_length, *lines.shape[1:]), np.float32)
    scale = length / new_length
    step = max(_FEWEST, int(_BLOCK / scale))
    for begin in range(0, new_length, step):
        end = min(begin + step, new_length)
        first, weights = _weights(begin, end, scale, length, len(lines))
        read = lines[first : first + weights.shape[1]].astype(np.float32)
        made[begin:end] = (weights @ read.reshape(len(read), -1)).reshape(
            end - begin, *read.shape[1:]
        )
    return np.moveaxis(made, 0, axis)


def _weights(begin: int, end: int, scale: float, length: int, num_pixels: int) -> tuple[int, Array]:
    """What some pixels of the result take of the picture's: the first of these, and (end - begin, pixels).

    Args:
        begin: first pixel of the result.
        end: behind the last one.
        scale: pixels of the frame for one of the result.
        length: of the frame.
        num_pixels: of the picture in it; the rest is black.
    """
    blur = _gaussian((scale - 1) / 2)  # (taps,)
    centres = (np.arange(begin, end) + 0.5) * scale - 0.5
    centres = np.where(centres > length - 1, 2 * (length - 1) - centres, np.abs(centres))
    before = np.floor(centres).astype(np.int64)
    after = (centres - before)[:, None]  # how much of the next pixel
    taps = (1 - after) * np.append(blur, 0) + after * np.insert(blur, 0, 0)  # (pixels, taps + 1)
    places = before[:, None] + np.arange(taps.shape[1]) - len(blur) // 2
    period = max(1, 2 * (length - 1))
    places = np.abs(places) % period
    places = np.minimum(places, period - places)  # beyond an end, as in a mirror there
    taps = np.where(places < num_pixels, taps, 0)
    places = np.minimum(places, num_pixels - 1)
    first, last = int(places.min()), int(places.max())
    rows = np.arange(end - begin)[:, None] * (last + 1 - first)
    weights = np.bincount(
        (rows + places - first).ravel(), taps.ravel(), (end - begin) * (last + 1 - first)
    )
    return first, weights.reshape(end - begin, -1).astype(np.float32)


def _gaussian(deviation: float) -> npt.NDArray[np.float64]:
    """Weights of a pixel and those around it, their sum 1."""
    if deviation <= 0:
        return np.ones(1)
    radius = int(_TRUNCATED * deviation + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)
    normalized: npt.NDArray[np.float64] = weights / weights.sum()
    return normalized
