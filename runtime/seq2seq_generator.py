"""Text generation on an encoder-decoder's bundle, greedy, sampled or by beam search."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgept.errors import UsageError
from edgept.manifest import Manifest
from edgept.runtime.beam_stream import BeamStream, search_rows
from edgept.runtime.beams import BeamOptions
from edgept.runtime.content import Input
from edgept.runtime.generation import Generation, GenerationStream, Limits, generate_rows
from edgept.runtime.graph import Graph
from edgept.runtime.sampling import Sampling
from edgept.runtime.seq2seq import Seq2SeqDecoder
from edgept.runtime.text import Tokenizer

__all__ = ["Seq2SeqGenerator"]


class Seq2SeqGenerator:
    """Generates on two graphs; requests come composed.

    Attributes:
        decoder: the graphs in moves.
    """

    def __init__(
        self,
        encoder: Graph,
        decoder: Graph,
        manifest: Manifest,
        max_length: int,
        tokenizer: Tokenizer | None,
    ) -> None:
        self.decoder = Seq2SeqDecoder(encoder, decoder, manifest, max_length)
        self._decoding = manifest.decoding
        self._tokenizer = tokenizer

    def keys_and_values(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any] | None:  # noqa: ARG002
        """None: an encoder has no cache, so a prompt's rows are run with each request."""
        return None

    def logits(self, request: Input, answer: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits (answer + 1, vocabulary) of what follows the start token and each token of an answer."""
        cache = self.decoder.open(request, 0)
        logits = [self.decoder.prefill(cache, request)[0]]
        if answer:
            logits.append(self.decoder.run(cache, np.array([answer], np.int64))[0])
        return np.concatenate(logits)

    def probe(self, request: Input) -> npt.NDArray[np.float32]:
        """Logits (vocabulary,) of an answer's first token."""
        row: npt.NDArray[np.float32] = self.logits(request, ())[0]
        return row

    def stream(
        self,
        request: Input,
        sampling: Sampling,
        limits: Limits,
        beams: BeamOptions,
        *,
        load_ms: float,
        started: float,
    ) -> GenerationStream:
        """Generate for one request; beams give their text at once, at the end."""
        beams = self._filled_in(beams, sampling)
        tokenize_ms = (time.perf_counter() - started) * 1e3
        if beams.num_beams == 1:
            return GenerationStream(
                self.decoder,
                request,
                sampling,
                limits,
                self._tokenizer,
                load_ms=load_ms,
                tokenize_ms=tokenize_ms,
                started=started,
            )
        return BeamStream(
            self.decoder,
            request,
            sampling,
            limits,
            self._tokenizer,
            beams,
            load_ms=load_ms,
            tokenize_ms=tokenize_ms,
            started=started,
        )

    def batch(
        self,
        requests: Sequence[Input],
        sampling: Sampling,
        limits: Limits,
        beams: BeamOptions,
        *,
        load_ms: float,
        started: float,
    ) -> list[Generation]:
        """Generate for many; row i samples with seed + i."""
        beams = self._filled_in(beams, sampling)
        times = {
            "load_ms": load_ms,
            "tokenize_ms": (time.perf_counter() - started) * 1e3,
            "started": started,
        }
        # rows whose answers begin in one column run together: all but those of prefixes
        groups: dict[int, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(self.decoder.taken(request), []).append(index)
        results: dict[int, Generation] = {}
        for group in groups.values():
            rows = [requests[index] for index in group]
            chosen = [
                sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + index)
                for index in group
            ]
            if beams.num_beams == 1:
                found = generate_rows(self.decoder, rows, chosen, limits, self._tokenizer, **times)
            else:
                found = search_rows(
                    self.decoder, rows, sampling, limits, self._tokenizer, beams, **times
                )
            results.update(zip(group, found, strict=True))
        return [results[index] for index in range(len(requests))]

    def _filled_in(self, beams: BeamOptions, sampling: Sampling) -> BeamOptions:
        """Options with the model's own in place of those that nobody chose; sampling has one beam."""
        own = self._decoding
        if own is None:
            raise AssertionError("an encoder-decoder's bundle has it; checked when it was opened")
        samples = sampling.temperature > 0
        if samples and beams.num_beams not in (None, 1):
            raise UsageError(
                f"num_beams is {beams.num_beams} and temperature {sampling.temperature}: beams are searched, "
                "not sampled. Leave one of the two out."
            )
        early = own.early_stopping if beams.early_stopping is None else beams.early_stopping
        count = 1 if samples else own.num_beams if beams.num_beams is None else beams.num_beams
        return BeamOptions(
            count,
            own.length_penalty if beams.length_penalty is None else beams.length_penalty,
            "never" if isinstance(early, str) else early,
        )
