"""edgept on its int4 bundle, in Python or in C, and what only it is asked for: residents, batches, ceilings."""

import importlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.files import Files
from benchmarks.runtimes import Answer

__all__ = ["prepare", "start"]

_VIRTUAL_TOKENS = 20  # of a resident prompt


def prepare(files: Files) -> None:
    files.make_bundle()


def start(files: Files, threads: int, kind: str) -> Any:
    return _Edgept(files, threads, kind)


class _Edgept:
    """The public API as a program uses it."""

    def __init__(self, files: Files, threads: int, kind: str) -> None:
        importlib.import_module("onnxruntime")
        begin = time.perf_counter()
        import edgept

        # of the C engine, `ask` is asked and nothing else
        engine: Any = "c" if kind == "c" else "python"
        self._model: Any = edgept.load(files.bundle, threads=threads, engine=engine)
        self.load_ms = (time.perf_counter() - begin) * 1e3
        self._files = files
        self._tasks: list[Any] = []
        self._residents: list[Any] = []
        self.weight_bytes = sum(
            path.stat().st_size for path in files.bundle.iterdir() if "model.onnx" in path.name
        )

    def load_tasks(self, count: int) -> None:
        self._tasks = [self._model.load_prompt(path) for path in self._files.prompts[:count]]

    def ask(self, ids: Sequence[int], task: int | None, new_tokens: int) -> Answer:
        prompt = None if task is None else self._tasks[task]
        result = self._model.generate(ids, prompt=prompt, max_new_tokens=new_tokens)
        latency = result.latency
        ttft, tpot = latency.ttft_ms or 0.0, latency.tpot_ms or 0.0
        return Answer(latency.swap_ms, ttft, tpot, result.token_ids)

    def cold(self, task: int) -> float:
        prompt = self._model.load_prompt(self._files.prompts[task])
        latency = self._model.generate([1], prompt=prompt, max_new_tokens=1).latency
        cold: float = prompt.load_ms + latency.swap_ms
        return cold

    def checks(self, task: int) -> float:
        """Milliseconds to read a prompt file and make all checks, without its keys and values."""
        from edgept import load_prompt_source

        begin = time.perf_counter()
        load_prompt_source(self._files.prompts[task], self._model.manifest)
        return (time.perf_counter() - begin) * 1e3

    def batch(self, rows: Sequence[Sequence[int]], prompts: int, new_tokens: int) -> float:
        """Milliseconds for a batch whose rows take so many prompts in turn."""
        requests = [(ids, self._tasks[row % prompts]) for row, ids in enumerate(rows)]
        results = self._model.generate_batch(requests, max_new_tokens=new_tokens)
        total: float = results[0].latency.total_ms
        return total

    def fill(self, count: int) -> float:
        """Keep so many prompts resident; megabytes that they say they take.

        They are prefixes, keys and values at random: as large as those of trained rows, and nothing has
        to be computed to have thousands of them.
        """
        from edgept import Prompt

        kv = self._model.manifest.kv
        if kv is None:
            raise ValueError("a model without a cache has no prefixes")
        random = np.random.default_rng(len(self._residents))
        shape = (kv.num_layers, 2, kv.num_kv_heads, _VIRTUAL_TOKENS, kv.head_dim)
        while len(self._residents) < count:
            number = len(self._residents)
            values = random.normal(0, 0.5, shape).astype(np.float32)
            prompt = Prompt({"prompt_kv": values}, name=f"{number}")
            self._residents.append(self._model.load_prompt(prompt))
        size: float = sum(item.nbytes for item in self._residents) / 1e6
        return size

    def swaps(self, count: int, seed: int) -> list[float]:
        """Milliseconds of swaps among the residents in random order; the shortest request follows each.

        Every one copies keys and values: buffers that still begin with a prompt are made to forget it.
        """
        random = np.random.default_rng(seed)
        times: list[float] = []
        for chosen in random.integers(len(self._residents), size=count):
            self._model._generator("swaps").decoder.forget_prefixes()
            resident = self._residents[chosen]
            latency = self._model.generate([1], prompt=resident, max_new_tokens=1).latency
            if latency.virtual_tokens != _VIRTUAL_TOKENS:
                raise AssertionError(f"swapped in {latency.virtual_tokens} virtual tokens")
            times.append(latency.swap_ms)
        return times

    def resident_cost(self, count: int) -> tuple[int, float]:
        """Bytes that a prompt says it takes, and by which memory grows for each of so many from their files."""
        from benchmarks.peers import resident_bytes

        held = [
            self._model.load_prompt(self._files.prompts[0])
        ]  # buffers for its keys are there now
        before = resident_bytes("VmRSS")
        held += [
            self._model.load_prompt(self._files.prompts[number % len(self._files.prompts)])
            for number in range(count)
        ]
        grown = (resident_bytes("VmRSS") - before) / count
        return held[0].nbytes, grown

    def ceilings(self, tokens: int, length: int) -> dict[str, float]:
        """See `edgept.bench.ceilings`."""
        from edgept.bench.ceilings import measure_ceilings

        return asdict(measure_ceilings(self._model, prefill_tokens=tokens, length=length))
