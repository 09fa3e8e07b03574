"""Memory for key/value caches, kept between requests.

A fresh buffer costs what its pages and its tensors cost to make, which is more than a short prompt's
keys and values cost to copy. And a buffer that a request gives back still begins with the prompt
that the request had: the next request under that prompt takes it as it is.
"""

import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgept.manifest import KVGeometry
from edgept.runtime.content import LoadedPrompt

__all__ = ["BoundStep", "KVBuffer", "KVPool"]

# A device answers one request at a time, or a few; what is kept here is taken from everything else.
_MAX_FREE = 4
_MAX_FREE_BYTES = 48 << 20
_COLUMN_STEP = 64


@dataclass(frozen=True, eq=False)
class BoundStep:
    """A decoding step on one buffer, its tensors bound once.

    Attributes:
        binding: what `Graph.bind` returned.
        logits: (batch, 1, vocabulary), where every step writes.
    """

    binding: Any
    logits: npt.NDArray[Any]


@dataclass(eq=False)
class KVBuffer:
    """A buffer of one batch.

    Attributes:
        array: (2 · layers, batch, kv_heads, capacity, head_dim), key and value of each layer in turn.
        prefix: the prompt that row 0 begins with, if any request has left one there.
        values: the array's tensors on the graph's device, made at the first run.
        step: the decoding step that is bound to them, made at the first step.
    """

    array: npt.NDArray[Any]
    prefix: "weakref.ref[LoadedPrompt] | None" = None
    values: list[Any] = field(default_factory=list)
    step: BoundStep | None = None

    @property
    def batch(self) -> int:
        """Rows."""
        return int(self.array.shape[1])

    @property
    def capacity(self) -> int:
        """Columns: tokens that a row can hold."""
        return int(self.array.shape[3])

    @property
    def owner(self) -> LoadedPrompt | None:
        """The prompt that row 0 begins with; None where that is gone, too."""
        return None if self.prefix is None else self.prefix()

    def begins_with(self, prompt: LoadedPrompt) -> bool:
        """Whether the prompt's keys and values are in place."""
        return self.owner is prompt


class KVPool:
    """Buffers that no request uses, the one given back last at the end.

    Args:
        kv: the bundle's cache geometry.
        float_type: numpy type of keys and values.
        max_length: longest sequence; no buffer is longer.
    """

    def __init__(self, kv: KVGeometry, float_type: npt.DTypeLike, max_length: int) -> None:
        self._kv, self._float_type, self._max_length = kv, float_type, max_length
        self._free: list[KVBuffer] = []
        self._lock = threading.Lock()

    def take(self, batch: int, capacity: int, prefix: LoadedPrompt | None = None) -> KVBuffer:
        """A buffer of at least so many columns; one that begins with the prefix, if there is one."""
        with self._lock:
            fitting = [
                buffer
                for buffer in self._free
                if buffer.batch == batch and buffer.capacity >= capacity
            ]
            chosen = next(
                (item for item in fitting if prefix is not None and item.begins_with(prefix)), None
            )
            if chosen is None:
                chosen = next((item for item in fitting if item.owner is None), None)
            if chosen is None and fitting and self._is_full(self._free[0].array.nbytes):
                # the one that was given back first: what the others begin with may be wanted yet
                chosen = fitting[0]
                chosen.prefix = None  # it will be written over
            if chosen is not None:
                self._free.remove(chosen)
                return chosen
        rounded = -(-capacity // _COLUMN_STEP) * _COLUMN_STEP
        columns = max(capacity, min(rounded, self._max_length))
        kv = self._kv
        shape = (2 * kv.num_layers, batch, kv.num_kv_heads, columns, kv.head_dim)
        # zeros, which cost nothing before they are written: a padded row may read what nobody wrote
        return KVBuffer(np.zeros(shape, self._float_type))

    def give(self, buffer: KVBuffer) -> None:
        """Take a buffer back. The caller has no more use for it, and nothing else refers to its memory."""
        with self._lock:
            self._free.append(buffer)
            while self._free and self._is_full(0, more=0):
                del self._free[0]

    def forget_prefixes(self) -> None:
        """Make every next swap a copy, as it is among more prompts than there are buffers."""
        with self._lock:
            for buffer in self._free:
                buffer.prefix = None

    def forget_buffers(self) -> None:
        """Free the buffers that no request uses."""
        with self._lock:
            self._free.clear()

    def _is_full(self, size: int, more: int = 1) -> bool:
        """Whether another free buffer of so many bytes would be one too many."""
        held = sum(item.array.nbytes for item in self._free)
        return len(self._free) + more > _MAX_FREE or held + size > _MAX_FREE_BYTES
