"""libedgept in this process: where it is, what it says of an error, and what frees its objects."""

import ctypes
import ctypes.util
import importlib.util
import os
import weakref
from collections.abc import Callable
from ctypes import c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgept import __version__
from edgept.errors import (
    EdgeptError,
    IncompatibleError,
    InvalidFileError,
    MissingDependencyError,
    UntrustedError,
    UsageError,
)
from edgept.runtime.c_header import CError, declare

__all__ = ["CHandle", "call", "copied", "load_c_library", "to_path"]

# A checkout's own; resolved, as edgept/runtime is a link there.
_BUILT = Path(__file__).resolve().parent / "c" / "build" / "libedgept.so"
_HOW = (
    "Build it from a checkout of edgept (runtime/c/setup.sh, then make -C runtime/c), name the file in "
    "$EDGEPT_LIBRARY, or use engine='python'."
)


def call(library: ctypes.CDLL, name: str, *arguments: Any) -> None:
    """Call a function that can fail: edgept_NAME, without its last argument.

    Raises:
        EdgeptError: it failed; the class says with which status.
    """
    error = CError()
    status = getattr(library, f"edgept_{name}")(*arguments, ctypes.byref(error))
    if not status:
        return
    message = error.message.decode(errors="replace")
    if status == InvalidFileError.exit_code:
        raise InvalidFileError(error.reason.decode(), message)
    for kind in (UsageError, IncompatibleError, UntrustedError):
        if status == kind.exit_code:
            raise kind(message)
    raise EdgeptError(message)


def copied(pointer: Any, *shape: int) -> npt.NDArray[Any]:
    """A copy of an array that the library lends."""
    return np.ctypeslib.as_array(pointer, shape).copy()


def to_path(path: str | os.PathLike[str]) -> bytes:
    """A path as C takes it.

    Raises:
        UsageError: it holds a zero byte.
    """
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise UsageError(f"{str(path)!r} is not a path: it holds a zero byte. Check the argument.")
    return encoded


class CHandle:
    """An object of the library, freed when nobody uses it.

    Attributes:
        library: that made it.
        pointer: to it.
    """

    def __init__(
        self, library: ctypes.CDLL, kind: str, pointer: c_void_p, *needs: "CHandle"
    ) -> None:
        """Take an object over.

        Args:
            library: that made it.
            kind: "bundle", "prompt" or "session".
            pointer: to it.
            needs: what is freed after it.
        """
        self.library, self.pointer = library, pointer
        free = getattr(library, f"edgept_{kind}_free")
        weakref.finalize(self, _free, free, pointer, needs)


def _free(free: Callable[[c_void_p], None], pointer: c_void_p, _needs: object) -> None:
    free(pointer)


def load_c_library() -> ctypes.CDLL:
    """libedgept: the file that $EDGEPT_LIBRARY names, else the system's, else a checkout's own.

    Raises:
        MissingDependencyError: there is none, it does not load, or it is of another version.
    """
    path = os.environ.get("EDGEPT_LIBRARY") or ctypes.util.find_library("edgept")
    if path is None and _BUILT.is_file():
        path = str(_BUILT)
    if path is None:
        raise MissingDependencyError(f"engine 'c' needs libedgept, which is not here. {_HOW}")
    return _open(path)


@cache
def _open(path: str) -> ctypes.CDLL:
    _load_onnxruntime()
    try:
        library = ctypes.CDLL(path)
        declare(library)
    except (OSError, AttributeError) as error:
        raise MissingDependencyError(
            f"{path} does not load as libedgept: {error}. It needs onnxruntime's library "
            f"(pip install onnxruntime). {_HOW}"
        ) from error
    version = library.edgept_version().decode()
    # structs may differ from one minor version to the next
    if version.split(".")[:2] != __version__.split(".")[:2]:
        raise MissingDependencyError(
            f"{path} is libedgept {version}, this is edgept {__version__}; they have to be of one minor "
            f"version. {_HOW}"
        )
    return library


def _load_onnxruntime() -> None:
    """Load onnxruntime's own library from its Python package, where there is one.

    libedgept asks for it by its name, and where it is loaded already the system looks no further.
    """
    package = importlib.util.find_spec("onnxruntime")
    if package is None or package.origin is None:
        return
    for path in Path(package.origin).parent.glob("capi/libonnxruntime.so.1*"):
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        return
