"""onnxruntime as it is installed here, and which of its execution providers really run."""

import contextlib
import importlib
import io
from dataclasses import dataclass
from types import ModuleType

__all__ = ["CUDA", "OnnxRuntime", "load_onnxruntime", "read_onnxruntime"]

CUDA = "CUDAExecutionProvider"

# A whole ONNX model: y = x + x over float [1], opset 13. Small enough to stand here; the device has
# no onnx package to build one with.
_ADD = bytes.fromhex(
    "08083a350a0e0a01780a017812017922034164641201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a"
    "08080112040a02080142040a00100d"
)


@dataclass(frozen=True)
class OnnxRuntime:
    """The installed onnxruntime.

    Attributes:
        version: "1.31.1"; "" when it cannot be imported.
        providers: execution providers that it was compiled with, best first.
        broken: those of `providers` that failed to add two numbers here. Only CUDA is tried: a build
            lists it where CUDA's libraries are missing, or have no kernels for this GPU, and then
            runs everything on the CPU.
        error: why it cannot be imported, "" when it can.
    """

    version: str = ""
    providers: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    error: str = ""

    @property
    def working(self) -> tuple[str, ...]:
        """The providers that run here, best first."""
        return tuple(name for name in self.providers if name not in self.broken)


def load_onnxruntime() -> ModuleType:
    """Import onnxruntime, and the CUDA libraries that pip installed, where there are any.

    Raises:
        ImportError: it is missing or does not load.
    """
    onnxruntime = importlib.import_module("onnxruntime")
    # An interrupted pip leaves a folder without code, which Python imports as a namespace package.
    if not hasattr(onnxruntime, "InferenceSession"):
        raise ImportError("the installed onnxruntime has no InferenceSession: it is incomplete")
    if CUDA in onnxruntime.get_available_providers() and hasattr(onnxruntime, "preload_dlls"):
        # It reports on stdout what it does not find; read_onnxruntime finds out what that breaks.
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    return onnxruntime


def read_onnxruntime() -> OnnxRuntime:
    """Describe the installed onnxruntime; imports it, and runs one addition on a GPU provider."""
    try:
        onnxruntime = load_onnxruntime()
    except ImportError as error:
        return OnnxRuntime(error=str(error))
    providers = tuple(onnxruntime.get_available_providers())
    broken = (CUDA,) if CUDA in providers and not _runs(onnxruntime, CUDA) else ()
    return OnnxRuntime(onnxruntime.__version__, providers, broken)


def _runs(onnxruntime: ModuleType, provider: str) -> bool:
    import numpy as np

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the failure is our answer, not something to log
    onnxruntime.set_default_logger_severity(4)
    try:
        session = onnxruntime.InferenceSession(
            _ADD, options, providers=[provider], enable_fallback=0
        )
        if provider not in session.get_providers():
            return False
        (y,) = session.run(None, {"x": np.ones(1, np.float32)})  # (1,)
    except Exception:  # noqa: BLE001 - onnxruntime's errors share no base; any of them means "no"
        return False
    finally:
        onnxruntime.set_default_logger_severity(2)
    return bool(y[0] == 2)
