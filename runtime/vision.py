"""One forward pass over pictures: what all tasks share in which a model looks, whichever engine runs it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from edgept.errors import InvalidFileError
from edgept.latency import Latency
from edgept.manifest import ImageGeometry, Manifest
from edgept.runtime.sights import CLASSIFIES, DETECTS, EMBEDS, SEGMENTS, PromptT, Sight

if TYPE_CHECKING:
    from edgept.pictures import Preprocessor

__all__ = ["READS", "Run", "Seen", "Values", "Vision"]

Values: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
"""What the graph gave for a picture, by output."""

# What each task reads of the graph's outputs.
READS = {
    CLASSIFIES: ("logits",),
    SEGMENTS: ("logits",),
    DETECTS: ("logits", "boxes"),
    EMBEDS: ("features",),
}
# In these, things are looked for in all of the picture, so that no part of it is cut off.
_WHOLE = (SEGMENTS, DETECTS)

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Seen:
    """What the graph gave for a picture.

    Attributes:
        values: float32, by output: logits (1 + P + N, classes), boxes (1 + P + N, 4), features
            (1 + P + N, head_size), those that the task reads. The first position is the picture's own,
            P are virtual tokens, N patches row by row.
        size: width and height of the picture in pixels, upright.
        frame: width and height, in these pixels, of what the graph was given where all of the picture was:
            it, or the square that it is padded to at the bottom or on the right.
        labels: of the head that was used; empty without one.
        prompt: name of the prompt; None for the plain model.
        virtual_tokens: P.
        latency: how long each phase took; prefill is the run.
    """

    values: Values
    size: tuple[int, int]
    frame: tuple[int, int]
    labels: tuple[str, ...]
    prompt: str | None
    virtual_tokens: int
    latency: Latency


@dataclass(frozen=True, eq=False)
class Run:
    """What an engine gives for pictures that it ran together.

    Attributes:
        values: of each picture in turn, what its task reads.
        labels: of each picture, those of the head that was used; empty without one.
        swap_ms: as in Latency, like the next one.
        prefill_ms: the run.
    """

    values: Iterable[Values]
    labels: Iterable[tuple[str, ...]]
    swap_ms: float
    prefill_ms: float


class Vision(ABC, Generic[PromptT]):
    """Looks at pictures: reads them, has an engine run them, and says what came out.

    The engines are graph_vision.py, onnxruntime's own, and c_vision.py, the C library.

    Attributes:
        prompt_type: of the prompts that its engine loads.
        image: what the graph takes.
    """

    prompt_type: type[PromptT]
    image: ImageGeometry

    def __init__(
        self, manifest: Manifest, preprocessor: "Preprocessor", float_type: npt.DTypeLike
    ) -> None:
        """Get ready.

        Args:
            manifest: of the bundle, with its image's geometry.
            preprocessor: of the bundle.
            float_type: of the pixel values that the engine takes.

        Raises:
            InvalidFileError: the preprocessor makes pictures of another size than the graph takes.
        """
        if manifest.image is None:
            raise AssertionError("a bundle that looks says at what")
        self.image = manifest.image
        self._own_labels = tuple(manifest.labels)
        self._preprocessor, self._float_type = preprocessor, float_type
        found, expected = (
            (preprocessor.height, preprocessor.width),
            (manifest.image.height, manifest.image.width),
        )
        if found != expected:
            raise InvalidFileError(
                "manifest-malformed",
                f"the bundle's preprocessor makes pictures of {found[1]} x {found[0]} pixels, its graph takes "
                f"{expected[1]} x {expected[0]}. Export the model again.",
            )

    def run(
        self,
        sights: Sequence[Sight[PromptT]],
        finish: Callable[[Sight[PromptT], Seen], _T],
        *,
        load_ms: float,
        started: float,
    ) -> list[_T]:
        """Look at pictures, those that can be together; prompts and tasks may differ from one to the next.

        Args:
            sights: that are checked: the prompt has what the task needs.
            finish: makes a result of a sight and what the graph gave for it; called before the next
                pictures are read, so that neither they nor large outputs pile up.
            load_ms: as in Latency.
            started: monotonic time of the call.

        Returns:
            One result a sight, in order. Its times are those of the run that it was part of.

        Raises:
            UsageError, InvalidFileError: a picture cannot be read.
            EdgeptError: what came out is not finite.
        """
        results: dict[int, _T] = {}
        for piece in self._pieces(sights):
            rows = [sights[index] for index in piece]
            begin = time.perf_counter()
            pixels, sizes, decode_ms = self._read(rows)
            preprocess_ms = (time.perf_counter() - begin) * 1e3
            ran = self._run(pixels, rows)
            for index, sight, size, values, labels in zip(
                piece, rows, sizes, ran.values, ran.labels, strict=True
            ):
                virtual = 0 if sight.prompt is None else sight.prompt.num_virtual_tokens
                latency = Latency(
                    load_ms=load_ms,
                    prompt_ms=0.0 if sight.prompt is None else sight.prompt.load_ms,
                    swap_ms=ran.swap_ms,
                    tokenize_ms=0.0,
                    prefill_ms=ran.prefill_ms,
                    ttft_ms=None,
                    tpot_ms=None,
                    total_ms=(time.perf_counter() - started) * 1e3,
                    virtual_tokens=virtual,
                    input_tokens=self.image.num_patches,
                    new_tokens=0,
                    preprocess_ms=preprocess_ms,
                    decode_ms=decode_ms,
                )
                name = None if sight.prompt is None else sight.prompt.name
                frame = self._preprocessor.frame(size)
                seen = Seen(values, size, frame, labels, name, virtual, latency)
                results[index] = finish(sight, seen)
        return [results[index] for index in range(len(sights))]

    @abstractmethod
    def _pieces(self, sights: Sequence[Sight[PromptT]]) -> Iterator[list[int]]:
        """Indices of pictures that are run together; each stands in one piece."""

    @abstractmethod
    def _run(self, pixels: npt.NDArray[Any], rows: Sequence[Sight[PromptT]]) -> Run:
        """Run pixel values (pictures, 3, height, width) once, each under its own prompt.

        Raises:
            EdgeptError: what came out is not finite.
        """

    def _read(
        self, rows: Sequence[Sight[PromptT]]
    ) -> tuple[npt.NDArray[Any], list[tuple[int, int]], float]:
        """Pixel values (pictures, 3, height, width), the pictures' own sizes, milliseconds of decoding."""
        from edgept.pictures import read_picture  # Pillow: models of text do without

        shape = (len(rows), 3, self.image.height, self.image.width)
        pixels = np.empty(shape, self._float_type)
        sizes, decode_s = [], 0.0
        for row, sight in enumerate(rows):
            # else the one before is seen under another prompt
            if row == 0 or sight.picture is not rows[row - 1].picture:
                begin = time.perf_counter()
                picture = read_picture(sight.picture)
                decode_s += time.perf_counter() - begin
            pixels[row] = self._preprocessor(picture, whole=sight.task in _WHOLE)
            sizes.append(picture.size)
        return pixels, sizes, decode_s * 1e3
