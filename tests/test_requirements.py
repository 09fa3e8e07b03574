import sys

import pytest

from edgept.errors import MissingDependencyError
from edgept.runtime import device
from edgept.runtime.device import Gpu, Jetson
from edgept.runtime.requirements import import_onnxruntime, is_at_least

JETSON = Jetson("36.4.3", 6, None, {})


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without a GPU or packages; a test may add to it."""
    monkeypatch.setattr(device, "read_jetson", lambda: None)
    monkeypatch.setattr(device, "read_gpus", lambda: ())
    monkeypatch.setattr(device, "read_packages", dict)
    return monkeypatch


def test_import() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    assert import_onnxruntime() is onnxruntime
    assert import_onnxruntime(onnxruntime.__version__) is onnxruntime


def test_missing(machine: pytest.MonkeyPatch) -> None:
    machine.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"not installed.*edgept\[cpu\]"):
        import_onnxruntime()
    machine.setattr(device, "read_gpus", lambda: (Gpu("T4", None, "570"),))
    with pytest.raises(MissingDependencyError, match=r"edgept\[gpu\]"):
        import_onnxruntime()
    machine.setattr(device, "read_jetson", lambda: JETSON)
    with pytest.raises(MissingDependencyError, match=r"built for JetPack 6.*edgept\[cpu\]"):
        import_onnxruntime()


def test_does_not_load(machine: pytest.MonkeyPatch) -> None:
    machine.setitem(sys.modules, "onnxruntime", object())
    machine.setattr(device, "read_packages", lambda: {"onnxruntime": "1.31.1"})
    expected = r"does not load.*pip uninstall -y onnxruntime && pip install 'edgept\[cpu\]'"
    with pytest.raises(MissingDependencyError, match=expected):
        import_onnxruntime()


def test_too_old(machine: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(MissingDependencyError, match=r"too old.*pip install 'onnxruntime>=99.1'"):
        import_onnxruntime("99.1")
    machine.setattr(device, "read_packages", lambda: {"onnxruntime-gpu": "1.31.1"})
    with pytest.raises(MissingDependencyError, match=r"'onnxruntime-gpu>=99.1'"):
        import_onnxruntime("99.1")
    machine.setattr(device, "read_jetson", lambda: JETSON)
    with pytest.raises(MissingDependencyError, match=r"newer wheel.*JetPack 6"):
        import_onnxruntime("99.1")


@pytest.mark.parametrize(
    ("version", "minimum", "enough"),
    [
        ("1.23.0", "1.23", True),
        ("1.23", "1.23.0", True),
        ("1.9.0", "1.23", False),
        ("1.100.0", "1.23", True),
        ("1.23.0+cu126", "1.23.0", True),
        ("1.24.0.dev20260101", "1.24", True),
        ("1.22.9rc1", "1.23", False),
        ("2", "1.23", True),
    ],
)
def test_versions_are_compared_by_number(version: str, minimum: str, enough: bool) -> None:
    assert is_at_least(version, minimum) is enough
