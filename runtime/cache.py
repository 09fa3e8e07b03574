"""The key/value cache of running sequences, in the two forms that exported graphs use.

Both hold a batch of rows and hand the graph its past, take its present and write its attention
mask. Rows may have different lengths.
"""

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgept.manifest import KVGeometry
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.graph import Graph
from edgept.runtime.kv_pool import KVBuffer

__all__ = ["Cache", "GrowingCache", "SharedCache"]

KVArray = npt.NDArray[Any]


class SharedCache:
    """One buffer that the graph extends in place: past and present are the same tensors.

    GroupQueryAttention takes a row's length from the number of ones in its attention mask, so a
    row's tokens are always contiguous from column 0.

    Attributes:
        buffer: the memory, whose columns are the cache's capacity.
        lengths: (batch,) tokens held in each row.
    """

    def __init__(self, graph: Graph, buffer: KVBuffer) -> None:
        self._graph, self.buffer = graph, buffer
        self.lengths = np.zeros(buffer.batch, np.int64)

    def begin_with(self, prompt: LoadedPrompt, past: KVArray) -> None:
        """Start row 0 with a prompt's keys and values, which the buffer may hold already."""
        if self.buffer.begins_with(prompt):
            self.lengths[0] = past.shape[2]
        else:
            self.put(0, past)
            self.buffer.prefix = weakref.ref(prompt)

    def put(self, row: int, past: KVArray) -> None:
        """Copy a past (2 · layers, kv_heads, tokens, head_dim) to the start of a row, before the first run."""
        tokens = past.shape[2]
        self.buffer.array[:, row, :, :tokens] = past
        self.lengths[row] = tokens
        if not self._graph.on_host:
            # copies on the device, of what the row began with before
            self.buffer.values, self.buffer.step = [], None

    def held(self, row: int) -> KVArray:
        """What a row holds, (2 · layers, kv_heads, tokens, head_dim): a view where memory is the host's."""
        tokens = int(self.lengths[row])
        if not self.buffer.values or self._graph.on_host:
            return self.buffer.array[:, row, :, :tokens]
        return np.stack([value.numpy()[row, :, :tokens] for value in self.buffer.values])

    def mask(self, new: int, rows: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.int64]:
        """The attention mask (batch, longest) for `new` more tokens in the rows that are still running.

        A row that has ended writes over its last token: it may have no room for another.
        """
        lengths = self.lengths + (new if rows is None else new * rows)
        total = int(lengths.max())
        if len(lengths) == 1:
            return np.ones((1, total), np.int64)
        mask = np.zeros((len(lengths), total), np.int64)
        mask[np.arange(total) < lengths[:, None]] = 1
        return mask

    def past(self) -> Sequence[Any]:
        """Key and value of each layer in turn, (batch, kv_heads, capacity, head_dim)."""
        if not self.buffer.values:
            self.buffer.values = [
                self._graph.value(item, resident=True) for item in self.buffer.array
            ]
        return self.buffer.values

    def present(self, new: int) -> Sequence[Any]:  # noqa: ARG002 - the other form needs it
        """Where the graph writes: the same tensors."""
        return self.past()

    def advance(self, new: int, rows: npt.NDArray[np.bool_] | None = None) -> None:
        """Count `new` more tokens in the rows that are still running (None: in all)."""
        self.lengths += new if rows is None else new * rows


