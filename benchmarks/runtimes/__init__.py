"""What is compared: every runtime behind the same few calls, each alone in a process of its own.

A runtime's module has `prepare(files)`, which makes what it reads, and a class with

    __init__(files, threads, kind)  loads the model; load_ms is the time without imports
    weight_bytes                    of the files that hold its weights
    load_tasks(count)               makes tasks resident: prompts, or llama.cpp's LoRA adapters
    ask(ids, task, new_tokens)      answers one request greedily, under a task or (None) the plain model
    cold(task)                      milliseconds from a task's file to it being active

`benchmarks.peers` runs them.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

__all__ = ["RUNTIMES", "Answer", "Runtime"]


@dataclass(frozen=True)
class Answer:
    """One request's times.

    Attributes:
        swap_ms: to make the task the request's own, with what a request has to set up for it.
        ttft_ms: from the call to the first token, swap included.
        tpot_ms: per token after the first; 0 with fewer than two.
        token_ids: the new tokens.
    """

    swap_ms: float
    ttft_ms: float
    tpot_ms: float
    token_ids: list[int]

    @staticmethod
    def timed(begin: float, swapped: float, first: float, end: float, ids: list[int]) -> "Answer":
        """From times of the monotonic clock in seconds."""
        rest = len(ids) - 1
        tpot = (end - first) * 1e3 / rest if rest > 0 else 0.0
        return Answer((swapped - begin) * 1e3, (first - begin) * 1e3, tpot, ids)


class Runtime(NamedTuple):
    """One line of a table.

    Attributes:
        title: what it is called there.
        module: in this package.
        kind: the weights' type, for runtimes that have several.
    """

    title: str
    module: str
    kind: str

    def prepare(self, files: Any) -> None:
        """Make the files that it reads."""
        import_module(f"benchmarks.runtimes.{self.module}").prepare(files)

    def start(self, files: Any, threads: int) -> Any:
        """Load the model."""
        return import_module(f"benchmarks.runtimes.{self.module}").start(files, threads, self.kind)


RUNTIMES = {
    "edgept": Runtime("edgept, int4", "edgept_int4", "int4"),
    "edgept-c": Runtime("edgept in C, int4", "edgept_int4", "c"),
    "genai": Runtime("onnxruntime-genai, same file", "genai", "int4"),
    "llama-q4": Runtime("llama.cpp, Q4_0", "llama", "Q4_0"),
    "llama-q8": Runtime("llama.cpp, Q8_0", "llama", "Q8_0"),
    "openvino": Runtime("OpenVINO GenAI, Q4_0", "openvino", "Q4_0"),
    "peft-bf16": Runtime("peft on PyTorch, bfloat16", "pytorch", "bfloat16"),
    "peft-fp32": Runtime("peft on PyTorch, float32", "pytorch", "float32"),
    "encoder": Runtime("edgept, float32", "encoder", "fp32"),
    "encoder-int8": Runtime("edgept, int8 weights", "encoder", "int8"),
    "encoder-dynamic": Runtime("edgept, int8-dynamic", "encoder", "int8-dynamic"),
    "encoder-fused": Runtime(
        "onnxruntime's optimizer, float32", "encoder_graph", "onnxruntime fused"
    ),
    "encoder-fused-int8": Runtime(
        "onnxruntime's optimizer, dynamic int8", "encoder_graph", "onnxruntime fused-int8"
    ),
    "encoder-openvino": Runtime("OpenVINO, float32", "encoder_graph", "openvino plain f32"),
    "vision": Runtime("edgept, float32", "vision", "fp32"),
    "vision-dynamic": Runtime("edgept, int8-dynamic", "vision", "int8-dynamic"),
    "vision-onnxruntime": Runtime(
        "onnxruntime on the plain export, float32", "vision_graph", "onnxruntime"
    ),
    "vision-openvino": Runtime("OpenVINO, float32", "vision_graph", "openvino"),
    "vision-pytorch": Runtime("PyTorch, float32", "vision_graph", "pytorch"),
    "encoder-openvino-bf16": Runtime("OpenVINO, bfloat16", "encoder_graph", "openvino plain bf16"),
}
