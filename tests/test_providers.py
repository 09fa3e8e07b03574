import sys
from types import ModuleType, SimpleNamespace

import onnx
import pytest
from onnx import TensorProto, helper

from edgept.runtime import providers
from edgept.runtime.providers import CUDA, OnnxRuntime, load_onnxruntime, read_onnxruntime

onnxruntime = pytest.importorskip("onnxruntime")


def fake_onnxruntime(session: type) -> ModuleType:
    """An onnxruntime-gpu whose sessions are `session`."""
    module = ModuleType("onnxruntime")
    vars(module).update(
        __version__="1.31.1",
        InferenceSession=session,
        SessionOptions=SimpleNamespace,
        get_available_providers=lambda: [CUDA, "CPUExecutionProvider"],
        set_default_logger_severity=lambda level: None,
        preload_dlls=lambda: sys.stdout.write("Failed to load libcudnn.so.9"),
    )
    return module


class WorkingSession:
    def __init__(self, model: bytes, options: object, **kwargs: object) -> None:
        session_options = onnxruntime.SessionOptions()
        self.session = onnxruntime.InferenceSession(model, session_options)

    def get_providers(self) -> list[str]:
        return [CUDA, "CPUExecutionProvider"]

    def run(self, names: None, feeds: object) -> object:
        return self.session.run(names, feeds)


class SilentFallback(WorkingSession):
    """CUDA's libraries are missing: onnxruntime logs it and uses the CPU."""

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


class NoKernelForThisGpu(WorkingSession):
    def run(self, names: None, feeds: object) -> object:
        raise RuntimeError("cudaErrorNoKernelImageForDevice")


def test_installed_onnxruntime() -> None:
    runtime = read_onnxruntime()
    assert runtime.version == onnxruntime.__version__
    assert "CPUExecutionProvider" in runtime.working
    assert runtime.error == ""


def test_the_probe_is_the_model_that_it_says() -> None:
    model = onnx.load_from_string(providers._ADD)
    onnx.checker.check_model(model)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
    assert model.graph == graph
    assert providers._runs(onnxruntime, "CPUExecutionProvider")


@pytest.mark.parametrize(
    ("session", "broken"),
    [(WorkingSession, ()), (SilentFallback, (CUDA,)), (NoKernelForThisGpu, (CUDA,))],
)
def test_a_listed_provider_is_tried(
    session: type,
    broken: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", fake_onnxruntime(session))
    runtime = read_onnxruntime()
    assert runtime == OnnxRuntime("1.31.1", (CUDA, "CPUExecutionProvider"), broken)
    assert (CUDA in runtime.working) == (not broken)
    assert capfd.readouterr().out == ""


def test_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    runtime = read_onnxruntime()
    assert (runtime.version, runtime.providers, runtime.working) == ("", (), ())
    assert "onnxruntime" in runtime.error


def test_an_emptied_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    with pytest.raises(ImportError, match="incomplete"):
        load_onnxruntime()
