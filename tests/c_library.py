"""libedgept for the tests: built once, and what ctypes must know of it."""

import ctypes
import fcntl
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SOURCE = Path(__file__).resolve().parents[1] / "runtime" / "c"
BUILD = SOURCE / "build"


class CError(ctypes.Structure):
    """struct edgept_error."""

    _fields_ = [("reason", ctypes.c_char * 32), ("message", ctypes.c_char * 480)]

    def __str__(self) -> str:
        return f"{self.reason.decode()}: {self.message.decode()}"


def make(*targets: str, **variables: str) -> None:
    """Run make where the C library is; the test is skipped where it cannot be built."""
    for tool in ("make", "cc"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} to build the C library")
    if not (BUILD / "onnxruntime" / "include" / "onnxruntime_c_api.h").is_file():
        pytest.skip("needs onnxruntime's C headers: run runtime/c/setup.sh")
    arguments = [f"{name}={value}" for name, value in variables.items()]
    with (BUILD / "lock").open("w") as lock:  # tests run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            ["make", "-C", str(SOURCE), f"PYTHON={sys.executable}", *arguments, *targets],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout + done.stderr


@cache
def _load() -> ctypes.CDLL:
    make("build/libedgept.so.0.1.0")
    library = ctypes.CDLL(str(BUILD / "libedgept.so"))
    for name in (
        "edgept_version",
        "edgept_prompt_file_metadata",
        "edgept_prompt_file_label",
        "edgept_bundle_task",
        "edgept_bundle_fingerprint",
        "edgept_bundle_label",
        "edgept_prompt_name",
    ):
        if hasattr(library, name):
            getattr(library, name).restype = ctypes.c_char_p
    library.edgept_prompt_file_tensor.restype = ctypes.POINTER(ctypes.c_float)
    library.edgept_prompt_file_label_count.restype = ctypes.c_size_t
    return library


def c_library() -> ctypes.CDLL:
    """The shared library."""
    return _load()


def read_prompt_file(data: bytes | Path, max_bytes: int = 0) -> dict[str, Any] | str:
    """A prompt file as C reads it: its metadata, labels and tensors, or the reason why not."""
    library = c_library()
    file, error = ctypes.c_void_p(), CError()
    if isinstance(data, Path):
        arguments = (str(data).encode(), ctypes.c_size_t(max_bytes))
        status = library.edgept_prompt_file_read(
            *arguments, ctypes.byref(file), ctypes.byref(error)
        )
    else:
        status = library.edgept_prompt_file_parse(
            data,
            ctypes.c_size_t(len(data)),
            ctypes.c_size_t(max_bytes),
            ctypes.byref(file),
            ctypes.byref(error),
        )
    if status:
        assert file.value is None  # out-parameters are set on success only
        assert error.message.endswith((b".", b"?"))
        return error.reason.decode() or f"status {status}"
    found: dict[str, Any] = {}
    for key in ("fingerprint", "method", "task", "name", "base_model", "created_by"):
        value = library.edgept_prompt_file_metadata(file, key.encode())
        found[key] = "" if value is None else value.decode()
    count = library.edgept_prompt_file_label_count(file)
    found["labels"] = tuple(
        library.edgept_prompt_file_label(file, ctypes.c_size_t(index)).decode()
        for index in range(count)
    )
    for name in (
        *("prompt_embeds", "prompt_kv", "head.weight"),
        *("head.bias", "head.dense.weight", "head.dense.bias"),
    ):
        shape, rank = (ctypes.c_size_t * 5)(), ctypes.c_size_t()
        values = library.edgept_prompt_file_tensor(file, name.encode(), shape, ctypes.byref(rank))
        if values:
            found[name] = np.ctypeslib.as_array(values, tuple(shape[: rank.value])).copy()
    library.edgept_prompt_file_free(file)
    return found
