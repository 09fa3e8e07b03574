"""The calls on a model that writes, over the C library: generate, stream, the last position's logits."""

import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_float
from typing import Unpack

import numpy as np
import numpy.typing as npt

from edgept.errors import EdgeptError
from edgept.manifest import SEQ2SEQ_TASK, Manifest
from edgept.runtime.c_bundle import CBundle
from edgept.runtime.c_header import ON_TEXT, ON_TOKEN, CGeneration
from edgept.runtime.c_library import copied
from edgept.runtime.c_prompt import CPrompt, to_pointer
from edgept.runtime.c_request import lacks, to_latency, to_options, to_text, to_tokens
from edgept.runtime.c_stream import CStream, Run
from edgept.runtime.calls import refuse
from edgept.runtime.content import Content
from edgept.runtime.generation import FinishReason, Generation
from edgept.runtime.options import GenerateOptions

__all__ = ["CWritingModel"]

_FINISH: tuple[FinishReason, ...] = ("eos", "stop", "length", "full", "cancelled")


class CWritingModel:
    """What `CModel` offers on bundles of decoder-only models and encoder-decoders."""

    manifest: Manifest
    load_ms: float
    _opened: CBundle

    def generate(
        self,
        content: Content,
        *,
        prompt: CPrompt | None = None,
        stop_ids: Sequence[int] = (),
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """Generate a continuation; arguments as `Model.generate`.

        Args:
            content: a text, or a list of token ids.
            prompt: put in front of the content; None is the plain model.
            stop_ids: token ids that end it, beside the bundle's own; finish_reason is then "stop".
            **options: see `GenerateOptions`. A seed gives other tokens than in Python, of the same
                distribution.

        Raises:
            UsageError: an argument is out of range, the request does not fit, or the library lacks it.
            EdgeptError: the sequence is full and on_full is "error", or onnxruntime failed.
        """
        run = self._writing("generate", content, prompt, stop_ids, options)
        if options.get("cancel") is None:
            return run(None, None)
        # not in this thread: Ctrl-C in a callback from C would be lost
        with ThreadPoolExecutor(1, "edgept-generate") as pool:
            return pool.submit(run, None, None).result()

    def stream(
        self,
        content: str,
        *,
        prompt: CPrompt | None = None,
        stop_ids: Sequence[int] = (),
        **options: Unpack[GenerateOptions],
    ) -> CStream:
        """Generate piece by piece: iterate for the text, then read `.result`. Arguments as `generate`.

        The content is a text. What the library finds wrong with the request is raised by the first piece.
        """
        if not isinstance(content, str):
            lacks("streams of anything but a text")
        return CStream(self._writing("stream", content, prompt, stop_ids, options))

    def last_logits(
        self, content: Content, *, prompt: CPrompt | None = None
    ) -> npt.NDArray[np.float32]:
        """Logits of the token that follows: the last row of `Model.logits`.

        Returns:
            (vocabulary,) float32.
        """
        if self.manifest.task != "text-generation":
            refuse("last_logits", self.manifest.task)
        logits = ctypes.POINTER(c_float)()
        with self._opened.session() as session:
            tokens = to_tokens(session, self.manifest, content)
            self._opened.call(
                *("session_prefill", session.pointer, to_pointer(prompt, self)),
                *(tokens.ids, tokens.count, byref(logits)),
            )
            return copied(logits, self.manifest.vocab_size)

    def _writing(
        self,
        name: str,
        content: Content,
        prompt: CPrompt | None,
        stop_ids: Sequence[int],
        options: GenerateOptions,
    ) -> Run:
        """Check a generation's arguments; what is returned runs it."""
        manifest, opened = self.manifest, self._opened
        if manifest.task not in ("text-generation", SEQ2SEQ_TASK):
            refuse(name, manifest.task)
        resident = to_pointer(prompt, self)
        text = to_text(manifest, content) if isinstance(content, str) else None
        chosen, cancel = to_options(manifest, stop_ids, options)

        def run(show: Callable[[str], None] | None, closed: threading.Event | None) -> Generation:
            ends = [event for event in (cancel, closed) if event is not None]
            made = CGeneration()
            with opened.session() as session:

                def on_token(_user: object, _token: int) -> int:
                    if any(event.is_set() for event in ends):
                        opened.library.edgept_session_cancel(session.pointer)
                    return 0

                def on_text(_user: object, piece: bytes) -> int:
                    if show is not None:
                        show(piece.decode())
                    return 0

                # ctypes keeps what a struct refers to
                chosen.on_token = ON_TOKEN(on_token) if ends else ON_TOKEN()
                chosen.on_text = ON_TEXT() if show is None else ON_TEXT(on_text)
                if text is not None:
                    opened.call(
                        *("session_ask", session.pointer, resident, text),
                        *(byref(chosen), byref(made)),
                    )
                else:
                    tokens = to_tokens(session, manifest, content)
                    opened.call(
                        *("session_generate", session.pointer, resident, tokens.ids, tokens.count),
                        *(byref(chosen), byref(made)),
                    )
                ids = made.ids[: made.count]
                said = (made.text or b"").decode()
            finish = _FINISH[made.finish]
            if finish == "full" and options.get("on_full") == "error":
                raise EdgeptError(
                    f"the sequence reached the model's longest after {len(ids)} new tokens. Shorten the "
                    "text, ask for fewer new tokens, or let it stop there (on_full='stop')."
                )
            latency = to_latency(made.latency, self.load_ms, prompt)
            return Generation(said, ids, finish, None if prompt is None else prompt.name, latency)

        return run
