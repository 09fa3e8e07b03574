import dataclasses
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from edgept.runtime.device import (
    Cpu,
    Gpu,
    Jetson,
    Memory,
    read_cpu,
    read_device,
    read_gpus,
    read_jetson,
    read_memory,
    read_packages,
)

X86_CORE = """\
processor	: {number}
vendor_id	: GenuineIntel
model name	: 11th Gen Intel(R) Core(TM) i5-1145G7 @ 2.60GHz
flags		: fpu sse2 avx2 avx512f avx512_vnni{extra}
power management:

"""

ORIN_CORE = """\
processor	: {number}
BogoMIPS	: 62.50
Features	: fp asimd evtstrm aes crc32 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: 0xd42
CPU revision	: 1

"""

MEMINFO = """\
MemTotal:        7802880 kB
MemFree:          300000 kB
MemAvailable:    5120000 kB
HugePages_Total:       0
"""

NVPMODEL_CONF = """\
# < POWER_MODEL ID=9 NAME=COMMENTED >
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< PM_CONFIG DEFAULT=1 >
"""


def put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def put_command(root: Path, name: str, script: str) -> None:
    put(root, {name: f"#!/bin/sh\n{script}\n"})
    (root / name).chmod(0o755)


@pytest.fixture
def x86(tmp_path: Path) -> Path:
    policy = "sys/devices/system/cpu/cpufreq/policy"
    put(
        tmp_path,
        {
            "proc/cpuinfo": "".join(X86_CORE.format(number=n, extra="") for n in range(2)),
            "proc/meminfo": MEMINFO,
            policy + "0/scaling_governor": "powersave\n",
            policy + "0/scaling_driver": "intel_pstate\n",
            policy + "0/scaling_cur_freq": "1200123\n",
            policy + "0/cpuinfo_max_freq": "4400000\n",
            policy + "1/scaling_governor": "powersave\n",
            policy + "1/scaling_cur_freq": "2600000\n",
            policy + "1/cpuinfo_max_freq": "4200000\n",
        },
    )
    return tmp_path


@pytest.fixture
def orin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    put(
        tmp_path,
        {
            "proc/cpuinfo": "".join(ORIN_CORE.format(number=n) for n in range(6)),
            "proc/meminfo": MEMINFO,
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, "
            "EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n",
            "etc/nvpmodel.conf": NVPMODEL_CONF,
            "var/lib/nvpmodel/status": "pmode:0001\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil\n",
            "sys/devices/system/cpu/cpufreq/policy4/scaling_governor": "performance\n",
        },
    )
    put_command(tmp_path, "usr/sbin/nvidia-smi", 'echo "Orin (nvgpu), [N/A], 540.4.0"')
    return tmp_path


def test_x86(x86: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 3})
    assert read_cpu(x86) == Cpu(
        model="11th Gen Intel(R) Core(TM) i5-1145G7 @ 2.60GHz",
        architecture="x86_64",
        cores=3,
        flags=("avx2", "avx512f", "avx512_vnni"),
        governor="powersave",
        driver="intel_pstate",
        mhz=2600,
        max_mhz=4400,
    )
    assert read_memory(x86) == Memory(7802880 * 1024, 5120000 * 1024)
    assert read_jetson(x86) is None
    assert read_gpus(x86) == ()


def test_a_flag_that_only_some_cores_have_does_not_count(x86: Path) -> None:
    cores = X86_CORE.format(number=0, extra=" amx_int8") + X86_CORE.format(number=1, extra="")
    put(x86, {"proc/cpuinfo": cores})
    assert read_cpu(x86).flags == ("avx2", "avx512f", "avx512_vnni")


def test_jetson(orin: Path) -> None:
    cpu = read_cpu(orin)
    assert (cpu.model, cpu.architecture) == ("Cortex-A78AE", "aarch64")
    assert cpu.flags == ("asimd", "asimddp")
    assert cpu.governor == "performance, schedutil"
    assert read_jetson(orin) == Jetson("36.4.3", 6, "25W", {0: "15W", 1: "25W", 2: "MAXN_SUPER"})
    assert read_gpus(orin) == (Gpu("Orin (nvgpu)", None, "540.4.0"),)
    assert read_device(orin).board == "NVIDIA Jetson Orin Nano Developer Kit"


