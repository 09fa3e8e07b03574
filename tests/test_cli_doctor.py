import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgept.cli.doctor import doctor, judge
from edgept.errors import UsageError
from edgept.manifest import BundleFile, Manifest
from edgept.runtime import device as device_module
from edgept.runtime.device import Cpu, Device, Gpu, Jetson, Memory
from edgept.runtime.providers import CUDA, OnnxRuntime

CPU = "CPUExecutionProvider"

DEVICE = Device(
    board="",
    cpu=Cpu("Core i5", "x86_64", 8, ("avx2",), "schedutil", "acpi-cpufreq", 1200, 4400),
    memory=Memory(16 << 30, 8 << 30),
    jetson=None,
    gpus=(),
    python="3.12.3",
    packages={"edgept": "0.1.0", "onnxruntime": "1.31.1"},
    onnxruntime=OnnxRuntime("1.31.1", (CPU,)),
)
BARE = replace(DEVICE, packages={}, onnxruntime=OnnxRuntime(error="No module named 'onnxruntime'"))
MANIFEST = Manifest(
    source="tiny",
    architecture="LlamaForCausalLM",
    model_type="llama",
    task="text-generation",
    vocab_size=512,
    hidden_size=64,
    max_positions=512,
    max_virtual_tokens=64,
    kv=None,
    bos_token_id=1,
    eos_token_ids=[2],
    precision="fp32",
    float_type="float32",
    target="cpu",
    providers=[CPU],
    opset={"": 22},
    min_onnxruntime="1.23.0",
    fingerprint="0" * 64,
    created_by="edgept 0.1.0",
    files={"model.onnx": BundleFile(1_000_000, "0" * 64)},
)


def run(monkeypatch: pytest.MonkeyPatch, device: Device, *arguments: str) -> Result:
    monkeypatch.setattr(device_module, "read_device", lambda: device)
    return CliRunner().invoke(doctor, arguments)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "edgept.json").write_text(MANIFEST.to_json())
    return tmp_path


def test_a_device_that_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, DEVICE)
    assert result.exit_code == 0, result.output
    for part in ("Core i5, x86_64, 8 cores usable, 1200 of 4400 MHz", "avx2", "1.31.1", CPU):
        assert part in result.stdout
    assert result.stdout.endswith("nothing to change\n")


def test_a_device_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, BARE)
    assert result.exit_code == 1
    assert "1. no onnxruntime" in result.stdout
    assert "   pip install 'edgept[cpu]'\n" in result.stdout
    assert "nothing to change" not in result.stdout


def test_a_jetson(monkeypatch: pytest.MonkeyPatch) -> None:
    orin = replace(
        DEVICE,
        board="NVIDIA Jetson Orin Nano Developer Kit",
        cpu=Cpu("Cortex-A78AE", "aarch64", 6, ("asimd", "asimddp")),
        jetson=Jetson("36.4.3", 6, "15W", {0: "15W", 2: "MAXN_SUPER"}),
        gpus=(Gpu("Orin [nvgpu]", None, "540.4.0"),),
        packages={"onnxruntime-gpu": "1.31.1"},
        onnxruntime=OnnxRuntime("1.31.1", (CUDA, CPU), broken=(CUDA,)),
    )
    result = run(monkeypatch, orin)
    assert result.exit_code == 0
    assert "JetPack 6, L4T 36.4.3, power mode 15W" in result.stdout
    assert "Orin [nvgpu], shared memory, driver 540.4.0" in result.stdout
    assert f"{CUDA} (does not work here)" in result.stdout
    # A command stands on one line however narrow the terminal is.
    assert "\n   sudo nvpmodel -m 2 && sudo jetson_clocks\n" in result.stdout
    assert "uninstall -y onnxruntime-gpu && pip install ./onnxruntime_gpu-*" in result.stdout


@pytest.mark.parametrize(("device", "code"), [(DEVICE, 0), (BARE, 1)])
def test_json(monkeypatch: pytest.MonkeyPatch, device: Device, code: int) -> None:
    result = run(monkeypatch, device, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == code
    assert report["can_run"] is (code == 0)
    assert report["device"]["cpu"]["flags"] == ["avx2"]
    assert [set(item) for item in report["advice"]] == [{"found", "why", "command"}] * code
    assert report["bundle"] is None


def test_json_of_this_machine() -> None:
    pytest.importorskip("onnxruntime")
    result = CliRunner().invoke(doctor, ["--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["device"]["onnxruntime"]["version"]


def test_bundle(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    result = run(monkeypatch, DEVICE, "--bundle", str(bundle))
    assert result.exit_code == 0
    assert "1.0 MB fits in free memory" in " ".join(result.stdout.split())
    report = json.loads(run(monkeypatch, DEVICE, "--json", "-b", str(bundle)).stdout)
    assert report["bundle"] == {
        "bundle": str(bundle),
        "runs": True,
        "reasons": [],
        "size_bytes": 1_000_000,
        "fits_memory": True,
    }


def test_bundle_that_cannot_run(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    old = replace(DEVICE, onnxruntime=OnnxRuntime("1.20.0", (CPU,)))
    result = run(monkeypatch, old, "--json", "-b", str(bundle))
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["can_run"] is False
    assert report["bundle"]["reasons"] == [
        "it needs onnxruntime 1.23.0 or newer, here is 1.20.0. Run: pip install 'onnxruntime>=1.23.0'."
    ]
    text = " ".join(run(monkeypatch, old, "-b", str(bundle)).stdout.split())
    assert "cannot run here" in text
    assert "nothing to change" not in text


def test_no_bundle_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = run(monkeypatch, DEVICE, "--bundle", str(tmp_path / "missing"))
    assert isinstance(result.exception, UsageError)


def test_judge_providers() -> None:
    for_gpu = replace(MANIFEST, providers=[CUDA, CPU])
    verdict = judge(DEVICE, for_gpu, "b")
    assert verdict.runs
    assert verdict.reasons == [f"it runs on {CPU}, slower than on {CUDA}"]
    only_gpu = replace(MANIFEST, providers=[CUDA])
    assert not judge(DEVICE, only_gpu, "b").runs
    listed = replace(DEVICE, onnxruntime=OnnxRuntime("1.31.1", (CUDA, CPU)))
    assert judge(listed, only_gpu, "b").runs
    broken = replace(DEVICE, onnxruntime=OnnxRuntime("1.31.1", (CUDA, CPU), broken=(CUDA,)))
    assert not judge(broken, only_gpu, "b").runs
    assert judge(BARE, MANIFEST, "b").reasons == ["there is no onnxruntime"]


def test_judge_memory() -> None:
    large = replace(MANIFEST, files={"model.onnx.data": BundleFile(9 << 30, "0" * 64)})
    assert judge(DEVICE, large, "b").fits_memory is False
    assert judge(replace(DEVICE, memory=None), large, "b").fits_memory is None
