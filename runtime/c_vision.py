"""Pictures over the C library: one after the other, each under its own prompt.

They are read, and results are made of what comes out, by the same code as in Python's own engine.
"""

from collections.abc import Iterator, Sequence
from ctypes import byref, c_float
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgept.manifest import Manifest
from edgept.runtime.c_bundle import CBundle
from edgept.runtime.c_header import CSight
from edgept.runtime.c_library import copied
from edgept.runtime.c_prompt import CPrompt
from edgept.runtime.sights import EMBEDS, Sight
from edgept.runtime.vision import READS, Run, Vision

if TYPE_CHECKING:
    from edgept.pictures import Preprocessor

__all__ = ["CVision"]

# enum edgept_features: none, unless they are the task, and they alone.
_NO_FEATURES, _FEATURES_ALONE = 0, 2


class CVision(Vision[CPrompt]):
    """Has the library look at pictures."""

    prompt_type = CPrompt

    def __init__(self, bundle: CBundle, manifest: Manifest, preprocessor: "Preprocessor") -> None:
        """Get ready; arguments and errors as `Vision`, in front of them the open bundle."""
        super().__init__(manifest, preprocessor, np.float32)
        self._bundle = bundle

    def _pieces(self, sights: Sequence[Sight[CPrompt]]) -> Iterator[list[int]]:
        return ([index] for index in range(len(sights)))

    def _run(self, pixels: npt.NDArray[Any], rows: Sequence[Sight[CPrompt]]) -> Run:
        (sight,) = rows
        found = CSight()
        prompt = None if sight.prompt is None else sight.prompt.pointer
        features = _FEATURES_ALONE if sight.task == EMBEDS else _NO_FEATURES
        with self._bundle.session() as session:
            self._bundle.call(
                *("session_see", session.pointer, prompt),
                *(byref(c_float.from_buffer(pixels.data)), features, byref(found)),
            )
            widths = {"logits": found.classes, "boxes": 4, "features": found.feature_width}
            values = {
                name: copied(getattr(found, name), found.positions, widths[name])
                for name in READS[sight.task]
            }
        labels = self._own_labels if sight.prompt is None else sight.prompt.labels
        return Run([values], [labels], found.latency.swap_ms, found.latency.prefill_ms)