def test_jetson_is_asked_where_its_files_do_not_say(orin: Path) -> None:
    (orin / "var/lib/nvpmodel/status").unlink()
    assert read_jetson(orin) == Jetson("36.4.3", 6, None, {0: "15W", 1: "25W", 2: "MAXN_SUPER"})
    put_command(orin, "usr/sbin/nvpmodel", 'test "$*" = -q && echo "NV Power Mode: 7W" && echo 3')
    jetson = read_jetson(orin)
    assert jetson is not None
    assert jetson.power_mode == "7W"


def test_jetson_in_a_container_without_its_files(tmp_path: Path) -> None:
    put(tmp_path, {"proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0"})
    assert read_jetson(tmp_path) == Jetson("", None, None, {})


def test_unknown_jetson_release(tmp_path: Path) -> None:
    put(tmp_path, {"etc/nv_tegra_release": "# R99 (release), REVISION: 1.0, GCID: 1\n"})
    assert read_jetson(tmp_path) == Jetson("99.1.0", None, None, {})


def test_raspberry_pi_is_no_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    core = ORIN_CORE.format(number=0).replace("0xd42", "0xd0b")
    pi = {"proc/cpuinfo": core, "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"}
    put(tmp_path, pi)
    assert read_jetson(tmp_path) is None
    assert read_cpu(tmp_path).model == "Cortex-A76"


def test_unknown_arm_core_keeps_its_numbers(tmp_path: Path) -> None:
    put(tmp_path, {"proc/cpuinfo": ORIN_CORE.format(number=0).replace("0xd42", "0xfff")})
    assert read_cpu(tmp_path).model == "0x41 0xfff"


def test_memory_is_limited_by_the_container(x86: Path) -> None:
    cgroup = {
        "sys/fs/cgroup/memory.max": f"{1 << 30}\n",
        "sys/fs/cgroup/memory.current": f"{600 << 20}\n",
        "sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {100 << 20}\nactive_file 7\n",
    }
    put(x86, cgroup)
    assert read_memory(x86) == Memory(1 << 30, 524 << 20)
    put(x86, {"sys/fs/cgroup/memory.max": "max\n"})
    assert read_memory(x86) == Memory(7802880 * 1024, 5120000 * 1024)


def test_an_empty_machine_is_described_without_failing(tmp_path: Path) -> None:
    device = read_device(tmp_path)
    assert device.cpu.model == ""
    assert device.cpu.flags == ()
    assert (device.cpu.governor, device.cpu.driver, device.cpu.mhz) == (None, None, None)
    assert device.memory is None
    assert device.jetson is None
    assert device.gpus == ()
    assert device.board == ""


def test_gpus(tmp_path: Path) -> None:
    lines = r"NVIDIA RTX 4000, Ada, 20475, 570.1\nNVIDIA T4, 15360, 570.1"
    put_command(tmp_path, "usr/bin/nvidia-smi", f"printf '{lines}'")
    assert read_gpus(tmp_path) == (
        Gpu("NVIDIA RTX 4000, Ada", 20475 << 20, "570.1"),
        Gpu("NVIDIA T4", 15360 << 20, "570.1"),
    )


@pytest.mark.parametrize(
    "script",
    [
        "echo 'NVIDIA-SMI has failed because it could not communicate with the driver.'; exit 9",
        "echo 'No devices were found'",
        "exit 1",
    ],
)
def test_a_failing_nvidia_smi_means_no_gpu(tmp_path: Path, script: str) -> None:
    put_command(tmp_path, "usr/bin/nvidia-smi", script)
    assert read_gpus(tmp_path) == ()


def test_a_hanging_command_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*args: object, **kwargs: object) -> None:
        assert kwargs["timeout"] == 10
        raise subprocess.TimeoutExpired("nvidia-smi", 10)

    put_command(tmp_path, "usr/bin/nvidia-smi", "exit 0")
    monkeypatch.setattr(subprocess, "run", hang)
    assert read_gpus(tmp_path) == ()


def test_this_machine() -> None:
    device = read_device()
    assert device.cpu.cores >= 1
    assert device.cpu.architecture == platform.machine()
    assert device.memory is None or 0 < device.memory.available_bytes <= device.memory.total_bytes
    assert device.python == platform.python_version()
    assert {"edgept", "numpy"} <= set(device.packages)
    assert "packaging" not in device.packages
    with pytest.raises(dataclasses.FrozenInstanceError):
        device.python = ""  # type: ignore[misc]  # that is the point


def test_packages_are_not_imported() -> None:
    read_packages()
    code = (
        "import sys; from edgept.runtime.device import read_device; "
        "from edgept.runtime.advice import advice; advice(read_device()); "
        "print(sorted({'torch', 'transformers', 'tokenizers', 'onnx'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
