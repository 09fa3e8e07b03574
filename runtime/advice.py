"""What to install or change on a device so that it runs models, or runs them faster."""

import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from edgept.runtime.device import Cpu, Device, Jetson
from edgept.runtime.providers import CUDA

__all__ = ["Advice", "advice", "install_command"]

_LITTLE_MEMORY_BYTES = 1 << 30
# Drivers whose "powersave" governor follows the load, unlike cpufreq's own, which pins the lowest clock.
_DRIVERS_WITH_OWN_POWERSAVE = ("intel_pstate", "amd-pstate-epp")


@dataclass(frozen=True)
class Advice:
    """One thing to change.

    Attributes:
        found: what the device has now.
        why: what that costs.
        command: what to run, for a shell.
    """

    found: str
    why: str
    command: str


def advice(device: Device) -> list[Advice]:
    """What is worth changing on a device, most important first; empty when nothing is."""
    return [
        *_about_onnxruntime(device),
        *_about_memory(device),
        *_about_clocks(device.cpu, device.jetson),
        *_about_instructions(device.cpu),
    ]


def install_command(jetson: Jetson | None, *, gpu: bool, installed: Collection[str]) -> str:
    """The command that installs the right onnxruntime, in place of what is installed.

    Args:
        jetson: the Jetson, None on any other machine.
        gpu: whether there is an NVIDIA GPU to use.
        installed: names of the installed packages.
    """
    if jetson is not None and gpu:
        # The aarch64 wheel of onnxruntime-gpu in the package index is for servers: it installs, and
        # has no kernels for a Jetson's GPU (1.31.1: sm_89, 90, 120, 121; an Orin is sm_87).
        tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
        install = f"pip install ./onnxruntime_gpu-*-{tag}-{tag}-linux_aarch64.whl"
    else:
        install = f"pip install 'edgept[{'gpu' if gpu else 'cpu'}]'"
    flavours = _flavours(installed)
    return f"pip uninstall -y {' '.join(flavours)} && {install}" if flavours else install


def _flavours(installed: Collection[str]) -> list[str]:
    """The installed packages that all bring the same onnxruntime folder; genai is another one."""
    return [
        name
        for name in installed
        if name.startswith("onnxruntime") and not name.startswith("onnxruntime-genai")
    ]


def _about_onnxruntime(device: Device) -> Iterator[Advice]:
    runtime = device.onnxruntime
    has_gpu = bool(device.gpus) or device.jetson is not None
    install = install_command(device.jetson, gpu=has_gpu, installed=device.packages)
    flavours = _flavours(device.packages)
    if len(flavours) > 1:
        yield Advice(
            f"{' and '.join(flavours)} are installed together",
            "they overwrite each other's files: which one runs depends on which came last",
            install,
        )
    elif not runtime.version:
        found = f"onnxruntime does not load: {runtime.error}" if flavours else "no onnxruntime"
        yield Advice(found, f"without it no model runs{_wheel_note(device)}", install)
    elif has_gpu and CUDA not in runtime.providers:
        gpu = device.gpus[0].name if device.gpus else device.board or "a Jetson"
        yield Advice(
            f"an onnxruntime without CUDA on a machine with an NVIDIA GPU ({gpu})",
            f"models run on the CPU only{_wheel_note(device)}",
            install,
        )
    if CUDA in runtime.broken:
        yield Advice(
            "this onnxruntime lists CUDA, but an addition on it fails",
            "libraries of CUDA or cuDNN are missing, or this build has no kernels for this GPU; "
            f"models fall back on the CPU{_wheel_note(device)}",
            install if device.jetson else "pip install 'onnxruntime-gpu[cuda,cudnn]'",
        )


def _wheel_note(device: Device) -> str:
    if device.jetson is None:
        return ""
    jetpack = f"JetPack {device.jetson.jetpack}" if device.jetson.jetpack else "its JetPack"
    return (
        f"; a Jetson needs an onnxruntime-gpu wheel that was built for {jetpack} and Python "
        f"{device.python}: see NVIDIA's Jetson Zoo and Jetson AI Lab, or build one. For the CPU "
        "alone, 'edgept[cpu]' is enough"
    )


def _about_memory(device: Device) -> Iterator[Advice]:
    memory = device.memory
    if memory is not None and memory.available_bytes < _LITTLE_MEMORY_BYTES:
        yield Advice(
            f"{memory.available_bytes / 1e6:.0f} MB of {memory.total_bytes / 1e6:.0f} MB memory are free",
            "a model that does not fit is killed or swaps",
            "ps aux --sort=-rss | head",
        )


def _about_clocks(cpu: Cpu, jetson: Jetson | None) -> Iterator[Advice]:
    if (
        cpu.governor is not None
        and "powersave" in cpu.governor
        and cpu.driver not in _DRIVERS_WITH_OWN_POWERSAVE
    ):
        yield Advice(
            f"CPU governor {cpu.governor}",
            "it holds the cores at their lowest clock",
            "echo performance | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor",
        )
    if jetson is None or jetson.power_mode is None:
        return
    best = max(jetson.power_modes, key=lambda mode: _budget(jetson.power_modes[mode]), default=None)
    if best is not None and _budget(jetson.power_mode) < _budget(jetson.power_modes[best]):
        yield Advice(
            f"power mode {jetson.power_mode}",
            f"{jetson.power_modes[best]} allows higher clocks and more cores, for more power and heat",
            f"sudo nvpmodel -m {best} && sudo jetson_clocks",
        )


def _budget(power_mode: str) -> float:
    """Watts in a power mode's name ("15W", "MODE_30W_ALL"); MAXN and MAXN_SUPER have no limit."""
    if power_mode.upper().startswith("MAXN"):
        return float("inf")
    watts = [
        int(part.rstrip("W"))
        for part in power_mode.upper().split("_")
        if part.endswith("W") and part.rstrip("W").isdecimal()
    ]
    return max(watts, default=0)


def _about_instructions(cpu: Cpu) -> Iterator[Advice]:
    needed = {"x86_64": ("avx2", "AVX2"), "aarch64": ("asimddp", "dot product (asimddp)")}
    flag, name = needed.get(cpu.architecture, ("", ""))
    if flag and cpu.flags and flag not in cpu.flags:
        yield Advice(
            f"a CPU without {name} instructions",
            "onnxruntime's int4 kernels are built on them; without, int4 weights are unpacked to "
            "float at every step and a model in fp32 may be faster, if it fits",
            "edgept export MODEL --precision fp32",
        )
