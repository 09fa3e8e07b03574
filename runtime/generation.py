"""The decoding loop: from a request to tokens, one at a time, for one sequence or a batch."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from edgept.errors import EdgeptError, UsageError
from edgept.latency import Latency
from edgept.runtime.content import Input
from edgept.runtime.sampling import Sampler, Sampling
from edgept.runtime.stop import StopStrings
from edgept.runtime.text import Tokenizer

__all__ = [
    "FinishReason",
    "Generation",
    "GenerationStream",
    "Limits",
    "Moves",
    "Row",
    "generate_rows",
]

FinishReason: TypeAlias = Literal["eos", "stop", "length", "full", "cancelled"]


@dataclass(frozen=True)
class Generation:
    """What came out of a request.

    Attributes:
        text: of the new tokens, without special tokens and without the stop string.
        token_ids: the new tokens, an end-of-text token included.
        finish_reason: "eos" an end-of-text token; "stop" a stop string; "length" max_new_tokens;
            "full" the model's longest sequence; "cancelled" by the caller.
        prompt: name of the prompt in front, None for the plain model.
        latency: how long each phase took.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt: str | None
    latency: Latency


@dataclass(frozen=True)
class Limits:
    """When a generation ends.

    Attributes:
        max_new_tokens: at most this many.
        stop: texts that end it, themselves left out.
        eos_token_ids: ids that end it.
        on_full: "stop" ends it when the model's longest sequence is reached, "error" raises.
        cancel: set by another thread to end it at the next token.
    """

    max_new_tokens: int
    stop: Sequence[str]
    eos_token_ids: frozenset[int]
    on_full: Literal["stop", "error"]
    cancel: threading.Event | None

    def __post_init__(self) -> None:
        count = self.max_new_tokens
        if not isinstance(count, (int, np.integer)) or count < 1:
            raise UsageError(f"max_new_tokens is {count!r}, expected a whole number from 1 on.")
        if self.on_full not in ("stop", "error"):
            raise UsageError(f"on_full is {self.on_full!r}, expected 'stop' or 'error'.")


class Moves(Protocol):
    """What the loops below ask of a model: a decoder-only one, or an encoder-decoder.

    A cache is the implementation's own; what each move does is said there.
    """

    max_length: int

    def taken(self, request: Input) -> int: ...  # noqa: D102
    def context(self, request: Input) -> list[int]: ...  # noqa: D102
    def rule(  # noqa: D102
        self, scores: npt.NDArray[np.float32], answer: Sequence[int], most: int
    ) -> npt.NDArray[np.float32]: ...
    def open(self, request: Input, capacity: int) -> Any: ...  # noqa: D102
    def join(self, caches: Sequence[Any], capacity: int) -> Any: ...  # noqa: D102
    def close(self, cache: Any) -> None: ...  # noqa: D102
    def prefill(self, cache: Any, request: Input) -> npt.NDArray[np.float32]: ...  # noqa: D102
    def step(  # noqa: D102
        self, cache: Any, tokens: Sequence[int], running: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.float32]: ...


