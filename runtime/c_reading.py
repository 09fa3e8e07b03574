"""The calls on a model that reads a text in one forward pass, over the C library: classify, embed."""

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import byref
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgept.latency import Latency
from edgept.manifest import SEQ2SEQ_TASK, Manifest
from edgept.runtime.c_bundle import CBundle
from edgept.runtime.c_header import CClassification, COutputs
from edgept.runtime.c_library import copied
from edgept.runtime.c_prompt import CPrompt, to_pointer
from edgept.runtime.c_request import lacks, to_latency, to_tokens
from edgept.runtime.calls import refuse
from edgept.runtime.classifier import Classification
from edgept.runtime.content import Content
from edgept.runtime.embedder import Embedding
from edgept.runtime.text_model import WITHOUT_TYPES

__all__ = ["CReadingModel"]


class CReadingModel:
    """What `CModel` offers on bundles of models that read and do not write."""

    manifest: Manifest
    load_ms: float
    _opened: CBundle

    def classify(
        self, content: Content, *, prompt: CPrompt | None = None, truncate: bool = False
    ) -> Classification:
        """Say which class a text is of, or a pair of texts; arguments as `Model.classify`.

        Raises:
            UsageError: the request does not fit, neither a prompt nor the model has a head, or the
                library lacks what is asked for.
        """
        found = CClassification()
        self._check_task("classify", "text-classification")
        with self._reading("classify", content, prompt, found, truncate=truncate) as latency:
            count = found.classes
            return Classification(
                label=found.label.decode(),
                probability=float(found.probabilities[found.best]),
                labels=tuple(self.manifest.labels) if prompt is None else prompt.labels,
                probabilities=tuple(found.probabilities[:count]),
                logits=copied(found.logits, count),  # (classes,)
                prompt=None if prompt is None else prompt.name,
                truncated=0,
                latency=latency,
            )

    def embed(
        self, content: Content, *, prompt: CPrompt | None = None, truncate: bool = False
    ) -> Embedding:
        """Turn a text into a vector; arguments as `Model.embed`.

        Raises:
            UsageError: the request does not fit, or the library lacks what is asked for.
        """
        found = COutputs()
        self._check_task("embed", "feature-extraction")
        with self._reading("embed", content, prompt, found, truncate=truncate) as latency:
            vector = copied(found.values, found.width)  # (hidden,)
            return Embedding(vector, None if prompt is None else prompt.name, 0, latency)

    def outputs(
        self, content: Content, *, prompt: CPrompt | None = None, truncate: bool = False
    ) -> npt.NDArray[np.float32]:
        """What the graph gives; arguments and result as `Model.outputs`."""
        found = COutputs()
        self._check_task("outputs", None)
        with self._reading("outputs", content, prompt, found, truncate=truncate):
            if self.manifest.task == "text-classification":
                return copied(found.values, found.width)  # (classes,)
            return copied(found.values, found.rows, found.width)

    def _check_task(self, name: str, task: str | None) -> None:
        """Refuse a call that is for another task than the bundle's; None is any that reads."""
        own = self.manifest.task
        writes, sees = own in ("text-generation", SEQ2SEQ_TASK), self.manifest.image is not None
        if writes or sees or task not in (None, own):
            refuse(name, own)

    @contextmanager
    def _reading(
        self,
        name: str,
        content: Content,
        prompt: CPrompt | None,
        found: ctypes.Structure,
        *,
        truncate: bool,
    ) -> Iterator[Latency]:
        """Run a model once; what it lends in `found` lives until the block ends."""
        if truncate:
            lacks("truncate=True")
        started = time.perf_counter()
        resident = to_pointer(prompt, self)
        with self._opened.session() as session:
            tokens = to_tokens(session, self.manifest, content)
            tokenize_ms = (time.perf_counter() - started) * 1e3
            types = tokens.types
            if prompt is not None and prompt.num_virtual_tokens:
                types = None if self.manifest.task in WITHOUT_TYPES else types
            self._opened.call(
                *(f"session_{name}", session.pointer, resident, tokens.ids),
                *(types, tokens.count, byref(found)),
            )
            latency = to_latency(found.latency, self.load_ms, prompt)
            total_ms = latency.total_ms + tokenize_ms
            yield replace(latency, tokenize_ms=tokenize_ms, total_ms=total_ms)
