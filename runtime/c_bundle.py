"""A bundle that is open in the C library: its handle, and sessions for its requests."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import byref, c_void_p
from pathlib import Path
from typing import Any

from edgept.errors import UsageError
from edgept.manifest import Manifest
from edgept.runtime.c_header import CBundleOptions, CProvider
from edgept.runtime.c_library import CHandle, call, load_c_library, to_path
from edgept.runtime.options import LoadOptions

__all__ = ["CBundle"]


class CBundle:
    """An open bundle.

    Attributes:
        library: that opened it.
        handle: of the bundle.
        max_length: longest sequence in tokens.
    """

    def __init__(self, folder: Path, manifest: Manifest, options: LoadOptions) -> None:
        """Open it; options as in `load`.

        Raises:
            EdgeptError: as `load`.
        """
        for name in ("threads", "max_length"):
            value = options[name]
            if value is not None and not (type(value) is int and 1 <= value < 1 << 31):
                raise UsageError(
                    f"{name} is {value!r}, expected a whole number from 1 on, or None."
                )
        names = options["providers"] or manifest.providers
        chosen = _to_providers([names] if isinstance(names, str) else names)
        given = CBundleOptions(
            threads=options["threads"] or 0,
            max_length=options["max_length"] or 0,
            providers=chosen,
            provider_count=len(chosen),
            check_hashes=int(options["check_hashes"]),
        )
        self.library: ctypes.CDLL = load_c_library()
        opened = c_void_p()
        self.call("bundle_open", to_path(folder), byref(given), byref(opened))
        self.handle = CHandle(self.library, "bundle", opened)
        self.max_length = int(self.library.edgept_bundle_max_length(opened))
        self._idle: list[CHandle] = []  # sessions; no more than requests ran at once

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library that can fail; as `call` in c_library.py."""
        call(self.library, name, *arguments)

    @contextmanager
    def session(self) -> Iterator[CHandle]:
        """A session that no other thread uses meanwhile; it goes back for the next request."""
        try:
            session = self._idle.pop()
        except IndexError:
            made = c_void_p()
            self.call("session_create", self.handle.pointer, byref(made))
            session = CHandle(self.library, "session", made, self.handle)
        try:
            yield session
        finally:
            self._idle.append(session)


def _to_providers(names: Sequence[str]) -> "ctypes.Array[CProvider]":
    return (CProvider * len(names))(*(CProvider(name=name.encode()) for name in names))
