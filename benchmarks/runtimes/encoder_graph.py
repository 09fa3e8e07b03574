"""The same encoder as others run it: through onnxruntime's own optimizer, and in OpenVINO."""

import importlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.files import Files
from benchmarks.runtimes.encoder import INPUTS, EncoderSide, make_encoder

__all__ = ["prepare", "start"]


def prepare(files: Files) -> None:
    """The model as torch.onnx's older exporter writes it, what onnxruntime's optimizer makes of it, and in int8."""
    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer
    from transformers import AutoModel

    plain, fused, int8 = (
        files.folder / f"{name}.onnx" for name in ("plain", "fused", "fused-int8")
    )
    make_encoder(files.model)
    # eager: the attention that the optimizer looks for
    model: Any = AutoModel.from_pretrained(files.model, attn_implementation="eager").eval()

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: torch.Tensor) -> Any:
            return self.model(**dict(zip(INPUTS, inputs, strict=True))).last_hidden_state

    ids = torch.ones(2, 8, dtype=torch.long)
    torch.onnx.export(
        Encoder(),
        (ids, torch.ones_like(ids), torch.zeros_like(ids)),
        str(plain),
        input_names=[*INPUTS],
        output_names=["last_hidden_state"],
        dynamic_axes={name: {0: "batch", 1: "tokens"} for name in (*INPUTS, "last_hidden_state")},
        opset_version=17,
        dynamo=False,
    )
    made: Any = optimizer.optimize_model(
        str(plain),
        model_type="bert",
        num_heads=model.config.num_attention_heads,
        hidden_size=model.config.hidden_size,
        opt_level=0,
    )
    made.save_model_to_file(str(fused))
    quantize_dynamic(
        fused,
        int8,
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Attention"],
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )


def start(files: Files, threads: int, kind: str) -> Any:
    return _Graph(files, threads, kind)


class _Graph(EncoderSide):
    """One graph, its arrays ready, last hidden states only: no pooling, no tokens to put in order."""

    def __init__(self, files: Files, threads: int, kind: str) -> None:
        engine, name, *precision = kind.split()
        path = files.folder / f"{name}.onnx"
        begin = time.perf_counter()
        self._run: Any
        if engine == "onnxruntime":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(str(path), options)
            self._run = lambda feeds: session.run(None, feeds)
        else:
            openvino: Any = importlib.import_module("openvino")
            hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
            hints |= {"INFERENCE_PRECISION_HINT": precision[0]}
            compiled = openvino.Core().compile_model(str(path), "CPU", hints)
            self._run = compiled.create_infer_request().infer
        self.load_ms = (time.perf_counter() - begin) * 1e3
        self.weight_bytes = path.stat().st_size

    def run(self, rows: Sequence[Sequence[int]], prompt: int) -> float:
        """Milliseconds for a batch of equal lengths."""
        if prompt:
            raise ValueError("it takes no prompts")
        ids = np.asarray(rows, np.int64)  # (batch, tokens)
        feeds = dict(zip(INPUTS, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))
        begin = time.perf_counter()
        self._run(feeds)
        return (time.perf_counter() - begin) * 1e3
