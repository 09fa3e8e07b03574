"""One forward pass over texts: what all tasks share in which a model reads and does not write.

Encoders keep no cache, so a prompt's rows are run with each request. In a decoder-only model they are
run once, when the prompt is loaded; a request then gets a copy of their keys and values.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgept.errors import EdgeptError, InvalidFileError, UsageError
from edgept.latency import Latency
from edgept.manifest import Manifest
from edgept.runtime.batching import pieces, shared_table
from edgept.runtime.content import Head, Input, LoadedPrompt, check_length
from edgept.runtime.graph import Graph

__all__ = ["Forward", "Output", "softmax"]

# The head of each task that has one, for an error.
_HEADS = {
    "text-classification": "classification",
    "token-classification": "token classification",
    "question-answering": "question answering",
}

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Output:
    """What the graph gave for a request.

    Attributes:
        values: float32: a text's logits (classes,); or one row a position (virtual + text tokens,
            classes or hidden), those of virtual tokens included.
        request: what was run.
        labels: of the head that was used; empty without one.
        prompt: name of the prompt that brought the head, else of the one in front; None for the plain
            model.
        latency: how long each phase took; prefill is the run.
        first_virtual_id: ids of the request from here on are virtual tokens.
    """

    values: npt.NDArray[np.float32]
    request: Input
    labels: tuple[str, ...]
    prompt: str | None
    latency: Latency
    first_virtual_id: int

    @property
    def is_text(self) -> npt.NDArray[np.bool_]:
        """(positions,) which rows of the values are of the text's tokens, not of virtual ones."""
        return self.request.ids < self.first_virtual_id

    @property
    def truncated(self) -> int:
        """Tokens of the text that were cut off."""
        return 0 if self.request.text is None else self.request.text.cut


