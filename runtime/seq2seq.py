"""An encoder-decoder as moves: open a sequence, prefill it, take a step.

The encoder runs once a request, with the rows of its prompt, and leaves the keys and values of the
decoder's cross-attention. Prefix tuning's keys and values are what the decoder's own cache begins with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgept.errors import UsageError
from edgept.manifest import Manifest
from edgept.runtime.content import Input, check_length
from edgept.runtime.graph import Graph
from edgept.runtime.rules import apply_rules

__all__ = ["CrossCache", "Seq2SeqDecoder"]


@dataclass
class CrossCache:
    """Keys and values of some rows, of each layer in turn; arrays, or onnxruntime's tensors on a device.

    Attributes:
        past: of self-attention, (rows, heads, columns, head_dim); they grow with every step.
        columns: positions that self-attention holds, a prefix's included.
        cross: of cross-attention, (rows, heads, source, head_dim).
        mask: (rows, source) int64, 0 behind a shorter row's source.
    """

    past: list[Any]
    columns: int
    cross: list[Any] = field(default_factory=list)
    mask: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((1, 0), np.int64))

    def take(self, rows: npt.NDArray[np.int64]) -> None:
        """Keep these rows of self-attention, in this order; one may be taken several times."""
        self.past = [_array(item)[rows] for item in self.past]

    def take_sources(self, rows: npt.NDArray[np.int64]) -> None:
        """The same of cross-attention, which beams of one request share."""
        mask = self.mask[rows]
        longest = int(mask.sum(axis=1).max())
        self.mask = np.ascontiguousarray(mask[:, :longest])
        self.cross = [_array(item)[rows, :, :longest] for item in self.cross]


class Seq2SeqDecoder:
    """Runs the two graphs on caches that the caller holds; no state of its own.

    Attributes:
        max_length: longest source, its virtual tokens included, and longest answer.
    """

    def __init__(self, encoder: Graph, decoder: Graph, manifest: Manifest, max_length: int) -> None:
        if manifest.kv is None or manifest.decoding is None:
            raise AssertionError("an encoder-decoder's bundle has both; checked when it was opened")
        self._encoder, self._decoder, self._kv = encoder, decoder, manifest.kv
        self._decoding, self._eos = manifest.decoding, frozenset(manifest.eos_token_ids)
        self.max_length = max_length
        self._cross_out = manifest.kv.names("present", "encoder")
        self._cross_in = manifest.kv.names("past_key_values", "encoder")
        self._past = manifest.kv.names("past_key_values", "decoder")
        self._present = manifest.kv.names("present", "decoder")

    @property
    def renormalizes(self) -> bool:
        """Whether scores are made probabilities again after the model's own rules."""
        return self._decoding.renormalize

    def taken(self, request: Input) -> int:
        """Positions of the answer that are taken before its first token: a prefix's and the start."""
        return 1 + (request.prefix.num_virtual_tokens if request.prefix else 0)

    def context(self, request: Input) -> list[int]:  # noqa: ARG002 - the other decoder needs it
        """What a repetition penalty looks back at: the answer, from its start on."""
        return [self._decoding.start_token_id]

    def rule(
        self, scores: npt.NDArray[np.float32], answer: Sequence[int], most: int
    ) -> npt.NDArray[np.float32]:
        """Scores (vocabulary,) under the model's own rules; most is the longest answer in tokens."""
        return apply_rules(
            self._decoding,
            scores,
            [self._decoding.start_token_id, *answer],
            max_length=most + 1,
            eos_token_ids=self._eos,
        )

    def open(self, request: Input, capacity: int) -> CrossCache:  # noqa: ARG002 - as above
        """A cache for one answer, the request's prefix in it; nothing is run.

        Raises:
            UsageError: the source does not fit the model's longest sequence, or the prefix leaves no room.
        """
        # a prefix takes positions of the answer, not of the source
        check_length(replace(request, prefix=None), self.max_length)
        prefix = request.prefix
        if self.taken(request) > self.max_length:
            raise UsageError(
                f"a prefix of {self.taken(request) - 1} virtual tokens leaves no room for an answer; the "
                f"longest sequence here is {self.max_length}. Load the bundle with a larger max_length."
            )
        if prefix is not None and prefix.kv is not None:
            return CrossCache([item[None] for item in prefix.kv], prefix.num_virtual_tokens)
        shape = (1, self._kv.num_kv_heads, 0, self._kv.head_dim)
        return CrossCache([np.zeros(shape, self._decoder.float_type) for _ in self._past], 0)

    def close(self, cache: CrossCache) -> None:
        """Nothing: the memory is the cache's own."""

    def prefill(self, cache: CrossCache, request: Input) -> npt.NDArray[np.float32]:
        """Run the encoder on the request, and the decoder on the token that answers start with.

        Returns:
            Logits (1, 1, vocabulary).
        """
        self.read(cache, request)
        return self.run(cache, np.array([[self._decoding.start_token_id]]))

    def read(self, cache: CrossCache, request: Input) -> None:
        """Run the encoder on a request; its only row is then ready to be decoded."""
        ids = request.ids[None]  # (1, source)
        cache.mask = np.ones_like(ids)
        feeds: dict[str, Any] = {"input_ids": ids, "attention_mask": cache.mask}
        if request.table is not None:
            feeds["prompt_embeds"] = request.table
        shape = (1, self._kv.num_kv_heads, ids.shape[1], self._kv.head_dim)
        cache.cross = _run(self._encoder, feeds, dict.fromkeys(self._cross_out, shape))

    def run(self, cache: CrossCache, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Run the decoder on the next tokens (rows, tokens) of each row; logits (rows, tokens, vocabulary)."""
        rows, new = ids.shape
        feeds: dict[str, Any] = {"input_ids": ids, "encoder_attention_mask": cache.mask}
        # on a device they are moved there once
        cache.past = _resident(self._decoder, cache.past)
        cache.cross = _resident(self._decoder, cache.cross)
        feeds.update(zip(self._past, cache.past, strict=True))
        feeds.update(zip(self._cross_in, cache.cross, strict=True))
        shape = (rows, self._kv.num_kv_heads, cache.columns + new, self._kv.head_dim)
        logits = np.empty((rows, new, self._decoder.output_size), self._decoder.output_type)
        fetches = dict.fromkeys(self._present, shape)
        cache.past = _run(self._decoder, feeds, fetches, logits)
        cache.columns += new
        return logits.astype(np.float32, copy=False)

    def step(
        self,
        cache: CrossCache,
        tokens: Sequence[int],
        running: npt.NDArray[np.bool_] | None = None,  # noqa: ARG002 - as above
    ) -> npt.NDArray[np.float32]:
        """Run one token a row; logits (rows, 1, vocabulary)."""
        return self.run(cache, np.array(tokens, np.int64)[:, None])

    def join(self, caches: Sequence[CrossCache], capacity: int) -> CrossCache:  # noqa: ARG002
        """One batch of the rows of several caches, whose answers are equally long; it has copies."""
        longest = max(cache.mask.shape[1] for cache in caches)

        def joined(tensors: Sequence[Any], axis: int | None) -> npt.NDArray[Any]:
            arrays = [_array(tensor) for tensor in tensors]
            if axis is not None:
                arrays = [_padded(array, axis, longest) for array in arrays]
            return np.concatenate(arrays)

        pasts = zip(*(cache.past for cache in caches), strict=True)
        crosses = zip(*(cache.cross for cache in caches), strict=True)
        return CrossCache(
            [joined(tensors, None) for tensors in pasts],
            caches[0].columns,
            [joined(tensors, 2) for tensors in crosses],
            joined([cache.mask for cache in caches], 1),
        )


def _padded(array: npt.NDArray[Any], axis: int, length: int) -> npt.NDArray[Any]:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, length - array.shape[axis])
    return np.pad(array, widths)


def _array(tensor: Any) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = tensor if isinstance(tensor, np.ndarray) else tensor.numpy()
    return array


def _resident(graph: Graph, tensors: list[Any]) -> list[Any]:
    if graph.on_host:
        return tensors
    return [
        graph.value(np.ascontiguousarray(tensor), resident=True)
        if isinstance(tensor, np.ndarray)
        else tensor
        for tensor in tensors
    ]


def _run(
    graph: Graph,
    feeds: dict[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    logits: npt.NDArray[Any] | None = None,
) -> list[Any]:
    """Run a graph once; tensors of these shapes come out, logits are written where they are."""
    values = {
        name: graph.value(np.ascontiguousarray(tensor))
        if isinstance(tensor, np.ndarray)
        else tensor
        for name, tensor in feeds.items()
    }
    outputs: dict[str, Any]
    if graph.on_host:
        outputs = {name: np.empty(shape, graph.float_type) for name, shape in shapes.items()}
        fetches = {name: graph.value(array) for name, array in outputs.items()}
    else:
        outputs = fetches = {name: graph.empty(shape) for name, shape in shapes.items()}
    if logits is not None:
        fetches = {**fetches, "logits": graph.value(logits)}
    graph.run(values, fetches)
    return list(outputs.values())
