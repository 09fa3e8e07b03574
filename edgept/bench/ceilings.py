"""What this machine would allow at best: memory read and arithmetic, measured here and now."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgept.manifest import Manifest
from edgept.runtime.device import read_memory
from edgept.runtime.model import Model
from edgept.runtime.providers import load_onnxruntime

__all__ = ["Ceilings", "measure_ceilings"]

_READ_BYTES = 256 << 20  # several times any cache
_SIZE = 1024  # rows and columns of the products
_TRIES = 5
_WEIGHT_BITS = {"fp32": 32, "fp16": 16, "int8": 8, "int8-dynamic": 8, "int4": 4}
_BLOCK_SIZE = 32  # of bundles that do not say


@dataclass(frozen=True)
class Ceilings:
    """Lower limits of two phases.

    Attributes:
        read_bytes_per_s: measured memory read, with the model's threads or on its device.
        operations_per_s: measured float32 matrix products of onnxruntime; a multiplication and an
            addition are two.
        token_bytes: the weight files and the keys and values of a request. An input embedding with
            weights of its own is in the files though a token reads one row of it. None of pictures.
        prefill_operations: about two for each weight and token, and the head once: only the last
            token's logits are wanted. Weights are counted by the files' bytes, so an input embedding with
            weights of its own, which nothing multiplies, tables of the graph, and what stays floats beside
            integers count too much. Attention's own products are left out.
        tpot_ms: time to read token_bytes; None of pictures.
        prefill_ms: time for prefill_operations; of pictures, of the run.
    """

    read_bytes_per_s: float
    operations_per_s: float
    token_bytes: int | None
    prefill_operations: float
    tpot_ms: float | None
    prefill_ms: float


def measure_ceilings(model: Model, *, prefill_tokens: int, length: int | None) -> Ceilings:
    """Measure them; about a second.

    Args:
        model: whose threads and provider count.
        prefill_tokens: of a request; of pictures, virtual tokens and patches of all rows.
        length: of its sequence half way through the answer; None where no tokens are generated.
    """
    manifest = model.manifest
    weights = sum(
        file.size for name, file in manifest.files.items() if name.startswith("model.onnx")
    )
    on_cpu = model.providers[0] == "CPUExecutionProvider"
    read = _read_memory(model.threads) if on_cpu else _read_device(model)
    seconds = _product_seconds(model, _SIZE, _SIZE, _SIZE)
    operations = 2 * _SIZE**3 / seconds
    token_bytes = None if length is None else weights + _kv_bytes(manifest, length)
    prefill = _prefill_operations(manifest, weights, prefill_tokens)
    return Ceilings(
        read_bytes_per_s=read,
        operations_per_s=operations,
        token_bytes=token_bytes,
        prefill_operations=prefill,
        tpot_ms=None if token_bytes is None else token_bytes / read * 1e3,
        prefill_ms=prefill / operations * 1e3,
    )


def _prefill_operations(manifest: Manifest, weight_bytes: int, tokens: int) -> float:
    bits = _WEIGHT_BITS[manifest.precision]
    each = bits / 8
    if manifest.precision in ("int8", "int4"):  # a block's scale
        scale = np.dtype(manifest.float_type).itemsize
        each += scale / (manifest.block_size or _BLOCK_SIZE)
    head = manifest.vocab_size * manifest.hidden_size
    return 2 * ((weight_bytes / each - head) * tokens + head)


def _kv_bytes(manifest: Manifest, length: int) -> int:
    kv = manifest.kv
    if kv is None:
        return 0
    width = np.dtype(manifest.float_type).itemsize
    return 2 * kv.num_layers * kv.num_kv_heads * kv.head_dim * length * width


def _read_memory(threads: int) -> float:
    memory = read_memory()
    size = _READ_BYTES if memory is None else min(_READ_BYTES, memory.available_bytes // 4)
    parts = [np.ones(size // 4 // threads, np.float32) for _ in range(threads)]  # (floats,) each
    with ThreadPoolExecutor(threads) as pool:  # numpy lets others run while it reads
        seconds = _best(lambda: list(pool.map(np.max, parts)))
    return sum(part.nbytes for part in parts) / seconds


def _read_device(model: Model) -> float:
    """A product of one row with a large matrix reads the matrix once."""
    rows, columns = 4096, _READ_BYTES // 4 // 4096
    return rows * columns * 4 / _product_seconds(model, 1, rows, columns)


def _product_seconds(model: Model, m: int, k: int, n: int) -> float:
    """Time of a (m, k) by (k, n) product in onnxruntime, on the model's provider and threads."""
    onnxruntime: Any = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = model.threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        _product_model(), options, providers=model.providers, enable_fallback=0
    )
    device = "cuda" if model.providers[0].startswith(("CUDA", "Tensorrt")) else "cpu"
    binding = session.io_binding()
    for name, shape in (("a", (m, k)), ("b", (k, n))):
        array = np.full(shape, 0.5, np.float32)
        value = onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0)
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("y", device)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return _best(run)


def _best(work: Callable[[], object]) -> float:
    seconds = float("inf")
    for _ in range(_TRIES):
        begin = time.perf_counter_ns()
        work()
        seconds = min(seconds, (time.perf_counter_ns() - begin) / 1e9)
    return seconds


def _product_model() -> bytes:
    """A whole ONNX model, y = a @ b over float matrices, opset 13; a device has no onnx package."""

    def field(number: int, value: bytes | int) -> bytes:
        if isinstance(value, int):
            return bytes([number << 3, value])
        return bytes([number << 3 | 2, len(value)]) + value

    def matrix(name: bytes) -> bytes:
        dims = field(1, field(2, name + b"0")) + field(1, field(2, name + b"1"))
        tensor = field(1, 1) + field(2, dims)  # elem_type float, shape
        return field(1, name) + field(2, field(1, tensor))

    node = field(1, b"a") + field(1, b"b") + field(2, b"y") + field(4, b"MatMul")
    graph = field(1, node) + field(2, b"g")
    graph += field(11, matrix(b"a")) + field(11, matrix(b"b")) + field(12, matrix(b"y"))
    return field(1, 8) + field(7, graph) + field(8, field(1, b"") + field(2, 13))