class Forward:
    """Runs one graph; requests come composed."""

    def __init__(self, graph: Graph, manifest: Manifest, max_length: int) -> None:
        """Get ready.

        Args:
            graph: of the bundle.
            manifest: of the bundle.
            max_length: positions of the longest sequence.

        Raises:
            InvalidFileError: the graph leaves open how wide its output is, and no head decides it.
        """
        self._graph, self._kv, self._max_length = graph, manifest.kv, max_length
        self._vocab_size, self._pad = manifest.vocab_size, manifest.pad_token_id
        self._own_labels = tuple(manifest.labels)
        self._head = _HEADS.get(manifest.task)
        self._pools = manifest.task == "text-classification"
        if self._head is None and not graph.output_size:
            raise InvalidFileError(
                "manifest-malformed",
                f"the graph does not say how wide its {graph.output_name} is. Export the model again.",
            )

    def keys_and_values(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
        """Run a prompt's rows once; (2 · layers, kv_heads, num_virtual_tokens, head_dim).

        None for an encoder, whose rows see the text.
        """
        kv = self._kv
        if kv is None or kv.prefix_only:
            return None
        first = self._vocab_size
        ids = np.arange(first, first + len(rows))[None]  # (1, num_virtual_tokens)
        shape = (1, kv.num_kv_heads, len(rows), kv.head_dim)
        present = {name: self._graph.empty(shape) for name in kv.names("present")}
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "prompt_embeds": rows}
        self._graph.run(self._values({**feeds, **self._past(1, None)}), present)
        return np.concatenate([value.numpy() for value in present.values()])

    def probe(self, request: Input) -> npt.NDArray[np.float32] | None:
        """The logits, or the rows of the text's tokens; None where no head says what is computed."""
        head = next((prompt.head for prompt in request.prompts if prompt.head is not None), None)
        if head is None and self._head is not None and not self._own_labels:
            return None
        values = self._run([request], head)[0][0]
        return values if self._pools else values[request.ids < self._vocab_size]

    def run(
        self,
        requests: Sequence[Input],
        finish: Callable[[int, Output], _T],
        *,
        load_ms: float,
        started: float,
    ) -> list[_T]:
        """Run requests, those of similar lengths together; prompts may differ from row to row.

        Rows that run together share a head, and in a decoder-only model the prompt in front.

        Args:
            requests: composed; lengths and prompts may differ.
            finish: makes a result of a request's index and what the graph gave; called before the next
                rows are run, so that large outputs do not pile up.
            load_ms: as in Latency.
            started: monotonic time of the call.

        Returns:
            One result a request, in order. Its times are those of the run that it was part of.

        Raises:
            UsageError: a request is too long, or nothing says what its classes are.
        """
        tokenize_ms = (time.perf_counter() - started) * 1e3
        bearers = [self._head_bearer(request.prompts) for request in requests]
        groups: dict[tuple[int, bytes], list[int]] = {}
        for index, (request, bearer) in enumerate(zip(requests, bearers, strict=True)):
            self._check_length(request)
            head = _head_of(bearer)
            digest = b"" if head is None else head.digest
            groups.setdefault((id(request.prefix), digest), []).append(index)
        results: dict[int, _T] = {}
        lengths = [request.length for request in requests]
        for piece in (piece for group in groups.values() for piece in pieces(group, lengths)):
            rows, head = [requests[index] for index in piece], _head_of(bearers[piece[0]])
            values, swap_ms, prefill_ms = self._run(rows, head)
            for index, row, found in zip(piece, rows, values, strict=True):
                head = _head_of(bearers[index])  # equal tensors, but it may name them otherwise
                named = bearers[index] or next(iter(row.prompts), None)
                _check_finite(found, named)
                results[index] = finish(
                    index,
                    Output(
                        values=found,
                        request=row,
                        labels=self._own_labels if head is None else head.labels,
                        prompt=None if named is None else named.name,
                        latency=Latency(
                            load_ms=load_ms,
                            prompt_ms=0.0 if named is None else named.load_ms,
                            swap_ms=swap_ms,
                            tokenize_ms=tokenize_ms,
                            prefill_ms=prefill_ms,
                            ttft_ms=None,
                            tpot_ms=None,
                            total_ms=(time.perf_counter() - started) * 1e3,
                            virtual_tokens=row.virtual_tokens,
                            input_tokens=row.text_tokens,
                            new_tokens=0,
                        ),
                        first_virtual_id=self._vocab_size,
                    ),
                )
        return [results[index] for index in range(len(requests))]

    def _run(
        self, rows: Sequence[Input], head: Head | None
    ) -> tuple[list[npt.NDArray[np.float32]], float, float]:
        """One run: each row's values as in Output, and the milliseconds of the swap and of the run."""
        begin = time.perf_counter()
        prefix = rows[0].prefix
        table, firsts = shared_table(rows)
        feeds = self._past(len(rows), None if prefix is None else prefix.kv)
        if table is not None:
            feeds["prompt_embeds"] = table
        if head is not None:
            feeds |= head.tensors
        swapped_in = self._values(feeds)
        swapped = time.perf_counter()
        sizes = [self._positions_run(row) for row in rows]
        in_front = 0 if prefix is None else prefix.num_virtual_tokens
        ids = np.zeros((len(rows), max(sizes)), np.int64)
        types = np.zeros_like(ids)
        mask = np.zeros((len(rows), in_front + max(sizes)), np.int64)  # 0 is padding
        for index, (row, size, first) in enumerate(zip(rows, sizes, firsts, strict=True)):
            ids[index, :size] = row.ids[:size]
            if first:  # the rows of its prompts are not the table's first ones
                ids[index, :size] += np.where(row.ids[:size] >= self._vocab_size, first, 0)
            mask[index, : in_front + size] = 1
            if row.type_ids is not None:
                types[index, :size] = row.type_ids[:size]
        text = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self._graph.input_names:
            text["token_type_ids"] = types
        width = self._graph.output_size or len(self._own_labels if head is None else head.labels)
        shape = (len(rows), width) if self._pools else (*ids.shape, width)
        output = np.empty(shape, self._graph.output_type)
        self._graph.run(
            self._values(text) | swapped_in, {self._graph.output_name: self._graph.value(output)}
        )
        ended = time.perf_counter()
        values = [*output.astype(np.float32, copy=False)]
        if not self._pools:  # padding is no position
            values = [row[:size] for row, size in zip(values, sizes, strict=True)]
        return values, (swapped - begin) * 1e3, (ended - swapped) * 1e3

    def _positions_run(self, row: Input) -> int:
        """Positions of a row up to the last one that matters.

        Given ids, as of a plain model or under a prefix of keys and values, a decoder of transformers
        pools the last token that is no pad, and the first one of pads alone. What stands behind it
        cannot change it, so it is left out. Rows of a prompt peft gives as embeddings, among which no
        pad is seen: the last token is pooled.
        """
        rows_in_front = row.prefix is not None and row.prefix.rows is not None
        if self._pad is None or rows_in_front or row.table is not None:
            return len(row.ids)
        tokens = np.flatnonzero(row.ids != self._pad)
        return int(tokens[-1]) + 1 if tokens.size else 1

    def _past(self, batch: int, prefix: npt.NDArray[Any] | None) -> dict[str, npt.NDArray[Any]]:
        """The cache's inputs; of an encoder the prefix alone, which the graph puts in front of every row.

        Args:
            batch: rows of the run.
            prefix: (2 · layers, kv_heads, positions, head_dim), in front of every row.
        """
        kv = self._kv
        if kv is None:
            return {}
        if kv.prefix_only:
            # (layers, 2, kv_heads, positions, head_dim)
            shaped = None if prefix is None else prefix.reshape(-1, 2, *prefix.shape[1:])
            return {} if shaped is None else {"prompt_kv": shaped}
        if prefix is None:
            shape = (2 * kv.num_layers, kv.num_kv_heads, 0, kv.head_dim)
            prefix = np.empty(shape, self._graph.float_type)
        copies = np.repeat(prefix[:, None], batch, axis=1)  # (2 · layers, batch, …)
        return dict(zip(kv.names("past_key_values"), copies, strict=True))

    def _values(self, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
        return {name: self._graph.value(array) for name, array in feeds.items()}

    def _check_length(self, request: Input) -> None:
        if request.text is None:
            check_length(request, self._max_length)
        else:
            remedy = "Shorten the text, let it be cut with truncate=True (--truncate)"
            check_length(request, self._max_length, remedy=remedy)

    def _head_bearer(self, prompts: Sequence[LoadedPrompt]) -> LoadedPrompt | None:
        """The one prompt of a request that brings a head; None where the model's own is used."""
        bearers = {id(prompt): prompt for prompt in prompts if prompt.head is not None}
        if len(bearers) > 1:
            names = " and ".join(repr(prompt.name) for prompt in bearers.values())
            raise UsageError(
                f"prompts {names} stand in one request, and each brings a head; a request takes one. "
                "Leave one out, or make two requests."
            )
        if not bearers and self._head is not None and not self._own_labels:
            raise UsageError(
                f"this bundle's model has no {self._head} head of its own. Ask under a prompt that brings "
                "one: prompt=model.load_prompt(...), edgept run --prompt."
            )
        return next(iter(bearers.values()), None)


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Probabilities over the last dimension."""
    scores = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = scores / scores.sum(-1, keepdims=True)
    return probabilities


def _head_of(prompt: LoadedPrompt | None) -> Head | None:
    return None if prompt is None else prompt.head


def _check_finite(values: npt.NDArray[np.float32], named: LoadedPrompt | None) -> None:
    if not np.isfinite(values).all():
        under = "" if named is None else f" under prompt {named.name!r}"
        raise EdgeptError(
            f"the model's output is not finite{under}. The prompt, its head or the graph overflows "
            "its float type: check the prompt with 'edgept prompt inspect', or export the model with a "
            "wider precision (fp32)."
        )