class Row:
    """One sequence of a batch: chooses its tokens and knows when it has ended."""

    def __init__(
        self,
        request: Input,
        sampling: Sampling,
        limits: Limits,
        moves: Moves,
        tokenizer: Tokenizer | None,
    ) -> None:
        self._limits, self._moves = limits, moves
        self._room = moves.max_length - moves.taken(request)
        self.most = min(limits.max_new_tokens, self._room + 1)  # tokens that there is room for
        self._sampler = Sampler(sampling, moves.context(request))
        self._text = None if tokenizer is None else tokenizer.stream()
        self._stops = StopStrings(limits.stop)
        self._eos = limits.eos_token_ids
        if limits.stop and tokenizer is None:
            raise UsageError("stop strings need a tokenizer, and this bundle has none.")
        self.token_ids: list[int] = []
        self.pieces: list[str] = []
        self.reason: FinishReason | None = None

    def push(self, logits: npt.NDArray[np.float32]) -> str:
        """Choose from logits (vocabulary,); return the text that is certain now."""
        ruled = self._moves.rule(logits, self.token_ids, self.most)
        piece = self.add(self._sampler.choose(ruled))
        if self.reason is None and self._limits.cancel is not None and self._limits.cancel.is_set():
            piece += self.end("cancelled")
        return piece

    def add(self, token: int) -> str:
        """Take the next token; return the text that is certain now."""
        self.token_ids.append(token)
        piece, stopped = "", False
        if token in self._eos:
            self.reason = "eos"
        elif self._text is not None:
            piece, stopped = self._stops.push(self._text.push(token))
        if stopped:
            self.reason = "stop"
        elif self.reason is None and len(self.token_ids) >= self._limits.max_new_tokens:
            self.reason = "length"
        elif self.reason is None and len(self.token_ids) > self._room:
            self.reason = "full"  # also under an error: there is no room to go on
            if self._limits.on_full == "error":
                raise EdgeptError(
                    f"the sequence reached the model's longest after {len(self.token_ids)} new tokens. "
                    "Shorten the text, ask for fewer new tokens, or let it stop there (on_full='stop')."
                )
        return self._emit(piece + self._rest())

    def end(self, reason: FinishReason) -> str:
        """End from outside; return what text was held back."""
        if self.reason is not None:
            return ""
        self.reason = reason
        return self._emit(self._rest())

    def generation(
        self,
        request: Input,
        *,
        load_ms: float,
        swap_ms: float,
        tokenize_ms: float,
        prefill_ms: float,
        ttft_ms: float | None,
        decode_ms: float | None,
        total_ms: float,
    ) -> Generation:
        """What came out, with its times; decode_ms is that of all tokens after the first."""
        count = len(self.token_ids)
        # of an encoder-decoder, and where keys depend on the text's length, the rows in front are run
        in_front = request.prefix or request.front
        latency = Latency(
            load_ms=load_ms,
            prompt_ms=in_front.load_ms if in_front else 0.0,
            swap_ms=swap_ms,
            tokenize_ms=tokenize_ms,
            prefill_ms=prefill_ms,
            ttft_ms=ttft_ms,
            tpot_ms=decode_ms / (count - 1) if decode_ms is not None and count > 1 else None,
            total_ms=total_ms,
            virtual_tokens=request.virtual_tokens,
            input_tokens=request.text_tokens,
            new_tokens=count,
        )
        return Generation(
            "".join(self.pieces),
            self.token_ids,
            self.reason or "cancelled",
            in_front.name if in_front else None,
            latency,
        )

    def _rest(self) -> str:
        if self.reason is None or self.reason == "stop" or self._text is None:
            return ""
        piece, stopped = self._stops.push(self._text.finish())
        if stopped:
            self.reason = "stop"
            return piece
        return piece + self._stops.finish()

    def _emit(self, piece: str) -> str:
        self.pieces.append(piece)
        return piece


