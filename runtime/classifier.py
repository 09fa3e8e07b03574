"""Text classification: one run over a text, with the head that its prompt brings.

Encoders keep no cache, so a prompt's rows are run with each request. In a decoder-only model they are
run once, when the prompt is loaded; a request then gets a copy of their keys and values.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgept.bundle import Manifest
from edgept.errors import EdgeptError, UsageError
from edgept.latency import Latency
from edgept.runtime.content import Head, Input, LoadedPrompt, check_length
from edgept.runtime.graph import Graph

__all__ = ["Classification", "Classifier"]

# Rows that are run together; a longer batch is run in several pieces, so that its memory has a bound.
_MAX_ROWS = 16


@dataclass(frozen=True, eq=False)
class Classification:
    """What a text was found to be.

    Attributes:
        label: the most probable class.
        probability: of that class: softmax over the logits.
        labels: all classes, in the head's order.
        probabilities: one a class, in the same order.
        logits: (classes,) float32.
        prompt: name of the prompt that brought the head, else of the one in front; None for the plain
            model.
        latency: how long each phase took; prefill is the run.
    """

    label: str
    probability: float
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    logits: npt.NDArray[np.float32]
    prompt: str | None
    latency: Latency


class Classifier:
    """Classifies on one graph; requests come composed."""

    def __init__(self, graph: Graph, manifest: Manifest, max_length: int) -> None:
        self._graph, self._kv = graph, manifest.kv
        self._vocab_size, self._max_length = manifest.vocab_size, max_length
        self._own_labels, self._pad = tuple(manifest.labels), manifest.pad_token_id

    def keys_and_values(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
        """Run a prompt's rows once; (2 · layers, kv_heads, num_virtual_tokens, head_dim).

        None for an encoder, which has no cache.
        """
        kv = self._kv
        if kv is None:
            return None
        first = self._vocab_size
        ids = np.arange(first, first + len(rows))[None]  # (1, num_virtual_tokens)
        shape = (1, kv.num_kv_heads, len(rows), kv.head_dim)
        present = {name: self._graph.empty(shape) for name in kv.names("present")}
        feeds = self._feeds(ids, np.ones_like(ids), 0) | self._swap_in(1, rows, None, None)
        self._graph.run(feeds, present)
        return np.concatenate([value.numpy() for value in present.values()])

    def run(
        self, requests: Sequence[Input], *, load_ms: float, started: float
    ) -> list[Classification]:
        """Classify; requests under the same prompts are run together.

        Args:
            requests: composed; lengths and prompts may differ.
            load_ms: as in Latency.
            started: monotonic time of the call.

        Returns:
            One result a request, in order. Its times are those of the run that it was part of.

        Raises:
            UsageError: a request is too long, or nothing says what its classes are.
        """
        tokenize_ms = (time.perf_counter() - started) * 1e3
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, request in enumerate(requests):
            check_length(request, self._max_length)
            # one prompt may be a prefix here and stand inside the text there
            key = (id(request.prefix), *map(id, request.prompts))
            groups.setdefault(key, []).append(index)
        results: dict[int, Classification] = {}
        for group in groups.values():
            bearer = _head_bearer(requests[group[0]].prompts)
            if bearer is None and not self._own_labels:
                raise UsageError(
                    "this bundle's model has no classification head of its own, so nothing says what the "
                    "classes are. Classify under a prompt that brings one: "
                    "model.classify(text, prompt=model.load_prompt(...))."
                )
            group.sort(key=lambda index: len(requests[index].ids))  # little padding in each piece
            for begin in range(0, len(group), _MAX_ROWS):
                piece = group[begin : begin + _MAX_ROWS]
                rows = [requests[index] for index in piece]
                found = self._classify(rows, bearer, load_ms, tokenize_ms, started)
                results.update(zip(piece, found, strict=True))
        return [results[index] for index in range(len(requests))]

    def _classify(
        self,
        rows: Sequence[Input],
        bearer: LoadedPrompt | None,
        load_ms: float,
        tokenize_ms: float,
        started: float,
    ) -> list[Classification]:
        """One run over rows of the same prompts."""
        head = None if bearer is None else bearer.head
        texts = [self._up_to_pooled(row) for row in rows]
        ids = np.zeros((len(rows), max(map(len, texts))), np.int64)
        mask = np.zeros_like(ids)
        for index, text in enumerate(texts):
            ids[index, : len(text)] = text
            mask[index, : len(text)] = 1
        prefix = rows[0].prefix
        begin = time.perf_counter()
        swapped_in = self._swap_in(len(rows), rows[0].table, prefix.kv if prefix else None, head)
        swapped = time.perf_counter()
        feeds = {**self._feeds(ids, mask, prefix.num_virtual_tokens if prefix else 0), **swapped_in}
        labels = self._own_labels if head is None else head.labels
        logits = np.empty((len(rows), len(labels)), self._graph.logits_type)
        self._graph.run(feeds, {"logits": self._graph.value(logits)})
        ended = time.perf_counter()
        logits = logits.astype(np.float32)
        in_front = next(iter(rows[0].prompts), None)
        named = bearer or in_front
        if not np.isfinite(logits).all():
            under = "" if named is None else f" under prompt {named.name!r}"
            raise EdgeptError(
                f"the model's logits are not finite{under}. The prompt, its head or the graph overflows "
                "its float type: check the prompt with 'edgept prompt inspect', or export the model with a "
                "wider precision (fp32)."
            )
        probabilities = _softmax(logits)
        best = logits.argmax(-1)
        return [
            Classification(
                label=labels[best[index]],
                probability=float(probabilities[index, best[index]]),
                labels=labels,
                probabilities=tuple(probabilities[index].tolist()),
                logits=logits[index],
                prompt=None if named is None else named.name,
                latency=Latency(
                    load_ms=load_ms,
                    prompt_ms=0.0 if named is None else named.load_ms,
                    swap_ms=(swapped - begin) * 1e3,
                    tokenize_ms=tokenize_ms,
                    prefill_ms=(ended - swapped) * 1e3,
                    ttft_ms=None,
                    tpot_ms=None,
                    total_ms=(time.perf_counter() - started) * 1e3,
                    virtual_tokens=row.virtual_tokens,
                    input_tokens=row.text_tokens,
                    new_tokens=0,
                ),
            )
            for index, row in enumerate(rows)
        ]

    def _up_to_pooled(self, row: Input) -> npt.NDArray[np.int64]:
        """A text's ids (tokens,), up to the one that is pooled.

        Given ids, as of a plain model or under a prefix of keys and values, a decoder of transformers
        pools the last token that is no pad, and the first one of pads alone. What stands behind it
        cannot change it, so it is left out. Rows of a prompt peft gives as embeddings, among which no
        pad is seen: the last token is pooled.
        """
        rows_in_front = row.prefix is not None and row.prefix.rows is not None
        if self._pad is None or rows_in_front or row.table is not None:
            return row.ids
        tokens = np.flatnonzero(row.ids != self._pad)
        return row.ids[: int(tokens[-1]) + 1 if tokens.size else 1]

    def _swap_in(
        self,
        batch: int,
        table: npt.NDArray[Any] | None,
        past: npt.NDArray[Any] | None,
        head: Head | None,
    ) -> dict[str, Any]:
        """The inputs that make a task: rows, keys and values, head.

        Args:
            batch: rows of the run.
            table: (virtual tokens, hidden), the rows of the virtual ids.
            past: (2 · layers, kv_heads, prefix, head_dim), in front of every row.
            head: of the prompt; None takes the model's own.
        """
        feeds: dict[str, npt.NDArray[Any]] = {}
        if self._kv is not None:
            kv = self._kv
            if past is None:
                past = np.empty(
                    (2 * kv.num_layers, kv.num_kv_heads, 0, kv.head_dim), self._graph.float_type
                )
            copies = np.repeat(past[:, None], batch, axis=1)  # (2 · layers, batch, …)
            feeds.update(zip(kv.names("past_key_values"), copies, strict=True))
        if table is not None:
            feeds["prompt_embeds"] = table
        if head is not None:
            feeds |= {"head.weight": head.weight, "head.bias": head.bias}
        return {name: self._graph.value(array) for name, array in feeds.items()}

    def _feeds(
        self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64], prefix: int
    ) -> dict[str, Any]:
        """The inputs that make a text.

        Args:
            ids: (batch, tokens), virtual ids among them.
            mask: (batch, tokens), 1 for a token and 0 for padding behind it.
            prefix: positions in front of every row whose keys and values are given.
        """
        feeds = {"input_ids": ids}
        if "token_type_ids" in self._graph.input_names:
            feeds["token_type_ids"] = np.zeros_like(ids)
        feeds["attention_mask"] = np.pad(mask, ((0, 0), (prefix, 0)), constant_values=1)
        return {name: self._graph.value(array) for name, array in feeds.items()}


def _head_bearer(prompts: Sequence[LoadedPrompt]) -> LoadedPrompt | None:
    """The one prompt of a request that brings a head."""
    bearers = {id(prompt): prompt for prompt in prompts if prompt.head is not None}
    if len(bearers) > 1:
        names = " and ".join(repr(prompt.name) for prompt in bearers.values())
        raise UsageError(
            f"prompts {names} stand in one request, and each brings a head; a text is classified by "
            "one. Leave one out, or make two requests."
        )
    return next(iter(bearers.values()), None)


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Probabilities (batch, classes) of logits."""
    scores = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = scores / scores.sum(-1, keepdims=True)
    return probabilities
