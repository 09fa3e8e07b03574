"""The C library's tokenizer, built alone with the system's compiler and called through ctypes."""

import ctypes
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["SOURCES", "CStream", "CTokenizer", "RefusedError", "build", "compiler"]

SOURCES = sorted(
    path
    for path in (Path(__file__).parents[1] / "runtime" / "c").glob("tokenizer*.c")
    if path.is_file()
)
FLAGS = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wconversion", "-Wshadow")
_STATUS = ("ok", "no memory", "malformed", "not UTF-8", "too long", "no pair")


class RefusedError(Exception):
    """A status other than 0: "no memory", "malformed", "not UTF-8", "too long", "no pair"."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status, self.detail = status, detail


class _Tokens(ctypes.Structure):
    _fields_ = (
        ("ids", ctypes.POINTER(ctypes.c_int64)),
        ("types", ctypes.POINTER(ctypes.c_int64)),
        ("count", ctypes.c_size_t),
    )


def compiler() -> list[str] | None:
    """The command of $CC or cc; None without a compiler."""
    command = shlex.split(os.environ.get("CC", "cc"))
    return command if command and shutil.which(command[0]) else None


def build(folder: Path, *more: str | Path) -> Path:
    """Build a shared library; with `more` arguments of the compiler, which may be sources."""
    command = compiler()
    assert command is not None
    library = folder / "libtokenizer.so"
    parts = [*command, *FLAGS, "-O2", "-shared", "-fPIC", "-o", library, *SOURCES, *more]
    subprocess.run([str(part) for part in parts], check=True)
    return library


def _check(status: int, detail: str = "") -> None:
    if status != 0:
        raise RefusedError(_STATUS[status], detail)


class CTokenizer:
    """A loaded table with a workspace."""

    def __init__(self, library: ctypes.CDLL, table: bytes) -> None:
        self.library, self._table = library, table
        self._handle, self._workspace = ctypes.c_void_p(), ctypes.c_void_p()
        reason = ctypes.c_char_p()
        status = library.edgept_tokenizer_load(
            table,
            ctypes.c_size_t(len(table)),
            ctypes.byref(self._handle),
            ctypes.byref(reason),
        )
        _check(status, (reason.value or b"").decode())
        try:
            _check(library.edgept_workspace_create(ctypes.byref(self._workspace)))
        except RefusedError:
            self.close()
            raise

    def close(self) -> None:
        """Free what the library holds."""
        self.library.edgept_workspace_free(self._workspace)
        self.library.edgept_tokenizer_free(self._handle)
        self._handle, self._workspace = ctypes.c_void_p(), ctypes.c_void_p()

    def encode(self, text: str | bytes, *, special_tokens: bool) -> list[int]:
        """Token ids."""
        return self._encode(text, None, special_tokens)[0]

    def encode_pair(
        self, text: str, second: str, *, special_tokens: bool
    ) -> tuple[list[int], list[int]]:
        """Token ids and types of a pair."""
        return self._encode(text, second, special_tokens)

    def _encode(
        self, text: str | bytes, second: str | None, special: bool
    ) -> tuple[list[int], list[int]]:
        data = text.encode() if isinstance(text, str) else text
        tokens = _Tokens()
        head = [self._handle, self._workspace, data, ctypes.c_size_t(len(data))]
        if second is None:
            call = self.library.edgept_tokenizer_encode
        else:
            call = self.library.edgept_tokenizer_encode_pair
            head += [second.encode(), ctypes.c_size_t(len(second.encode()))]
        _check(call(*head, ctypes.c_int(special), ctypes.byref(tokens)))
        return tokens.ids[: tokens.count], tokens.types[: tokens.count]

    def decode(self, ids: Sequence[int], *, skip: bool = True) -> str:
        """Text of token ids."""
        text, size = ctypes.c_void_p(), ctypes.c_size_t()
        array = (ctypes.c_int64 * len(ids))(*ids)
        status = self.library.edgept_tokenizer_decode(
            self._handle,
            self._workspace,
            array,
            ctypes.c_size_t(len(ids)),
            ctypes.c_int(skip),
            ctypes.byref(text),
            ctypes.byref(size),
        )
        _check(status)
        return ctypes.string_at(text.value or 0, size.value).decode()

    @contextmanager
    def stream(self, *, skip: bool = True) -> Iterator["CStream"]:
        """A stream, freed afterwards."""
        handle = ctypes.c_void_p()
        create = self.library.edgept_text_stream_create
        _check(create(self._handle, ctypes.c_int(skip), ctypes.byref(handle)))
        try:
            yield CStream(self.library, handle)
        finally:
            self.library.edgept_text_stream_free(handle)


class CStream:
    """Text as its tokens arrive."""

    def __init__(self, library: ctypes.CDLL, handle: ctypes.c_void_p) -> None:
        self._library, self._handle = library, handle

    def push(self, token: int) -> str:
        """Take an id."""
        piece, size = ctypes.c_void_p(), ctypes.c_size_t()
        push = self._library.edgept_text_stream_push
        _check(push(self._handle, ctypes.c_int64(token), ctypes.byref(piece), ctypes.byref(size)))
        return ctypes.string_at(piece.value or 0, size.value).decode()

    def finish(self) -> str:
        """What is left."""
        piece, size = ctypes.c_void_p(), ctypes.c_size_t()
        finish = self._library.edgept_text_stream_finish
        _check(finish(self._handle, ctypes.byref(piece), ctypes.byref(size)))
        return ctypes.string_at(piece.value or 0, size.value).decode()
