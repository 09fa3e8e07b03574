"""Pieces of text from the C library, which generates in a thread meanwhile."""

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Self, TypeAlias

from edgept.runtime.generation import Generation

__all__ = ["CStream"]

Run: TypeAlias = Callable[[Callable[[str], None] | None, threading.Event | None], Generation]
"""Generates: given what shows each piece of text, and what ends it."""


class CStream(Iterator[str]):
    """Pieces of text as they are generated; after the last one, `result` is set.

    Unlike the Python engine's, the library goes on while its reader does something else. Closing the
    stream, or leaving its `with` block, cancels the rest.

    Attributes:
        result: the whole generation, once the stream has ended; None before.
    """

    def __init__(self, run: Run) -> None:
        pieces: SimpleQueue[str | None] = SimpleQueue()
        closed = threading.Event()
        self.result: Generation | None = None
        self._pieces, self._closed, self._ended = pieces, closed, False
        pool = ThreadPoolExecutor(1, "edgept-stream")
        self._made = pool.submit(run, pieces.put, closed)
        self._made.add_done_callback(lambda _: pieces.put(None))
        pool.shutdown(wait=False)
        weakref.finalize(self, closed.set)  # nobody will read the rest

    def __next__(self) -> str:
        if not self._ended:
            piece = self._pieces.get()
            if piece is not None:
                return piece
            self._ended = True
            self.result = self._made.result()
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is left; `result` then holds what came so far."""
        self._closed.set()
        for _ in self:
            pass
