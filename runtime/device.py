"""What this device offers a model: its processor, memory, GPU, Jetson settings and packages.

Everything is read from /proc, /sys and /etc, and from two of NVIDIA's commands where they exist.
The functions take the root of the file system, so that tests can describe any machine.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgept.runtime.providers import OnnxRuntime, read_onnxruntime

__all__ = [
    "Cpu",
    "Device",
    "Gpu",
    "Jetson",
    "Memory",
    "read_cpu",
    "read_device",
    "read_gpus",
    "read_jetson",
    "read_memory",
    "read_packages",
]

ROOT = Path("/")
# Those that onnxruntime's matrix kernels (MLAS) choose by, as the kernel spells them.
_FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)
# arm64 kernels give numbers only: (implementer, part), from Arm's technical reference manuals.
_ARM_CORES = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd83"): "Neoverse-V3AE",
    ("0x4e", "0x004"): "Carmel",
}
# Jetson Linux (L4T) major release to JetPack's, from NVIDIA's JetPack archive.
_JETPACK = {32: 4, 35: 5, 36: 6, 38: 7, 39: 7}
_PACKAGES = (
    "edgept",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-genai",
    "onnxruntime-genai-cuda",
    "pillow",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)


@dataclass(frozen=True)
class Cpu:
    """The processor.

    Attributes:
        model: "Cortex-A78AE"; "" where the kernel does not say.
        architecture: "x86_64" or "aarch64".
        cores: how many this process may use.
        flags: the instruction sets that matter to onnxruntime's speed, as the kernel names them.
        governor: cpufreq's, "schedutil"; several joined by a comma; None where not readable.
        driver: cpufreq's, "intel_pstate"; None where not readable.
        mhz: clock now, of the fastest core; None where not readable.
        max_mhz: highest clock of the fastest core; None where not readable.
    """

    model: str
    architecture: str
    cores: int
    flags: tuple[str, ...]
    governor: str | None = None
    driver: str | None = None
    mhz: int | None = None
    max_mhz: int | None = None


@dataclass(frozen=True)
class Memory:
    """Main memory in bytes, within the limit of the container if there is one."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as nvidia-smi lists it; memory_bytes is None where it shares main memory."""

    name: str
    memory_bytes: int | None
    driver: str


@dataclass(frozen=True)
class Jetson:
    """What an NVIDIA Jetson says of itself.

    Attributes:
        l4t: release of Jetson Linux, "36.4.3"; "" where unknown.
        jetpack: JetPack's major release, 6; None where unknown.
        power_mode: "15W", "MAXN_SUPER"; None where not readable.
        power_modes: name by id, as `nvpmodel -m` takes it; empty where not readable.
    """

    l4t: str
    jetpack: int | None
    power_mode: str | None
    power_modes: Mapping[int, str]


@dataclass(frozen=True)
class Device:
    """All of it.

    Attributes:
        board: of a device-tree machine, "Raspberry Pi 5 Model B Rev 1.0"; "" elsewhere.
        cpu: the processor.
        memory: main memory; None where not readable.
        jetson: None on any other machine.
        gpus: NVIDIA GPUs; a Jetson's is listed from JetPack 6 on.
        python: "3.12.3".
        packages: version by name of the installed packages that matter here.
        onnxruntime: the installed one, its version "" where there is none.
    """

    board: str
    cpu: Cpu
    memory: Memory | None
    jetson: Jetson | None
    gpus: tuple[Gpu, ...]
    python: str
    packages: Mapping[str, str]
    onnxruntime: OnnxRuntime


def read_device(root: Path = ROOT) -> Device:
    """Describe this device. Imports onnxruntime, so it takes up to a second or two."""
    return Device(
        board=_board(root),
        cpu=read_cpu(root),
        memory=read_memory(root),
        jetson=read_jetson(root),
        gpus=read_gpus(root),
        python=platform.python_version(),
        packages=read_packages(),
        onnxruntime=read_onnxruntime(),
    )


def read_cpu(root: Path = ROOT) -> Cpu:
    """Describe the processor, from /proc/cpuinfo and cpufreq."""
    # Every core has its paragraph; where they differ (big.LITTLE), a flag must be in all of them.
    cores = [
        dict(re.findall(r"^(.+?)[ \t]*:[ \t]*(.*)$", text, re.MULTILINE))
        for text in _read(root / "proc/cpuinfo").split("\n\n")
    ]
    flags = [set((core.get("flags") or core["Features"]).split()) for core in cores if _has(core)]
    models = dict.fromkeys(filter(None, map(_core_name, cores)))
    policies = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
    governors = sorted({_read(policy / "scaling_governor") for policy in policies} - {""})
    return Cpu(
        model=", ".join(models),
        architecture=platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        flags=tuple(flag for flag in _FLAGS if flags and all(flag in core for core in flags)),
        governor=", ".join(governors) or None,
        driver=next(filter(None, (_read(policy / "scaling_driver") for policy in policies)), None),
        mhz=_highest_mhz(policy / "scaling_cur_freq" for policy in policies),
        max_mhz=_highest_mhz(policy / "cpuinfo_max_freq" for policy in policies),
    )


