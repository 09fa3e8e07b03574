"""A decoder-only graph as three moves: open a sequence, prefill it, take a step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgept.manifest import Manifest
from edgept.runtime.cache import Cache, GrowingCache, SharedCache
from edgept.runtime.content import Input, check_length
from edgept.runtime.graph import Graph
from edgept.runtime.kv_pool import BoundStep, KVPool

__all__ = ["Decoder"]

# Fewest tokens of a long request that run at once: fewer cost time in the matrix products, twice as
# many in attention (benchmarks/NOTES.md).
_CHUNK = 128


class Decoder:
    """Runs a decoder-only graph on caches that the caller holds; no state of its own.

    Attributes:
        max_length: longest sequence, virtual tokens and new tokens included.
    """

    def __init__(self, graph: Graph, manifest: Manifest, max_length: int) -> None:
        if manifest.kv is None:
            raise AssertionError("a decoder-only bundle has a cache; checked when it was opened")
        self._graph, self._kv = graph, manifest.kv
        self.max_length = max_length
        self._pool = KVPool(manifest.kv, graph.float_type, max_length)
        self._past = manifest.kv.names("past_key_values")
        self._present = manifest.kv.names("present")

    def taken(self, request: Input) -> int:
        """Positions of the sequence that are taken before its first new token."""
        return request.length

    def context(self, request: Input) -> list[int]:
        """What a repetition penalty looks back at: the request's tokens."""
        ids: list[int] = request.ids.tolist()
        return ids

    def rule(
        self,
        scores: npt.NDArray[np.float32],
        answer: Sequence[int],  # noqa: ARG002 - an encoder-decoder's rules need both
        most: int,  # noqa: ARG002
    ) -> npt.NDArray[np.float32]:
        """Scores under the model's own rules, of which a decoder-only model has none."""
        return scores

    def open(self, request: Input, capacity: int) -> Cache:
        """A cache for one sequence, the request's prefix already in it.

        Args:
            request: whose prefix is copied; nothing is run.
            capacity: tokens that the sequence may grow to.

        Raises:
            UsageError: the request does not fit the model's longest sequence.
        """
        check_length(request, self.max_length)
        prefix = request.prefix
        past = None if prefix is None else prefix.kv
        if self._kv.shared_buffer:
            shared = SharedCache(self._graph, self._pool.take(1, capacity, prefix))
            if prefix is not None and past is not None:
                shared.begin_with(prefix, past)
            return shared
        growing = GrowingCache(self._graph, self._kv, 1, capacity)
        if past is not None:
            growing.begin_with(past)
        return growing

    def join(self, caches: Sequence[Cache], capacity: int) -> Cache:
        """One batch of the single rows that several caches hold; it has copies."""
        joined: Cache
        if self._kv.shared_buffer:
            joined = SharedCache(self._graph, self._pool.take(len(caches), capacity))
            joined.buffer.prefix = None
        else:
            joined = GrowingCache(self._graph, self._kv, len(caches), capacity)
        held = [(row, cache.held(0)) for row, cache in enumerate(caches)]
        for row, past in sorted(held, key=lambda item: -item[1].shape[2]):
            joined.put(row, past)
        return joined

    def close(self, cache: Cache) -> None:
        """Give a cache's memory to the next request; neither it nor a view of it is used afterwards."""
        if isinstance(cache, SharedCache):
            self._pool.give(cache.buffer)

    def forget_prefixes(self) -> None:
        """Make every next swap a copy, for measuring."""
        self._pool.forget_prefixes()

    def forget_buffers(self) -> None:
        """Free kept buffers, for measuring: requests that take turns on many find none in a near cache."""
        self._pool.forget_buffers()

    def prefill(
        self, cache: Cache, request: Input, *, all_positions: bool = False
    ) -> npt.NDArray[np.float32]:
        """Run all of a request's ids.

        A long request runs in chunks where the cache is extended in place: attention then looks at
        few keys that lie ahead, and activations stay small. Not where keys depend on the length of
        the whole (LongRoPE): each chunk would take its own for it.

        Returns:
            Logits (1, 1, vocabulary) of the last position, or (1, ids, vocabulary) of all.
        """
        ids = request.ids[None]  # (1, ids)
        chunks = 1
        if self._kv.shared_buffer and not self._kv.depends_on_length and self._graph.on_host:
            chunks = max(1, ids.shape[1] // _CHUNK)
        logits = [
            self._run(cache, part, request.table, part.shape[1] if all_positions else 1)
            for part in np.array_split(ids, chunks, axis=1)
        ]
        return np.concatenate(logits, axis=1) if all_positions else logits[-1]

    def step(
        self, cache: Cache, tokens: Sequence[int], running: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.float32]:
        """Run one token a row.

        Args:
            cache: whose rows grow by one token.
            tokens: the last token of each row.
            running: (batch,) rows that have not ended; the others are run and forgotten.

        Returns:
            Logits (batch, 1, vocabulary), written over by the next step on this cache.
        """
        if isinstance(cache, SharedCache):
            return self._bound_step(cache, tokens, running)
        return self._run(cache, np.array(tokens, np.int64)[:, None], None, 1, running)

    def _bound_step(
        self, cache: SharedCache, tokens: Sequence[int], running: npt.NDArray[np.bool_] | None
    ) -> npt.NDArray[np.float32]:
        """A step whose sixty-odd cache tensors were bound when the buffer took its first one.

        IO binding refuses overridable initializers, of which a step needs none: its ids are tokens,
        and of its one position all logits are kept.
        """
        graph, buffer = self._graph, cache.buffer
        if buffer.step is None:
            logits = np.empty((buffer.batch, 1, graph.output_size), graph.output_type)
            outputs = {"logits": graph.value(logits)}
            outputs |= zip(self._present, cache.present(1), strict=True)
            inputs = dict(zip(self._past, cache.past(), strict=True))
            buffer.step = BoundStep(graph.bind(inputs, outputs), logits)
        feeds = {
            "input_ids": np.array(tokens, np.int64)[:, None],
            "attention_mask": cache.mask(1, running),
        }
        graph.run_bound(buffer.step.binding, feeds)
        cache.advance(1, running)
        return buffer.step.logits.astype(np.float32, copy=False)

    def _run(
        self,
        cache: Cache,
        ids: npt.NDArray[np.int64],
        table: npt.NDArray[Any] | None,
        keep: int,
        running: npt.NDArray[np.bool_] | None = None,
    ) -> npt.NDArray[np.float32]:
        graph, new = self._graph, ids.shape[1]
        feeds = {
            "input_ids": graph.value(ids),
            "attention_mask": graph.value(cache.mask(new, running)),
            "logits_to_keep": graph.value(np.array([keep], np.int64)),
        }
        if table is not None:
            feeds["prompt_embeds"] = graph.value(table)
        logits = np.empty((ids.shape[0], keep, graph.output_size), graph.output_type)
        feeds.update(zip(self._past, cache.past(), strict=True))
        fetches = {"logits": graph.value(logits)}
        fetches.update(zip(self._present, cache.present(new), strict=True))
        graph.run(feeds, fetches)
        cache.advance(new, running)
        return logits.astype(np.float32, copy=False)
