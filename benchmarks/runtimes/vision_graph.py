"""The same vision transformer as others run it: PyTorch, onnxruntime and OpenVINO on torch.onnx's plain export."""

import importlib
import time
from typing import Any

import numpy as np

from benchmarks.files import Files
from benchmarks.runtimes.vision import SIDE, VisionSide, make_vision, pictures

__all__ = ["prepare", "start"]


def prepare(files: Files) -> None:
    """The transformers model's own forward through torch.onnx, as its documentation has it."""
    import torch
    from transformers import AutoModel

    make_vision(files.model, files.shape)
    loader: Any = AutoModel
    model = loader.from_pretrained(files.model, add_pooling_layer=False).eval()

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> Any:
            return self.model(pixel_values=pixel_values).last_hidden_state

    program: Any = torch.onnx.export(
        Plain(),
        (torch.zeros(2, 3, SIDE, SIDE),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.AUTO},),
        input_names=["pixel_values"],
        output_names=["last_hidden_state"],
        verbose=False,
    )
    program.save(files.folder / "plain.onnx")


def start(files: Files, threads: int, kind: str) -> Any:
    return _Plain(files, threads, kind)


class _Plain(VisionSide):
    """The plain model: it has no prompt, and gives its last hidden states."""

    def __init__(self, files: Files, threads: int, kind: str) -> None:
        path = files.folder / "plain.onnx"
        begin = time.perf_counter()
        self._run: Any
        if kind == "pytorch":
            import torch
            from transformers import AutoModel

            torch.set_num_threads(threads)
            loader: Any = AutoModel
            model = loader.from_pretrained(files.model, add_pooling_layer=False).eval()

            def run(pixels: Any) -> None:
                with torch.inference_mode():
                    model(pixel_values=torch.from_numpy(pixels))

            self._run = run
        elif kind == "onnxruntime":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(str(path), options)
            self._run = lambda pixels: session.run(None, {"pixel_values": pixels})
        else:
            openvino: Any = importlib.import_module("openvino")
            hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
            hints |= {"INFERENCE_PRECISION_HINT": "f32"}
            compiled = openvino.Core().compile_model(str(path), "CPU", hints)
            request = compiled.create_infer_request()
            self._run = lambda pixels: request.infer({"pixel_values": pixels})
        self.load_ms = (time.perf_counter() - begin) * 1e3
        self.weight_bytes = (files.model / "model.safetensors").stat().st_size

    def run(self, count: int, virtual_tokens: int, seed: int) -> float:
        """Milliseconds for a batch."""
        if virtual_tokens:
            raise ValueError("it takes no prompts")
        pixels = np.concatenate([pictures(1, seed + row) for row in range(count)])
        begin = time.perf_counter()
        self._run(pixels)
        return (time.perf_counter() - begin) * 1e3
