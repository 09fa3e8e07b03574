"""llama.cpp through llama-cpp-python's binding of its C API; LoRA adapters as tasks."""

import ctypes
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from benchmarks.files import Files
from benchmarks.gguf_files import make_gguf, make_loras
from benchmarks.runtimes import Answer

__all__ = ["prepare", "start"]

_CONTEXT = 1024  # tokens


def prepare(files: Files) -> None:
    files.make_model()
    make_gguf(files)
    make_loras(files)


def start(files: Files, threads: int, kind: str) -> Any:
    return _Llama(files, threads, kind)


class _Llama:
    """One context; its greedy sampler chooses."""

    def __init__(self, files: Files, threads: int, kind: str) -> None:
        self._llama: Any = import_module("llama_cpp")
        llama = self._llama
        self._silent = llama.llama_log_callback(lambda *_: None)  # kept as long as it may be called
        llama.llama_log_set(self._silent, None)
        path = files.gguf(kind)
        begin = time.perf_counter()
        llama.llama_backend_init()
        self._model = llama.llama_model_load_from_file(
            str(path).encode(), llama.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"llama.cpp could not load {path}")
        options = llama.llama_context_default_params()
        options.n_ctx = _CONTEXT
        options.n_batch = options.n_ubatch = 512
        options.n_threads = options.n_threads_batch = threads
        self._context = llama.llama_init_from_model(self._model, options)
        self.load_ms = (time.perf_counter() - begin) * 1e3
        self._sampler = llama.llama_sampler_init_greedy()
        self._eos = llama.llama_vocab_eos(llama.llama_model_get_vocab(self._model))
        self._files = files
        self._tasks: list[Any] = []
        self.weight_bytes = path.stat().st_size

    def load_tasks(self, count: int) -> None:
        for lora in self._tasks:
            self._llama.llama_adapter_lora_free(lora)
        self._tasks = [self._load(task) for task in range(count)]

    def ask(self, ids: Sequence[int], task: int | None, new_tokens: int) -> Answer:
        llama = self._llama
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)
        begin = time.perf_counter()
        self._activate(None if task is None else self._tasks[task])
        swapped = time.perf_counter()
        chosen = [self._run(ids)]
        first = time.perf_counter()
        while len(chosen) < new_tokens and chosen[-1] != self._eos:
            chosen.append(self._run(chosen[-1:]))
        return Answer.timed(begin, swapped, first, time.perf_counter(), chosen)

    def cold(self, task: int) -> float:
        begin = time.perf_counter()
        lora = self._load(task)
        self._activate(lora)
        milliseconds = (time.perf_counter() - begin) * 1e3
        self._activate(None)
        self._llama.llama_adapter_lora_free(lora)
        return milliseconds

    def _load(self, task: int) -> Any:
        lora = self._llama.llama_adapter_lora_init(
            self._model, str(self._files.loras[task]).encode()
        )
        if not lora:
            raise RuntimeError(f"llama.cpp could not load {self._files.loras[task]}")
        return lora

    def _activate(self, lora: Any) -> None:
        count = 0 if lora is None else 1
        adapters = (self._llama.llama_adapter_lora_p_ctypes * 1)(lora)
        scales = (ctypes.c_float * 1)(1.0)
        if self._llama.llama_set_adapters_lora(self._context, adapters, count, scales) != 0:
            raise RuntimeError("llama.cpp refused the adapter")

    def _run(self, ids: Sequence[int]) -> int:
        llama = self._llama
        tokens = (llama.llama_token * len(ids))(*ids)
        if llama.llama_decode(self._context, llama.llama_batch_get_one(tokens, len(ids))) != 0:
            raise RuntimeError("llama.cpp stopped")
        return int(llama.llama_sampler_sample(self._sampler, self._context, -1))