def _has(core: dict[str, str]) -> bool:
    return "flags" in core or "Features" in core


def _core_name(core: dict[str, str]) -> str:
    part = (core.get("CPU implementer", ""), core.get("CPU part", ""))
    return core.get("model name") or _ARM_CORES.get(part, " ".join(part).strip())


def _highest_mhz(files: Iterator[Path]) -> int | None:
    # cpufreq counts in kHz.
    return max((int(text) // 1000 for text in map(_read, files) if text.isdecimal()), default=None)


def read_memory(root: Path = ROOT) -> Memory | None:
    """Read /proc/meminfo and the container's limit (cgroup v2); None where there is neither."""
    kilobytes = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE))
    if "MemTotal" not in kilobytes or "MemAvailable" not in kilobytes:
        return None
    total, available = (int(kilobytes[name]) * 1024 for name in ("MemTotal", "MemAvailable"))
    cgroup = root / "sys/fs/cgroup"
    limit, used = _read(cgroup / "memory.max"), _read(cgroup / "memory.current")
    if limit.isdecimal() and used.isdecimal():
        # File cache counts as used but is given back on demand.
        cache = re.search(r"^inactive_file (\d+)$", _read(cgroup / "memory.stat"), re.MULTILINE)
        free = int(limit) - int(used) + (int(cache[1]) if cache else 0)
        total, available = min(total, int(limit)), max(0, min(available, free))
    return Memory(total, available)


def read_jetson(root: Path = ROOT) -> Jetson | None:
    """Describe a Jetson's release and power mode; None on any other machine."""
    release = _read(root / "etc/nv_tegra_release")
    if not release and "jetson" not in _board(root).lower():
        return None
    # "# R36 (release), REVISION: 4.3, GCID: ..."
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    modes = re.findall(
        r"^< *POWER_MODEL +ID=(\d+) +NAME=(\S+) *>",
        _read(root / "etc/nvpmodel.conf"),
        re.MULTILINE,
    )
    power_modes = {int(number): name for number, name in modes}
    return Jetson(
        l4t=f"{match[1]}.{match[2]}" if match else "",
        jetpack=_JETPACK.get(int(match[1])) if match else None,
        power_mode=_power_mode(root, power_modes),
        power_modes=power_modes,
    )


def _power_mode(root: Path, power_modes: Mapping[int, str]) -> str | None:
    # The file needs neither root nor nvpmodel, which older releases give to root only.
    status = re.search(r"pmode:(\d+)", _read(root / "var/lib/nvpmodel/status"))
    if status and int(status[1]) in power_modes:
        return power_modes[int(status[1])]
    answer = re.search(r"^NV Power Mode: (\S+)$", _output(root, "nvpmodel", "-q"), re.MULTILINE)
    return answer[1] if answer else None


def read_gpus(root: Path = ROOT) -> tuple[Gpu, ...]:
    """List NVIDIA GPUs with nvidia-smi; empty where that is missing or fails."""
    query = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
    gpus = []
    # "NVIDIA T4, 15360, 570.124.06"; the memory of a Jetson is "[N/A]". Other lines are complaints.
    lines = re.findall(
        r"^(.+), ([^,]+), ([\d.]+)$", _output(root, "nvidia-smi", *query), re.MULTILINE
    )
    for name, mebibytes, driver in lines:
        memory = int(mebibytes) << 20 if mebibytes.isdecimal() else None
        gpus.append(Gpu(name, memory, driver))
    return tuple(gpus)


def read_packages() -> dict[str, str]:
    """Versions of the installed packages that matter here, without importing one of them."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _board(root: Path) -> str:
    return _read(root / "proc/device-tree/model")


def _read(path: Path) -> str:
    """The text of a small kernel file, "" where it is missing or not readable."""
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return ""


def _output(root: Path, command: str, *arguments: str) -> str:
    """What a command of the machine at `root` prints, "" where it is missing or fails."""
    folders = [str(root / folder) for folder in ("usr/bin", "usr/sbin", "usr/lib/wsl/lib")]
    if root == ROOT:
        folders = [os.environ.get("PATH", os.defpath), *folders]
    program = shutil.which(command, path=os.pathsep.join(folders))
    if program is None:
        return ""
    try:
        run = subprocess.run(  # noqa: S603 - a fixed command with fixed arguments
            [program, *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return run.stdout.strip()
