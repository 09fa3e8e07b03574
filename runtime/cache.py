"""The key/value cache of running sequences, in the two forms that exported graphs use.

Both hold a batch of rows and hand the graph its past, take its present and write its attention
mask. Rows may have different lengths.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgept.bundle import KVGeometry
from edgept.runtime.graph import Graph

__all__ = ["Cache", "GrowingCache", "SharedCache", "join", "make_cache"]

KVArray = npt.NDArray[Any]


class SharedCache:
    """One buffer that the graph extends in place: past and present are the same tensors.

    GroupQueryAttention takes a row's length from the number of ones in its attention mask, so a
    row's tokens are always contiguous from column 0.

    Attributes:
        lengths: (batch,) tokens held in each row.
        capacity: columns of the buffer.
    """

    def __init__(self, graph: Graph, kv: KVGeometry, batch: int, capacity: int) -> None:
        self._graph, self._kv = graph, kv
        self.capacity = capacity
        self.lengths = np.zeros(batch, np.int64)
        shape = (2 * kv.num_layers, batch, kv.num_kv_heads, capacity, kv.head_dim)
        self._array = np.zeros(shape, graph.float_type)
        self._values: list[Any] | None = None

    def put(self, row: int, past: KVArray) -> None:
        """Copy a past (2 · layers, kv_heads, tokens, head_dim) to the start of a row.

        Only before the first run: afterwards the tensors may live on another device.
        """
        tokens = past.shape[2]
        self._array[:, row, :, :tokens] = past
        self.lengths[row] = tokens

    def held(self, row: int) -> KVArray:
        """What a row holds, (2 · layers, kv_heads, tokens, head_dim)."""
        tokens = int(self.lengths[row])
        if self._values is None or self._graph.on_host:
            return self._array[:, row, :, :tokens]
        return np.stack([value.numpy()[row, :, :tokens] for value in self._values])

    def mask(self, new: int, rows: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.int64]:
        """The attention mask (batch, longest) for `new` more tokens in the rows that are still running.

        A row that has ended writes over its last token: it may have no room for another.
        """
        lengths = self.lengths + (new if rows is None else new * rows)
        total = int(lengths.max())
        mask = np.zeros((len(lengths), total), np.int64)
        mask[np.arange(total) < lengths[:, None]] = 1
        return mask

    def past(self) -> Sequence[Any]:
        """Key and value of each layer in turn, (batch, kv_heads, capacity, head_dim)."""
        if self._values is None:
            self._values = [self._graph.value(item, resident=True) for item in self._array]
        return self._values

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
        self._slabs = [np.zeros((2 * kv.num_layers, size), graph.float_type) for _ in range(slabs)]
        self._turn = 0
        self._past: Sequence[Any] | None = None
        self._present: Sequence[Any] = ()

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
        if self._past is None:
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
        self._past = self._present

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


def make_cache(
    graph: Graph, kv: KVGeometry, capacity: int, pasts: Sequence[KVArray | None]
) -> Cache:
    """A cache with a row for each past; None is a row that starts empty.

    Args:
        graph: that will run on it.
        kv: the bundle's cache geometry.
        capacity: columns to reserve.
        pasts: (2 · layers, kv_heads, tokens, head_dim) each.
    """
    kind = SharedCache if kv.shared_buffer else GrowingCache
    cache: Cache = kind(graph, kv, len(pasts), capacity)
    filled = [(row, past) for row, past in enumerate(pasts) if past is not None]
    for row, past in sorted(filled, key=lambda item: -item[1].shape[2]):
        cache.put(row, past)
    return cache


def join(graph: Graph, kv: KVGeometry, capacity: int, caches: Sequence[Cache]) -> Cache:
    """One batch of the single rows that several caches hold."""
    return make_cache(graph, kv, capacity, [cache.held(0) for cache in caches])
