"""OpenVINO GenAI on llama.cpp's Q4_0 file."""

import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.files import Files
from benchmarks.gguf_files import make_gguf
from benchmarks.runtimes import Answer

__all__ = ["prepare", "start"]


def prepare(files: Files) -> None:
    files.make_model()
    make_gguf(files)


def start(files: Files, threads: int, kind: str) -> Any:
    return _OpenVINO(files, threads, kind)


class _OpenVINO:
    """Its pipeline, timed by itself; it has no tasks here."""

    def __init__(self, files: Files, threads: int, kind: str) -> None:
        self._genai: Any = import_module("openvino_genai")
        self._openvino: Any = import_module("openvino")
        path = files.gguf(kind)
        begin = time.perf_counter()
        self._pipe = self._genai.LLMPipeline(str(path), "CPU", INFERENCE_NUM_THREADS=threads)
        self.load_ms = (time.perf_counter() - begin) * 1e3
        self.weight_bytes = path.stat().st_size

    def ask(self, ids: Sequence[int], task: int | None, new_tokens: int) -> Answer:
        if task is not None:
            raise ValueError("no tasks here")
        tokens = self._openvino.Tensor(np.asarray([ids], np.int64))
        mask = self._openvino.Tensor(np.ones((1, len(ids)), np.int64))
        result = self._pipe.generate(
            self._genai.TokenizedInputs(tokens, mask), max_new_tokens=new_tokens, do_sample=False
        )
        chosen = [int(token) for token in result.tokens[0]]
        metrics = result.perf_metrics
        ttft, tpot = metrics.get_ttft().mean, metrics.get_tpot().mean
        return Answer(0.0, float(ttft), float(tpot), chosen)