class GenerationStream(Iterator[str]):
    """Pieces of text as they are generated; after the last one, `result` is set.

    Closing it, or leaving its `with` block, cancels the rest. One thread reads a stream; another may
    close it, and waits for the step in progress.

    Attributes:
        result: the whole generation, once the stream has ended; None before.
    """

    def __init__(
        self,
        decoder: Moves,
        request: Input,
        sampling: Sampling,
        limits: Limits,
        tokenizer: Tokenizer | None,
        *,
        load_ms: float,
        tokenize_ms: float,
        started: float,
    ) -> None:
        self.result: Generation | None = None
        self._decoder, self._request = decoder, request
        self._load_ms, self._tokenize_ms = load_ms, tokenize_ms
        room = decoder.max_length - request.length
        self._row = Row(request, sampling, limits, decoder, tokenizer)
        self._capacity = request.length + min(limits.max_new_tokens, room)
        self._cache: Any = None
        # held in every step: its memory may go to another request only afterwards
        self._stepping = threading.Lock()
        self._swap_ms = self._prefill_ms = 0.0
        # seconds inside this stream: what its reader does between two pieces is not the model's time
        self._spent = time.perf_counter() - started
        self._first: float | None = None

    def __next__(self) -> str:
        with self._stepping:
            while self._row.reason is None:
                begin = time.perf_counter()
                piece = self._step()
                self._spent += time.perf_counter() - begin
                if self._first is None and self._row.token_ids:
                    self._first = self._spent
                if self._row.reason is not None:
                    self._finish()
                if piece:
                    return piece
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is left; `result` then holds what came so far."""
        with self._stepping:
            if self._row.reason is None:
                self._row.end("cancelled")
                self._finish()

    def _step(self) -> str:
        if self._cache is None:
            begin = time.perf_counter()
            self._cache = self._decoder.open(self._request, self._capacity)
            swapped = time.perf_counter()
            logits = self._decoder.prefill(self._cache, self._request)
            self._swap_ms = (swapped - begin) * 1e3
            self._prefill_ms = (time.perf_counter() - swapped) * 1e3
        else:
            logits = self._decoder.step(self._cache, [self._row.token_ids[-1]])
        return self._row.push(logits[0, -1])

    def _finish(self) -> None:
        if self._cache is not None:
            self._decoder.close(self._cache)
            self._cache = None
        request, row = self._request, self._row
        self.result = row.generation(
            request,
            load_ms=self._load_ms,
            swap_ms=self._swap_ms,
            tokenize_ms=self._tokenize_ms,
            prefill_ms=self._prefill_ms,
            ttft_ms=None if self._first is None else self._first * 1e3,
            decode_ms=None if self._first is None else (self._spent - self._first) * 1e3,
            total_ms=self._spent * 1e3,
        )


def generate_rows(
    decoder: Moves,
    requests: Sequence[Input],
    sampling: Sequence[Sampling],
    limits: Limits,
    tokenizer: Tokenizer | None,
    *,
    load_ms: float,
    tokenize_ms: float,
    started: float,
) -> list[Generation]:
    """Run a batch: each row is prefilled alone, so none pays for another's length; all decode together.

    Args:
        decoder: of the bundle.
        requests: one a row, with prompts and lengths of their own.
        sampling: one a row.
        limits: of every row.
        tokenizer: of the bundle.
        load_ms: as in Latency.
        tokenize_ms: as in Latency, of the whole batch.
        started: monotonic time of the call.

    Returns:
        One generation a request, in order. A row's times are the batch's: prefill to the row's
        own first token, time per output token of the common steps.
    """
    rows: list[Row] = []
    caches: list[Any] = []
    firsts: list[tuple[float, float, float]] = []  # seconds: swap, prefill, first token
    for request, chosen in zip(requests, sampling, strict=True):
        row = Row(request, chosen, limits, decoder, tokenizer)
        begin = time.perf_counter()
        cache = decoder.open(request, request.length)
        swapped = time.perf_counter()
        logits = decoder.prefill(cache, request)
        prefilled = time.perf_counter()
        row.push(logits[0, -1])
        rows.append(row)
        caches.append(cache)
        firsts.append((swapped - begin, prefilled - swapped, time.perf_counter()))
    longest = max(request.length for request in requests)
    count = max(
        min(limits.max_new_tokens, decoder.max_length - request.length) for request in requests
    )
    capacity = min(longest + count, decoder.max_length)
    cache = decoder.join(caches, capacity)
    for single in caches:
        decoder.close(single)
    caches.clear()
    lasts = [first for _, _, first in firsts]
    while any(row.reason is None for row in rows):
        running = np.array([row.reason is None for row in rows])
        logits = decoder.step(cache, [row.token_ids[-1] for row in rows], running)
        for index in np.flatnonzero(running):
            rows[index].push(logits[index, -1])
            lasts[index] = time.perf_counter()
    decoder.close(cache)
    ended = time.perf_counter()
    return [
        row.generation(
            request,
            load_ms=load_ms,
            swap_ms=swap * 1e3,
            tokenize_ms=tokenize_ms,
            prefill_ms=prefill * 1e3,
            ttft_ms=(first - started) * 1e3,
            decode_ms=(last - firsts[-1][2]) * 1e3,
            total_ms=(ended - started) * 1e3,
        )
        for row, request, (swap, prefill, first), last in zip(
            rows, requests, firsts, lasts, strict=True
        )
    ]
