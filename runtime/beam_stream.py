"""The loop of beam search: several requests, each with beams of its own, decoded together."""

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgept.runtime.beams import BeamOptions, Beams, log_probabilities
from edgept.runtime.content import Input
from edgept.runtime.generation import Generation, GenerationStream, Limits, Row
from edgept.runtime.sampling import Sampling
from edgept.runtime.seq2seq import CrossCache, Seq2SeqDecoder
from edgept.runtime.text import Tokenizer

__all__ = ["BeamSearch", "BeamStream", "search_rows"]


class BeamSearch:
    """Beams of several requests, a step at a time.

    Attributes:
        done: whether every request has its answer.
        swap_ms: of each request, as in Latency; known after the first step.
        prefill_ms: and this.
    """

    def __init__(
        self,
        decoder: Seq2SeqDecoder,
        requests: Sequence[Input],
        rows: Sequence[Row],
        sampling: Sampling,
        limits: Limits,
        tokenizer: Tokenizer | None,
        options: BeamOptions,
    ) -> None:
        self._decoder, self._requests, self._rows = decoder, requests, rows
        self._penalty, self._limits, self._tokenizer = (
            sampling.repetition_penalty,
            limits,
            tokenizer,
        )
        self._count = options.num_beams or 1
        self._beams = [
            Beams(
                options,
                max_new_tokens=row.most,
                eos_token_ids=limits.eos_token_ids,
                stops=self._stops,
            )
            for row in rows
        ]
        self._running = list(range(len(rows)))
        self._cache: CrossCache | None = None
        self.done = not rows
        self.swap_ms: list[float] = []
        self.prefill_ms: list[float] = []

    def step(self) -> None:
        """Take one token in every request that goes on."""
        if self._cache is None:
            logits = self._begin()
        else:
            tokens = [
                answer[-1] for index in self._running for answer in self._beams[index].answers
            ]
            logits = self._decoder.step(self._cache, tokens)[:, -1]
        if self._cache is None:
            raise AssertionError("opened in the first step")
        kept: list[npt.NDArray[np.int64]] = []
        going_on: list[int] = []
        for place, index in enumerate(self._running):
            first = place * self._count
            beams = self._beams[index]
            scores = self._scores(index, logits[first : first + self._count])
            chosen = beams.advance(scores)
            if not beams.done:
                kept.append(first + chosen)
                going_on.append(index)
        if len(going_on) < len(self._running) and going_on:
            self._cache.take_sources(np.concatenate(kept))
        self._running = going_on
        cancel = self._limits.cancel
        self.done = not going_on or (cancel is not None and cancel.is_set())
        if self.done:
            self.end()
        else:
            self._cache.take(np.concatenate(kept))

    def end(self) -> None:
        """Give every row its best answer so far."""
        self.done = True
        for row, beams in zip(self._rows, self._beams, strict=True):
            for token in beams.best():
                row.add(token)
            row.end("cancelled")  # without effect on an answer that has ended

    def _begin(self) -> npt.NDArray[np.float32]:
        """Prefill; logits (requests · beams, vocabulary)."""
        caches, logits = [], []
        for request in self._requests:
            begin = time.perf_counter()
            cache = self._decoder.open(request, 0)
            swapped = time.perf_counter()
            logits.append(self._decoder.prefill(cache, request)[:, -1])
            caches.append(cache)
            self.swap_ms.append((swapped - begin) * 1e3)
            self.prefill_ms.append((time.perf_counter() - swapped) * 1e3)
        self._cache = self._decoder.join(caches, 0)
        every = np.repeat(np.arange(len(caches)), self._count)
        self._cache.take(every)
        self._cache.take_sources(every)
        return np.concatenate(logits)[every]

    def _scores(self, index: int, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Log-probabilities (beams, vocabulary) under the penalty and the model's own rules."""
        scores = log_probabilities(logits)
        most = self._rows[index].most
        for row, answer in zip(scores, self._beams[index].answers, strict=True):
            if self._penalty != 1.0:
                seen = [*self._decoder.context(self._requests[index]), *answer]
                # negative, all of them: log-probabilities
                row[seen] *= np.float32(self._penalty)
            row[:] = self._decoder.rule(row, answer, most)
        return log_probabilities(scores) if self._decoder.renormalizes else scores

    def _stops(self, answer: list[int]) -> bool:
        if not self._limits.stop or self._tokenizer is None:
            return False
        text = self._tokenizer.decode(answer)
        return any(stop in text for stop in self._limits.stop)


class BeamStream(GenerationStream):
    """A stream whose only piece comes at the end: before, nobody knows which beam is the answer."""

    def __init__(
        self,
        decoder: Seq2SeqDecoder,
        request: Input,
        sampling: Sampling,
        limits: Limits,
        tokenizer: Tokenizer | None,
        options: BeamOptions,
        *,
        load_ms: float,
        tokenize_ms: float,
        started: float,
    ) -> None:
        super().__init__(
            decoder,
            request,
            sampling,
            limits,
            tokenizer,
            load_ms=load_ms,
            tokenize_ms=tokenize_ms,
            started=started,
        )
        self._search = BeamSearch(
            decoder, [request], [self._row], sampling, limits, tokenizer, options
        )

    def _step(self) -> str:
        self._search.step()
        if not self._search.done:
            return ""
        self._swap_ms, self._prefill_ms = self._search.swap_ms[0], self._search.prefill_ms[0]
        return "".join(self._row.pieces)


def search_rows(
    decoder: Seq2SeqDecoder,
    requests: Sequence[Input],
    sampling: Sampling,
    limits: Limits,
    tokenizer: Tokenizer | None,
    options: BeamOptions,
    *,
    load_ms: float,
    tokenize_ms: float,
    started: float,
) -> list[Generation]:
    """Search beams for many requests, which run together; arguments and result as `generate_rows`.

    A row's times are the batch's; its first token comes with its last.
    """
    rows = [Row(request, sampling, limits, decoder, tokenizer) for request in requests]
    search = BeamSearch(decoder, requests, rows, sampling, limits, tokenizer, options)
    while not search.done:
        search.step()
    total_ms = (time.perf_counter() - started) * 1e3
    return [
        row.generation(
            request,
            load_ms=load_ms,
            swap_ms=swap_ms,
            tokenize_ms=tokenize_ms,
            prefill_ms=prefill_ms,
            ttft_ms=total_ms,
            decode_ms=None,
            total_ms=total_ms,
        )
        for row, request, swap_ms, prefill_ms in zip(
            rows, requests, search.swap_ms, search.prefill_ms, strict=True
        )
    ]
