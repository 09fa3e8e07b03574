"""One forward pass over pictures: what all tasks share in which a model looks.

Pictures whose prompts have equally many layers of rows and equally many rows run together, each under its
own prompt, whatever its task: their tables are stacked, and their heads stand side by side.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgept.errors import EdgeptError, InvalidFileError
from edgept.latency import Latency
from edgept.manifest import Manifest
from edgept.runtime.content import Head, LoadedPrompt
from edgept.runtime.graph import Graph
from edgept.runtime.sights import CLASSIFIES, DETECTS, EMBEDS, SEGMENTS, Sight, pieces

if TYPE_CHECKING:
    from edgept.pictures import Preprocessor

__all__ = ["Seen", "Vision"]

# What each task reads of the graph's outputs.
_READS = {
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

    values: Mapping[str, npt.NDArray[np.float32]]
    size: tuple[int, int]
    frame: tuple[int, int]
    labels: tuple[str, ...]
    prompt: str | None
    virtual_tokens: int
    latency: Latency


class Vision:
    """Runs one graph over pictures."""

    def __init__(self, graph: Graph, manifest: Manifest, preprocessor: "Preprocessor") -> None:
        """Get ready.

        Args:
            graph: of the bundle.
            manifest: of the bundle, with its image's geometry.
            preprocessor: of the bundle.

        Raises:
            InvalidFileError: the preprocessor makes pictures of another size than the graph takes.
        """
        if manifest.image is None:
            raise AssertionError("a bundle that looks says at what")
        self._graph, self._preprocessor = graph, preprocessor
        self._own_labels = tuple(manifest.labels)
        self._image = manifest.image
        self._head_size = manifest.head_size or manifest.hidden_size
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

    def probe(self, table: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Features of a grey picture and its patches, (1 + N, head_size), under a table of rows."""
        pixels = np.zeros((1, 3, self._image.height, self._image.width), self._graph.float_type)
        found = self._fetch({"pixel_values": pixels, "prompt_embeds": table[:, None]}, ["features"])
        features = found["features"][0].astype(np.float32)  # (1 + P + N, head_size)
        return np.delete(features, range(1, 1 + table.shape[1]), axis=0)

    def outputs(
        self,
        pixel_values: npt.NDArray[Any],
        prompts: Sequence[LoadedPrompt | None],
        names: Sequence[str] = ("logits", "boxes", "features"),
    ) -> dict[str, npt.NDArray[np.float32]]:
        """What the graph gives, for pictures that are numbers already.

        Args:
            pixel_values: (pictures, 3, height, width), normalised.
            prompts: one a picture, with equally many layers of rows and equally many rows; or all None.
            names: of the outputs that are wanted.

        Returns:
            logits (pictures, 1 + P + N, classes), those of all heads side by side; boxes (pictures,
            1 + P + N, 4), features (pictures, 1 + P + N, head_size).
        """
        rows = [Sight("", prompt, CLASSIFIES) for prompt in prompts]
        feeds, _ = self._swap_in(rows)
        pixels = pixel_values.astype(self._graph.float_type)
        found = self._fetch({"pixel_values": pixels, **feeds}, names)
        return {name: array.astype(np.float32) for name, array in found.items()}

    def run(
        self,
        sights: Sequence[Sight],
        finish: Callable[[int, Seen], _T],
        *,
        load_ms: float,
        started: float,
    ) -> list[_T]:
        """Look at pictures, those that can be together; prompts and tasks may differ from one to the next.

        Args:
            sights: that are checked: the prompt has what the task needs.
            finish: makes a result of a sight's index and what the graph gave; called before the next
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
        positions = 1 + self._image.num_patches
        for piece in pieces(sights, positions, len(self._own_labels)):
            begin = time.perf_counter()
            rows = [sights[index] for index in piece]
            pixels, sizes, decode_ms = self._see(rows)
            read = time.perf_counter()
            feeds, places = self._swap_in(rows)
            swapped = time.perf_counter()
            names = sorted({name for row in rows for name in _READS[row.task]})
            found = self._fetch({"pixel_values": pixels, **feeds}, names)
            ended = time.perf_counter()
            for row, index in enumerate(piece):
                sight = rows[row]
                values = {
                    name: found[name][row].astype(np.float32, copy=False)
                    for name in _READS[sight.task]
                }
                if "logits" in values and places[row] is not None:
                    values["logits"] = values["logits"][:, places[row]]
                _check_finite(values, sight.prompt)
                virtual = 0 if sight.prompt is None else sight.prompt.num_virtual_tokens
                head = sight.head
                results[index] = finish(
                    index,
                    Seen(
                        values=values,
                        size=sizes[row],
                        frame=self._preprocessor.frame(sizes[row]),
                        labels=self._own_labels if head is None else head.labels,
                        prompt=None if sight.prompt is None else sight.prompt.name,
                        virtual_tokens=virtual,
                        latency=Latency(
                            load_ms=load_ms,
                            prompt_ms=0.0 if sight.prompt is None else sight.prompt.load_ms,
                            swap_ms=(swapped - read) * 1e3,
                            tokenize_ms=0.0,
                            prefill_ms=(ended - swapped) * 1e3,
                            ttft_ms=None,
                            tpot_ms=None,
                            total_ms=(time.perf_counter() - started) * 1e3,
                            virtual_tokens=virtual,
                            input_tokens=self._image.num_patches,
                            new_tokens=0,
                            preprocess_ms=(read - begin) * 1e3,
                            decode_ms=decode_ms,
                        ),
                    ),
                )
        return [results[index] for index in range(len(sights))]

    def _see(self, rows: Sequence[Sight]) -> tuple[npt.NDArray[Any], list[tuple[int, int]], float]:
        """Pixel values (pictures, 3, height, width), the pictures' own sizes, milliseconds of decoding."""
        from edgept.pictures import read_picture  # Pillow: models of text do without

        shape = (len(rows), 3, self._image.height, self._image.width)
        pixels = np.empty(shape, self._graph.float_type)
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

    def _swap_in(
        self, rows: Sequence[Sight]
    ) -> tuple[dict[str, npt.NDArray[Any]], list[slice | None]]:
        """The prompts' tensors as the graph takes them, and each row's columns among the logits."""
        feeds: dict[str, npt.NDArray[Any]] = {}
        tables = [row.table for row in rows if row.table is not None]
        if tables:
            # (layers or 1, 1 or pictures, virtual tokens, hidden)
            alike = all(table is tables[0] for table in tables)
            feeds["prompt_embeds"] = tables[0][:, None] if alike else np.stack(tables, axis=1)
        heads: dict[bytes, tuple[Head, int]] = {}
        places: list[slice | None] = []
        end = 0
        for head in (row.head for row in rows):
            if head is None:
                places.append(None)
                continue
            if head.digest not in heads:
                heads[head.digest] = head, end
                end += len(head.weight)
            first = heads[head.digest][1]
            places.append(slice(first, first + len(head.weight)))
        if heads:
            several = [head for head, _ in heads.values()]
            for name in ("head.weight", "head.bias"):
                tensors = [head.tensors[name] for head in several]
                feeds[name] = tensors[0] if len(tensors) == 1 else np.concatenate(tensors)
            boxes = next((head for head in several if "box.weight" in head.tensors), None)
            if boxes is not None:
                feeds |= {name: boxes.tensors[name] for name in ("box.weight", "box.bias")}
        return feeds, places

    def _fetch(
        self, feeds: Mapping[str, npt.NDArray[Any]], names: Sequence[str]
    ) -> dict[str, npt.NDArray[Any]]:
        """Run once; the outputs of these names."""
        virtual = feeds["prompt_embeds"].shape[2] if "prompt_embeds" in feeds else 0
        pictures = len(feeds["pixel_values"])
        if "head.weight" in feeds:
            classes = len(feeds["head.weight"])
        else:
            classes = max(len(self._own_labels), 1)
        widths = {"logits": classes, "boxes": 4, "features": self._head_size}
        positions = 1 + virtual + self._image.num_patches
        outputs = {
            name: np.empty((pictures, positions, widths[name]), self._graph.output_type)
            for name in names
        }
        self._graph.run(
            {name: self._graph.value(array) for name, array in feeds.items()},
            {name: self._graph.value(array) for name, array in outputs.items()},
        )
        return outputs


def _check_finite(
    values: Mapping[str, npt.NDArray[np.float32]], prompt: LoadedPrompt | None
) -> None:
    if not all(np.isfinite(array).all() for array in values.values()):
        under = "" if prompt is None else f" under prompt {prompt.name!r}"
        raise EdgeptError(
            f"the model's output is not finite{under}. The prompt, its head or the graph overflows "
            "its float type: check the prompt with 'edgept prompt inspect', or export the model with a "
            "wider precision (fp32)."
        )
