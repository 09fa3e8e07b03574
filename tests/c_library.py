"""libedgept for the tests: built once, and what ctypes must know of it."""

import ctypes
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgept.runtime.c_header import (
    ON_TOKEN,
    CBundleOptions,
    CClassification,
    CError,
    CGenerateOptions,
    CGeneration,
    CImage,
    CLatency,
    COutputs,
    CSight,
    declare,
)

SOURCE = Path(__file__).resolve().parents[1] / "runtime" / "c"
BUILD = SOURCE / "build"


def make(*targets: str, **variables: str) -> None:
    """Run make where the C library is; the test is skipped where it cannot be built."""
    for tool in ("make", "cc"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} to build the C library")
    if not (BUILD / "onnxruntime" / "include" / "onnxruntime_c_api.h").is_file():
        pytest.skip("needs onnxruntime's C headers: run runtime/c/setup.sh")
    if not (BUILD / "onnxruntime" / "lib" / "libonnxruntime.so").exists():
        environment = {**os.environ, "PYTHON": sys.executable}
        linked = subprocess.run([SOURCE / "setup.sh"], env=environment, capture_output=True)
        if linked.returncode:
            pytest.skip("needs onnxruntime's library: pip install onnxruntime")
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
    # the library asks for it by its name, and leaves it to the system where that is
    ctypes.CDLL(str(BUILD / "onnxruntime" / "lib" / "libonnxruntime.so.1"), ctypes.RTLD_GLOBAL)
    return declare(ctypes.CDLL(str(BUILD / "libedgept.so")))


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
        *("head.bias", "head.dense.weight", "head.dense.bias", "box.weight", "box.bias"),
    ):
        shape, rank = (ctypes.c_size_t * 5)(), ctypes.c_size_t()
        values = library.edgept_prompt_file_tensor(file, name.encode(), shape, ctypes.byref(rank))
        if values:
            found[name] = np.ctypeslib.as_array(values, tuple(shape[: rank.value])).copy()
    library.edgept_prompt_file_free(file)
    return found


class CStatusError(Exception):
    """A call failed.

    Attributes:
        status: enum edgept_status.
        reason: of a broken rule.
    """

    def __init__(self, status: int, error: CError) -> None:
        super().__init__(error.message.decode())
        self.status, self.reason = status, error.reason.decode()


FINISH = ("eos", "stop", "length", "full", "cancelled")


def _ids(ids: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(ids))(*ids)


def _array(pointer: Any, *shape: int) -> npt.NDArray[Any]:
    return np.ctypeslib.as_array(pointer, shape).copy()


class CModel:
    """A bundle and one session, through the C library."""

    def __init__(self, bundle: Path, **options: Any) -> None:
        self.library = c_library()
        self.bundle, self.session = ctypes.c_void_p(), ctypes.c_void_p()
        self.prompts: list[ctypes.c_void_p] = []
        chosen = CBundleOptions(**{"threads": 1, **options})
        self.call("bundle_open", str(bundle).encode(), ctypes.byref(chosen), self.bundle)
        self.call("session_create", self.bundle, self.session)
        self.vocab_size = self.library.edgept_bundle_vocab_size(self.bundle)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function that can fail; out-parameters are ctypes objects at the end."""
        error = CError()
        given = [
            ctypes.byref(argument)
            if argument is arguments[-1] and not isinstance(argument, (bytes, int))
            else argument
            for argument in arguments
        ]
        status = getattr(self.library, f"edgept_{name}")(*given, ctypes.byref(error))
        if status:
            assert error.message.endswith((b".", b"?")) or error.message.startswith(b"onnxruntime")
            raise CStatusError(status, error)

    def close(self) -> None:
        self.library.edgept_session_free(self.session)
        for prompt in self.prompts:
            self.library.edgept_prompt_free(prompt)
        self.library.edgept_bundle_free(self.bundle)

    def load_prompt(self, path: Path) -> ctypes.c_void_p:
        prompt = ctypes.c_void_p()
        self.call("prompt_load", self.bundle, str(path).encode(), prompt)
        self.prompts.append(prompt)
        return prompt

    def _text(self, prompt: Any, ids: Sequence[int]) -> tuple[Any, ...]:
        return (self.session, prompt, _ids(ids))

    def prefill(self, ids: Sequence[int], prompt: Any = None) -> npt.NDArray[np.float32]:
        logits = ctypes.POINTER(ctypes.c_float)()
        self.call("session_prefill", *self._text(prompt, ids), ctypes.c_size_t(len(ids)), logits)
        return _array(logits, self.vocab_size)

    def step(self, token: int) -> npt.NDArray[np.float32]:
        logits = ctypes.POINTER(ctypes.c_float)()
        self.call("session_step", self.session, ctypes.c_int64(token), logits)
        return _array(logits, self.vocab_size)

    def generate(
        self,
        ids: Sequence[int],
        prompt: Any = None,
        *,
        stop_ids: Sequence[int] = (),
        on_token: Callable[[int], int] | None = None,
        **options: Any,
    ) -> tuple[list[int], str, CLatency]:
        found = CGeneration()
        callback = ON_TOKEN() if on_token is None else ON_TOKEN(lambda _, token: on_token(token))
        chosen = CGenerateOptions(
            stop_ids=_ids(stop_ids), stop_count=len(stop_ids), on_token=callback, **options
        )
        count = ctypes.c_size_t(len(ids))
        self.call("session_generate", *self._text(prompt, ids), count, ctypes.byref(chosen), found)
        return found.ids[: found.count], FINISH[found.finish], found.latency

    def _read(self, name: str, found: Any, prompt: Any, ids: Any, types: Any) -> None:
        given = None if types is None else _ids(types)
        self.call(name, *self._text(prompt, ids), given, ctypes.c_size_t(len(ids)), found)

    def outputs(
        self, ids: Sequence[int], prompt: Any = None, types: Sequence[int] | None = None
    ) -> npt.NDArray[np.float32]:
        found = COutputs()
        self._read("session_outputs", found, prompt, ids, types)
        return _array(found.values, found.rows, found.width)

    def embed(
        self, ids: Sequence[int], prompt: Any = None, types: Sequence[int] | None = None
    ) -> npt.NDArray[np.float32]:
        found = COutputs()
        self._read("session_embed", found, prompt, ids, types)
        return _array(found.values, found.width)

    @property
    def image(self) -> CImage:
        found: CImage = self.library.edgept_bundle_image(self.bundle).contents
        return found

    def see(
        self, pixels: npt.NDArray[np.float32], prompt: Any = None, *, features: int = 0
    ) -> tuple[CSight, dict[str, npt.NDArray[np.float32]]]:
        """A picture (3, height, width); the outputs that came, by name."""
        found = CSight()
        values = np.ascontiguousarray(pixels).ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        self.call("session_see", self.session, prompt, values, features, found)
        widths = {"logits": found.classes, "boxes": 4, "features": found.feature_width}
        return found, {
            name: _array(getattr(found, name), found.positions, width)
            for name, width in widths.items()
            if getattr(found, name)
        }

    def classify(
        self, ids: Sequence[int], prompt: Any = None, types: Sequence[int] | None = None
    ) -> tuple[str, npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        found = CClassification()
        self._read("session_classify", found, prompt, ids, types)
        return (
            found.label.decode(),
            _array(found.logits, found.classes),
            _array(found.probabilities, found.classes),
        )