class GrowingCache:
    """Past and present apart: two buffers that take turns as the graph's input and output.

    Shorter rows begin in a later column; the mask says which columns hold tokens.

    Attributes:
        columns: columns in use.
        capacity: columns that fit the buffers.
    """

    def __init__(self, graph: Graph, kv: KVGeometry, batch: int, capacity: int) -> None:
        self._graph, self._kv, self._batch = graph, kv, batch
        self.capacity = capacity
        self.columns = 0
        self._used = np.zeros((batch, capacity), np.int64)
        size = batch * kv.num_kv_heads * capacity * kv.head_dim
        slabs = 2 if graph.on_host else 1
        # zeros: the columns before a shorter row's first are masked, but what is not a number would show
        self._slabs = [np.zeros((2 * kv.num_layers, size), graph.float_type) for _ in range(slabs)]
        self._turn = 0
        self._begun: KVArray | None = None
        self._past: Sequence[Any] | None = None
        self._present: Sequence[Any] = ()

    def begin_with(self, past: KVArray) -> None:
        """Start the only row with a past (2 · layers, kv_heads, tokens, head_dim), which the graph reads in place."""
        self._begun = past
        self.columns = past.shape[2]
        self._used[0, : self.columns] = 1

    def put(self, row: int, past: KVArray) -> None:
        """Copy a past (2 · layers, kv_heads, tokens, head_dim) to a row, before the first run.

        The longest row must come first: it decides the columns of all, and the others end where it
        ends. A gap between a row's tokens and its next one would count in attention that looks back
        by columns (local attention, sliding windows).
        """
        tokens = past.shape[2]
        self.columns = max(self.columns, tokens)
        begin = self.columns - tokens
        for target, source in zip(self._views(self.columns), past, strict=True):
            target[row, :, begin : self.columns] = source
        self._used[row, begin : self.columns] = 1

    def held(self, row: int) -> KVArray:
        """What a row holds, (2 · layers, kv_heads, tokens, head_dim)."""
        used = self._used[row, : self.columns].astype(bool)
        if self._begun is not None:
            return self._begun
        if self._past is None or self._graph.on_host:
            return np.stack([view[row][:, used] for view in self._views(self.columns)])
        return np.stack([value.numpy()[row][:, used] for value in self._past])

    def mask(self, new: int, rows: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.int64]:
        """The attention mask (batch, columns + new) for `new` more tokens in the running rows.

        A row that has ended is run, but its new columns do not count: its positions would pass the
        model's last one.
        """
        if rows is not None and self.columns + new > self.capacity:
            self._trim(rows)
        self._used[:, self.columns : self.columns + new] = 1 if rows is None else rows[:, None]
        return np.ascontiguousarray(self._used[:, : self.columns + new])

    def past(self) -> Sequence[Any]:
        """Key and value of each layer in turn, (batch, kv_heads, columns, head_dim)."""
        if self._past is None and self._begun is not None:
            self._past = [self._graph.value(item[None], resident=True) for item in self._begun]
        elif self._past is None:
            self._past = self._values(self.columns)
        return self._past

    def present(self, new: int) -> Sequence[Any]:
        """Where the graph writes, (batch, kv_heads, columns + new, head_dim)."""
        self.past()
        if self._graph.on_host:
            self._turn = 1 - self._turn
            self._present = self._values(self.columns + new)
        else:
            self._present = [
                self._graph.empty(self._shape(self.columns + new)) for _ in self.past()
            ]
        return self._present

    def advance(self, new: int, rows: npt.NDArray[np.bool_] | None = None) -> None:  # noqa: ARG002
        """Take what was written as the new past."""
        self.columns += new
        self._past, self._begun = self._present, None

    def _trim(self, rows: npt.NDArray[np.bool_]) -> None:
        """Drop the columns before the first one that a running row uses.

        The longest row decides the columns of all; once it has ended, the others go on without it,
        and some graphs have no column past the model's longest sequence (GPT-Neo's mask).
        """
        first = int(self._used[rows, : self.columns].any(axis=0).argmax())
        if self._graph.on_host:
            before = self._views(self.columns)
            self._turn = 1 - self._turn
            for target, source in zip(self._views(self.columns - first), before, strict=True):
                target[...] = source[:, :, first:]
            self._past = None
        else:
            arrays = [np.ascontiguousarray(value.numpy()[:, :, first:]) for value in self.past()]
            self._past = [self._graph.value(array, resident=True) for array in arrays]
        self._used[:, : self.columns - first] = self._used[:, first : self.columns].copy()
        self.columns -= first

    def _shape(self, columns: int) -> tuple[int, ...]:
        return (self._batch, self._kv.num_kv_heads, columns, self._kv.head_dim)

    def _views(self, columns: int) -> list[KVArray]:
        shape = self._shape(columns)
        size = int(np.prod(shape))
        return [slab[:size].reshape(shape) for slab in self._slabs[self._turn % len(self._slabs)]]

    def _values(self, columns: int) -> list[Any]:
        return [self._graph.value(view, resident=True) for view in self._views(columns)]


Cache = SharedCache | GrowingCache
