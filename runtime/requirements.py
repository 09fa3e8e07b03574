"""onnxruntime, or an error that says which package of it this machine needs."""

import re
from collections.abc import Collection
from types import ModuleType
from typing import TYPE_CHECKING

from edgept.errors import MissingDependencyError
from edgept.runtime.providers import load_onnxruntime

if TYPE_CHECKING:
    from edgept.runtime.device import Jetson

__all__ = ["how_to_update", "import_onnxruntime", "is_at_least"]


def import_onnxruntime(minimum: str = "") -> ModuleType:
    """Import onnxruntime.

    Args:
        minimum: lowest version that will do, a manifest's `min_onnxruntime`; "" for any.

    Raises:
        MissingDependencyError: it is missing, does not load or is too old; the message says which
            package this machine needs.
    """
    try:
        onnxruntime = load_onnxruntime()
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime"
        found = "onnxruntime is not installed" if missing else f"onnxruntime does not load: {error}"
        raise MissingDependencyError(f"{found}. {_how_to_install()}") from error
    version = str(onnxruntime.__version__)
    if minimum and not is_at_least(version, minimum):
        raise MissingDependencyError(
            f"onnxruntime {version} is too old: this bundle needs {minimum} or newer. "
            f"{_how_to_update_here(minimum)}"
        )
    return onnxruntime


def is_at_least(version: str, minimum: str) -> bool:
    """Whether a version is not below another, by the numbers before any suffix ("1.23.0+cu126")."""
    return _numbers(version) >= _numbers(minimum)


def _numbers(version: str) -> list[int]:
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    while numbers and numbers[-1] == 0:  # 1.23.0 is 1.23
        numbers.pop()
    return numbers


# Both import inside: they are needed on the way out only, and reading the machine starts nvidia-smi.


def _how_to_install() -> str:
    from edgept.runtime.advice import install_command
    from edgept.runtime.device import read_gpus, read_jetson, read_packages

    jetson, installed = read_jetson(), read_packages()
    if jetson is not None:
        return (
            f"For this Jetson's GPU, get a wheel of onnxruntime-gpu built for {_jetpack(jetson)} and "
            f"run: {install_command(jetson, gpu=True, installed=installed)}; for its CPU alone, run: "
            f"{install_command(jetson, gpu=False, installed=installed)}. 'edgept doctor' tells more."
        )
    command = install_command(None, gpu=bool(read_gpus()), installed=installed)
    return f"Run: {command}. 'edgept doctor' tells more."


def _how_to_update_here(minimum: str) -> str:
    from edgept.runtime.device import read_jetson, read_packages

    return how_to_update(minimum, read_jetson(), read_packages())


def how_to_update(minimum: str, jetson: "Jetson | None", installed: Collection[str]) -> str:
    """A sentence that says how to bring the installed onnxruntime to a version."""
    package = "onnxruntime-gpu" if "onnxruntime-gpu" in installed else "onnxruntime"
    if jetson is not None and package == "onnxruntime-gpu":
        return f"Install a newer wheel of {package} built for {_jetpack(jetson)}."
    return f"Run: pip install '{package}>={minimum}'."


def _jetpack(jetson: "Jetson") -> str:
    return f"JetPack {jetson.jetpack}" if jetson.jetpack else "its JetPack"
