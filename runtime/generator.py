"""Text generation on a decoder-only bundle: what `Model` hands such requests to."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgept.manifest import Manifest
from edgept.runtime.content import Input
from edgept.runtime.decoder import Decoder
from edgept.runtime.generation import Generation, GenerationStream, Limits, generate_rows
from edgept.runtime.graph import Graph
from edgept.runtime.sampling import Sampling
from edgept.runtime.text import Tokenizer

__all__ = ["Generator"]


class Generator:
    """Generates on one graph; requests come composed.

    Attributes:
        decoder: the graph in moves.
    """

    def __init__(
        self, graph: Graph, manifest: Manifest, max_length: int, tokenizer: Tokenizer | None
    ) -> None:
        self.decoder = Decoder(graph, manifest, max_length)
        self._vocab_size = manifest.vocab_size
        self._tokenizer = tokenizer

    def keys_and_values(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run a prompt's rows once; (2 · layers, kv_heads, num_virtual_tokens, head_dim)."""
        first = self._vocab_size
        request = Input((), None, np.arange(first, first + len(rows)), rows, len(rows))
        cache = self.decoder.open(request, len(rows))
        self.decoder.prefill(cache, request)
        kv = np.array(cache.held(0), order="C")
        self.decoder.close(cache)
        return kv

    def stream(
        self,
        request: Input,
        sampling: Sampling,
        limits: Limits,
        *,
        load_ms: float,
        started: float,
    ) -> GenerationStream:
        """Generate for one request; started is the monotonic time of the call."""
        return GenerationStream(
            self.decoder,
            request,
            sampling,
            limits,
            self._tokenizer,
            load_ms=load_ms,
            tokenize_ms=(time.perf_counter() - started) * 1e3,
            started=started,
        )

    def batch(
        self,
        requests: Sequence[Input],
        sampling: Sampling,
        limits: Limits,
        *,
        load_ms: float,
        started: float,
    ) -> list[Generation]:
        """Generate for many; row i samples with seed + i."""
        if not requests:
            return []
        seed = sampling.seed
        return generate_rows(
            self.decoder,
            requests,
            [
                sampling if seed is None else replace(sampling, seed=seed + row)
                for row in range(len(requests))
            ],
            limits,
            self._tokenizer,
            load_ms=load_ms,
            tokenize_ms=(time.perf_counter() - started) * 1e3,
            started=started,
        )

    def logits(self, request: Input) -> npt.NDArray[np.float32]:
        """Logits (tokens, vocabulary) at every position that is run."""
        cache = self.decoder.open(request, request.length)
        logits = self.decoder.prefill(cache, request, all_positions=True)  # (1, tokens, vocabulary)
        self.decoder.close(cache)
        row: npt.NDArray[np.float32] = logits[0]
        return row

    def probe(self, request: Input) -> npt.NDArray[np.float32]:
        """The last position's logits (vocabulary,)."""
        row: npt.NDArray[np.float32] = self.logits(request)[-1]
        return row
