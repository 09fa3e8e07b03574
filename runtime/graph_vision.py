"""Pictures over onnxruntime: those that can be run together, each under its own prompt, whatever its task.

Pictures whose prompts have equally many layers of rows and equally many rows share a run: their tables are
stacked, and their heads stand side by side.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgept.errors import EdgeptError
from edgept.manifest import Manifest
from edgept.runtime.content import Head, LoadedPrompt
from edgept.runtime.graph import Graph
from edgept.runtime.sights import CLASSIFIES, Sight, head_of, pieces, table_of
from edgept.runtime.vision import READS, Run, Values, Vision

if TYPE_CHECKING:
    from edgept.pictures import Preprocessor

__all__ = ["GraphVision"]


class GraphVision(Vision[LoadedPrompt]):
    """Runs one graph over pictures."""

    prompt_type = LoadedPrompt

    def __init__(self, graph: Graph, manifest: Manifest, preprocessor: "Preprocessor") -> None:
        """Get ready; arguments and errors as `Vision`, in front of them the bundle's graph."""
        super().__init__(manifest, preprocessor, graph.float_type)
        self._graph = graph
        self._head_size = manifest.head_size or manifest.hidden_size

    def probe(self, table: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Features of a grey picture and its patches, (1 + N, head_size), under a table of rows."""
        pixels = np.zeros((1, 3, self.image.height, self.image.width), self._float_type)
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
        feeds, _ = self._swap_in([Sight("", prompt, CLASSIFIES) for prompt in prompts])
        pixels = pixel_values.astype(self._float_type)
        found = self._fetch({"pixel_values": pixels, **feeds}, names)
        return {name: array.astype(np.float32) for name, array in found.items()}

    def _pieces(self, sights: Sequence[Sight[LoadedPrompt]]) -> Iterator[list[int]]:
        return pieces(sights, 1 + self.image.num_patches, len(self._own_labels))

    def _run(self, pixels: npt.NDArray[Any], rows: Sequence[Sight[LoadedPrompt]]) -> Run:
        begin = time.perf_counter()
        feeds, places = self._swap_in(rows)
        swapped = time.perf_counter()
        names = sorted({name for row in rows for name in READS[row.task]})
        found = self._fetch({"pixel_values": pixels, **feeds}, names)
        ended = time.perf_counter()
        values = (_take(found, *row) for row in enumerate(zip(rows, places, strict=True)))
        heads = map(head_of, rows)
        labels = (self._own_labels if head is None else head.labels for head in heads)
        return Run(values, labels, (swapped - begin) * 1e3, (ended - swapped) * 1e3)

    def _swap_in(
        self, rows: Sequence[Sight[LoadedPrompt]]
    ) -> tuple[dict[str, npt.NDArray[Any]], list[slice | None]]:
        """The prompts' tensors as the graph takes them, and each row's columns among the logits."""
        feeds: dict[str, npt.NDArray[Any]] = {}
        tables = [table for table in map(table_of, rows) if table is not None]
        if tables:
            # (layers or 1, 1 or pictures, virtual tokens, hidden)
            alike = all(table is tables[0] for table in tables)
            feeds["prompt_embeds"] = tables[0][:, None] if alike else np.stack(tables, axis=1)
        heads: dict[bytes, tuple[Head, int]] = {}
        places: list[slice | None] = []
        end = 0
        for head in map(head_of, rows):
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
        positions = 1 + virtual + self.image.num_patches
        outputs = {
            name: np.empty((pictures, positions, widths[name]), self._graph.output_type)
            for name in names
        }
        self._graph.run(
            {name: self._graph.value(array) for name, array in feeds.items()},
            {name: self._graph.value(array) for name, array in outputs.items()},
        )
        return outputs


def _take(
    found: Mapping[str, npt.NDArray[Any]],
    row: int,
    asked: tuple[Sight[LoadedPrompt], slice | None],
) -> Values:
    """What a picture's task reads of the outputs, its own columns of the logits, all of it finite."""
    sight, place = asked
    values = {name: found[name][row].astype(np.float32, copy=False) for name in READS[sight.task]}
    if "logits" in values and place is not None:
        values["logits"] = values["logits"][:, place]
    _check_finite(values, sight.prompt)
    return values


def _check_finite(values: Values, prompt: LoadedPrompt | None) -> None:
    if not all(np.isfinite(array).all() for array in values.values()):
        under = "" if prompt is None else f" under prompt {prompt.name!r}"
        raise EdgeptError(
            f"the model's output is not finite{under}. The prompt, its head or the graph overflows "
            "its float type: check the prompt with 'edgept prompt inspect', or export the model with a "
            "wider precision (fp32)."
        )
