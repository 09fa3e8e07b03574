from dataclasses import replace

import pytest

from edgept.runtime.advice import advice, install_command
from edgept.runtime.device import Cpu, Device, Gpu, Jetson, Memory
from edgept.runtime.providers import CUDA, OnnxRuntime

CPU = "CPUExecutionProvider"
MODES = {0: "15W", 1: "25W", 2: "MAXN_SUPER"}

LAPTOP = Device(
    board="",
    cpu=Cpu("Core i5", "x86_64", 8, ("avx2",), governor="schedutil"),
    memory=Memory(16 << 30, 8 << 30),
    jetson=None,
    gpus=(),
    python="3.12.3",
    packages={"edgept": "0.1.0", "onnxruntime": "1.31.1", "onnxruntime-genai": "0.18.0"},
    onnxruntime=OnnxRuntime("1.31.1", (CPU,)),
)
ORIN = replace(
    LAPTOP,
    board="NVIDIA Jetson Orin Nano Developer Kit",
    cpu=Cpu("Cortex-A78AE", "aarch64", 6, ("asimd", "asimddp"), governor="schedutil"),
    jetson=Jetson("36.4.3", 6, "MAXN_SUPER", MODES),
    packages={"edgept": "0.1.0", "onnxruntime-gpu": "1.31.1"},
    onnxruntime=OnnxRuntime("1.31.1", (CUDA, CPU)),
)
GPU = Gpu("NVIDIA T4", 15360 << 20, "570.1")
NOTHING = OnnxRuntime(error="No module named 'onnxruntime'")


@pytest.mark.parametrize("device", [LAPTOP, ORIN])
def test_nothing_to_change(device: Device) -> None:
    assert advice(device) == []


def test_no_onnxruntime() -> None:
    bare = replace(LAPTOP, packages={"edgept": "0.1.0"}, onnxruntime=NOTHING)
    (item,) = advice(bare)
    assert (item.found, item.command) == ("no onnxruntime", "pip install 'edgept[cpu]'")
    (item,) = advice(replace(bare, gpus=(GPU,)))
    assert item.command == "pip install 'edgept[gpu]'"


def test_no_onnxruntime_on_a_jetson() -> None:
    (item,) = advice(replace(ORIN, packages={"edgept": "0.1.0"}, onnxruntime=NOTHING))
    assert "JetPack 6 and Python 3.12.3" in item.why
    assert item.command.startswith("pip install ./onnxruntime_gpu-")
    assert "edgept[gpu]" not in item.command


def test_onnxruntime_that_does_not_load() -> None:
    (item,) = advice(replace(LAPTOP, onnxruntime=OnnxRuntime(error="libfoo.so: not found")))
    assert "libfoo.so" in item.found
    assert item.command == "pip uninstall -y onnxruntime && pip install 'edgept[cpu]'"


def test_onnxruntime_without_cuda_beside_a_gpu() -> None:
    (item,) = advice(replace(LAPTOP, gpus=(GPU,)))
    assert "NVIDIA T4" in item.found
    assert item.command == "pip uninstall -y onnxruntime && pip install 'edgept[gpu]'"
    (item,) = advice(replace(ORIN, onnxruntime=OnnxRuntime("1.31.1", (CPU,))))
    assert ORIN.board in item.found
    assert "linux_aarch64.whl" in item.command


def test_cuda_that_is_listed_but_fails() -> None:
    broken = OnnxRuntime("1.31.1", (CUDA, CPU), broken=(CUDA,))
    server = replace(LAPTOP, gpus=(GPU,), packages={"onnxruntime-gpu": "1.31.1"})
    assert advice(replace(server, onnxruntime=OnnxRuntime("1.31.1", (CUDA, CPU)))) == []
    (item,) = advice(replace(server, onnxruntime=broken))
    assert item.command == "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    (item,) = advice(replace(ORIN, onnxruntime=broken))
    assert item.command.startswith("pip uninstall -y onnxruntime-gpu && pip install ./onnx")


def test_two_flavours_at_once() -> None:
    packages = {"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.31.1", "onnxruntime-genai": "0.18.0"}
    (item,) = advice(replace(LAPTOP, packages=packages))
    assert "onnxruntime and onnxruntime-gpu" in item.found
    expected = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'edgept[cpu]'"
    assert item.command == expected


def test_governor() -> None:
    slow = replace(LAPTOP.cpu, governor="powersave", driver="acpi-cpufreq")
    (item,) = advice(replace(LAPTOP, cpu=slow))
    assert "powersave" in item.found
    assert "scaling_governor" in item.command
    # intel_pstate's governor of that name follows the load.
    assert advice(replace(LAPTOP, cpu=replace(slow, driver="intel_pstate"))) == []


@pytest.mark.parametrize(
    ("mode", "modes", "command"),
    [
        ("15W", MODES, "sudo nvpmodel -m 2 && sudo jetson_clocks"),
        ("MAXN", {0: "MAXN", 1: "15W"}, None),
        ("7W", {0: "15W", 1: "7W"}, "sudo nvpmodel -m 0 && sudo jetson_clocks"),
        ("15W", {0: "15W", 1: "7W"}, None),
        (
            "MODE_15W_2CORE",
            {0: "MODE_15W_2CORE", 8: "MODE_20W_6CORE"},
            "sudo nvpmodel -m 8 && sudo jetson_clocks",
        ),
        ("15W", {}, None),
        (None, MODES, None),
    ],
)
def test_power_mode(mode: str | None, modes: dict[int, str], command: str | None) -> None:
    jetson = Jetson("36.4.3", 6, mode, modes)
    found = [item.command for item in advice(replace(ORIN, jetson=jetson))]
    assert found == ([] if command is None else [command])


def test_little_memory() -> None:
    (item,) = advice(replace(LAPTOP, memory=Memory(2_000_000_000, 500_000_000)))
    assert item.found == "500 MB of 2000 MB memory are free"
    assert advice(replace(LAPTOP, memory=None)) == []


def test_instructions_that_int4_needs() -> None:
    (item,) = advice(replace(LAPTOP, cpu=Cpu("Atom", "x86_64", 2, ("avx512f",))))
    assert "AVX2" in item.found
    (item,) = advice(replace(ORIN, cpu=Cpu("Cortex-A72", "aarch64", 4, ("asimd",))))
    assert "dot product" in item.found
    # Nothing is claimed of a CPU whose flags could not be read, or of another architecture.
    assert advice(replace(LAPTOP, cpu=Cpu("", "x86_64", 2, ()))) == []
    assert advice(replace(LAPTOP, cpu=Cpu("", "riscv64", 2, ("asimd",)))) == []


def test_install_command_for_a_jetsons_cpu() -> None:
    assert install_command(ORIN.jetson, gpu=False, installed=()) == "pip install 'edgept[cpu]'"
