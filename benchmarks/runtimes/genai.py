"""onnxruntime-genai on the very file that edgept runs, prompts as its adapters."""

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime_genai as genai

from benchmarks.files import Files
from benchmarks.runtimes import Answer

__all__ = ["prepare", "start"]

_VIRTUAL_TOKENS = 20


def prepare(files: Files) -> None:
    files.make_bundle()


def start(files: Files, threads: int, kind: str) -> Any:
    return _GenAI(files, threads, kind)


class _GenAI:
    """A generator of its own for every request, as its examples have it."""

    def __init__(self, files: Files, threads: int, kind: str) -> None:
        del kind
        begin = time.perf_counter()
        config = genai.Config(str(files.bundle))
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self._model = genai.Model(config)
        self.load_ms = (time.perf_counter() - begin) * 1e3
        self._files = files
        self._adapters: Any = None
        settings = json.loads((files.bundle / "genai_config.json").read_text(encoding="utf-8"))
        first = settings["model"]["vocab_size"]
        self._virtual = np.arange(first, first + _VIRTUAL_TOKENS, dtype=np.int32)
        self.weight_bytes = sum(
            path.stat().st_size for path in files.bundle.iterdir() if "model.onnx" in path.name
        )

    def load_tasks(self, count: int) -> None:
        self._adapters = genai.Adapters(self._model)
        for path in self._files.onnx_adapters[:count]:
            self._adapters.load(str(path), path.stem)

    def ask(self, ids: Sequence[int], task: int | None, new_tokens: int) -> Answer:
        begin = time.perf_counter()
        generator = self._generator(len(ids) + new_tokens, task)
        swapped = time.perf_counter()
        tokens = np.asarray(ids, np.int32)
        generator.append_tokens(tokens if task is None else np.concatenate([self._virtual, tokens]))
        generator.generate_next_token()
        chosen = [int(generator.get_next_tokens()[0])]
        first = time.perf_counter()
        while len(chosen) < new_tokens and not generator.is_done():
            generator.generate_next_token()
            chosen.append(int(generator.get_next_tokens()[0]))
        return Answer.timed(begin, swapped, first, time.perf_counter(), chosen)

    def cold(self, task: int) -> float:
        path = self._files.onnx_adapters[task]
        self._adapters = genai.Adapters(self._model)
        begin = time.perf_counter()
        self._adapters.load(str(path), path.stem)
        self._generator(64, task)
        return (time.perf_counter() - begin) * 1e3

    def _generator(self, length: int, task: int | None) -> Any:
        parameters = genai.GeneratorParams(self._model)
        parameters.set_search_options(max_length=_VIRTUAL_TOKENS + length, do_sample=False)
        generator = genai.Generator(self._model, parameters)
        if task is not None:
            generator.set_active_adapter(self._adapters, self._files.onnx_adapters[task].stem)
        return generator
