"""The C library behind Python's calls: what `load(..., engine="c")` gives.

What a request becomes is in c_request.py, its prompts in c_prompt.py, its streams in c_stream.py, the library
itself in c_library.py.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ctypes import byref, c_float, c_void_p
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Unpack

import numpy as np
import numpy.typing as npt

from edgept.bundle import read_manifest
from edgept.errors import EdgeptError, UsageError
from edgept.latency import Latency
from edgept.manifest import SEQ2SEQ_TASK, Manifest
from edgept.prompt import Prompt
from edgept.runtime.c_library import (
    ON_TEXT,
    ON_TOKEN,
    CBundleOptions,
    CClassification,
    CGeneration,
    CHandle,
    CLatency,
    COutputs,
    CProvider,
    call,
    load_c_library,
)
from edgept.runtime.c_prompt import CPrompt, load_prompt, to_path
from edgept.runtime.c_request import lacks, to_options, to_text, to_tokens
from edgept.runtime.c_stream import CStream, Run
from edgept.runtime.calls import refuse
from edgept.runtime.classifier import Classification
from edgept.runtime.content import Content
from edgept.runtime.embedder import Embedding
from edgept.runtime.generation import FinishReason, Generation
from edgept.runtime.options import GenerateOptions
from edgept.runtime.reading import WITHOUT_TYPES

__all__ = ["CModel"]

_FINISH: tuple[FinishReason, ...] = ("eos", "stop", "length", "full", "cancelled")


class CModel:
    """A bundle in the C library, with the calls of `Model` that the library has.

    Results and errors are of the same classes as those of `Model`; latencies are the library's. What the
    library lacks (batches, chat templates, beam search, truncation, several prompts in a
    request, spans of taggers and answers) raises UsageError. Texts need the bundle's tokenizer.bin;
    without it, requests are token ids, and the text of a generation is "". A text ends at a zero character,
    as all do in C; the token ids go on.

    Several threads may use one model at once: each request has a session to itself.

    Attributes:
        bundle: its folder.
        manifest: what was exported.
        max_length: longest sequence in tokens.
        load_ms: time that loading took.
    """

    def __init__(
        self,
        bundle: Path,
        *,
        threads: int | None,
        providers: Sequence[str] | None,
        max_length: int | None,
        check_hashes: bool,
    ) -> None:
        started = time.perf_counter()
        self._library = load_c_library()
        self.bundle = bundle
        self.manifest: Manifest = read_manifest(bundle)
        for name, value in (("threads", threads), ("max_length", max_length)):
            if value is not None and not (type(value) is int and 1 <= value < 1 << 31):
                raise UsageError(
                    f"{name} is {value!r}, expected a whole number from 1 on, or None."
                )
        names = [providers] if isinstance(providers, str) else providers or self.manifest.providers
        chosen = (CProvider * len(names))(*(CProvider(name=name.encode()) for name in names))
        options = CBundleOptions(
            threads=threads or 0,
            max_length=max_length or 0,
            providers=chosen,
            provider_count=len(chosen),
            check_hashes=int(check_hashes),
        )
        opened = c_void_p()
        self._call("bundle_open", to_path(bundle), byref(options), byref(opened))
        self._handle = CHandle(self._library, "bundle", opened)
        self.max_length = int(self._library.edgept_bundle_max_length(opened))
        self._idle: list[CHandle] = []  # sessions; no more than requests ran at once
        self.load_ms = (time.perf_counter() - started) * 1e3

    if not TYPE_CHECKING:  # which should know that these are missing

        def __getattr__(self, name: str) -> NoReturn:
            from edgept.runtime.model import Model

            if not name.startswith("_") and hasattr(Model, name):
                hint = " For the last position alone, call last_logits." if name == "logits" else ""
                lacks(f"model.{name}", hint)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def load_prompt(
        self,
        source: str | os.PathLike[str] | Prompt,
        *,
        name: str | None = None,
        task_index: int | None = None,
    ) -> CPrompt:
        """Make a prompt resident; arguments as `Model.load_prompt`.

        The library reads prompt files itself. Other sources are read here, and handed over as the prompt
        file that `edgept prompt pack` would write of them.

        Raises:
            UsageError: there is nothing to read, or the task index is missing.
            InvalidFileError: the file breaks its format's rules.
            IncompatibleError: the prompt was made for another model.
        """
        return load_prompt(
            self._handle, self.manifest, self, source, name=name, task_index=task_index
        )

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
        with self._session() as session:
            tokens = to_tokens(session, self.manifest, content)
            self._call(
                *("session_prefill", session.pointer, self._resident(prompt)),
                *(tokens.ids, tokens.count, byref(logits)),
            )
            return _copied(logits, self.manifest.vocab_size)

    def classify(
        self, content: Content, *, prompt: CPrompt | None = None, truncate: bool = False
    ) -> Classification:
        """Say which class a text is of, or a pair of texts; arguments as `Model.classify`.

        Raises:
            UsageError: the request does not fit, neither a prompt nor the model has a head, or the
                library lacks what is asked for.
        """
        found = CClassification()
        self._check_task("classify", "text-classification")
        with self._reading("classify", content, prompt, found, truncate=truncate) as latency:
            count = found.classes
            labels = [
                self._library.edgept_bundle_label(
                    self._handle.pointer, self._resident(prompt), index
                ).decode()
                for index in range(count)
            ]
            return Classification(
                label=found.label.decode(),
                probability=float(found.probabilities[found.best]),
                labels=tuple(labels),
                probabilities=tuple(found.probabilities[:count]),
                logits=_copied(found.logits, count),  # (classes,)
                prompt=None if prompt is None else prompt.name,
                truncated=0,
                latency=latency,
            )

    def embed(
        self, content: Content, *, prompt: CPrompt | None = None, truncate: bool = False
    ) -> Embedding:
        """Turn a text into a vector; arguments as `Model.embed`.

        Raises:
            UsageError: the request does not fit, or the library lacks what is asked for.
        """
        found = COutputs()
        self._check_task("embed", "feature-extraction")
        with self._reading("embed", content, prompt, found, truncate=truncate) as latency:
            vector = _copied(found.values, found.width)  # (hidden,)
            return Embedding(vector, None if prompt is None else prompt.name, 0, latency)

    def outputs(
        self, content: Content, *, prompt: CPrompt | None = None, truncate: bool = False
    ) -> npt.NDArray[np.float32]:
        """What the graph gives; arguments and result as `Model.outputs`."""
        found = COutputs()
        self._check_task("outputs", None)
        with self._reading("outputs", content, prompt, found, truncate=truncate):
            if self.manifest.task == "text-classification":
                return _copied(found.values, found.width)  # (classes,)
            return _copied(found.values, found.rows, found.width)

    def _call(self, name: str, *arguments: Any) -> None:
        call(self._library, name, *arguments)

    @contextmanager
    def _session(self) -> Iterator[CHandle]:
        """A session that no other thread uses meanwhile; it goes back for the next request."""
        try:
            session = self._idle.pop()
        except IndexError:
            made = c_void_p()
            self._call("session_create", self._handle.pointer, byref(made))
            session = CHandle(self._library, "session", made, self._handle)
        try:
            yield session
        finally:
            self._idle.append(session)

    def _resident(self, prompt: CPrompt | None) -> c_void_p | None:
        if prompt is None:
            return None
        if not isinstance(prompt, CPrompt):
            raise UsageError(
                f"prompt is a {type(prompt).__name__}, expected one that this model loaded. Load it "
                "first: model.load_prompt(...)."
            )
        if prompt.model is not self:
            raise UsageError(
                f"prompt {prompt.name!r} was loaded on another model. Load its file on this one: "
                "model.load_prompt(...)."
            )
        return prompt._handle.pointer

    def _check_task(self, name: str, task: str | None) -> None:
        """Refuse a call that is for another task than the bundle's; None is any that reads."""
        own = self.manifest.task
        writes, sees = own in ("text-generation", SEQ2SEQ_TASK), self.manifest.image is not None
        if writes or sees or task not in (None, own):
            refuse(name, own)

    def _writing(
        self,
        name: str,
        content: Content,
        prompt: CPrompt | None,
        stop_ids: Sequence[int],
        options: GenerateOptions,
    ) -> Run:
        """Check a generation's arguments; what is returned runs it."""
        manifest = self.manifest
        if manifest.task not in ("text-generation", SEQ2SEQ_TASK):
            refuse(name, manifest.task)
        resident = self._resident(prompt)
        text = to_text(manifest, content) if isinstance(content, str) else None
        chosen, cancel = to_options(manifest, stop_ids, options)

        def run(show: Callable[[str], None] | None, closed: threading.Event | None) -> Generation:
            ends = [event for event in (cancel, closed) if event is not None]
            made = CGeneration()
            with self._session() as session:

                def on_token(_user: object, _token: int) -> int:
                    if any(event.is_set() for event in ends):
                        self._library.edgept_session_cancel(session.pointer)
                    return 0

                def on_text(_user: object, piece: bytes) -> int:
                    if show is not None:
                        show(piece.decode())
                    return 0

                # ctypes keeps what a struct refers to
                chosen.on_token = ON_TOKEN(on_token) if ends else ON_TOKEN()
                chosen.on_text = ON_TEXT() if show is None else ON_TEXT(on_text)
                if text is not None:
                    self._call(
                        *("session_ask", session.pointer, resident, text),
                        *(byref(chosen), byref(made)),
                    )
                else:
                    tokens = to_tokens(session, self.manifest, content)
                    self._call(
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
            latency = self._latency(made.latency, prompt)
            return Generation(said, ids, finish, None if prompt is None else prompt.name, latency)

        return run

    @contextmanager
    def _reading(
        self,
        name: str,
        content: Content,
        prompt: CPrompt | None,
        found: ctypes.Structure,
        *,
        truncate: bool,
    ) -> Iterator[Latency]:
        """Run a model once; what it lends in `found` lives until the block ends."""
        if truncate:
            lacks("truncate=True")
        started = time.perf_counter()
        with self._session() as session:
            tokens = to_tokens(session, self.manifest, content)
            tokenize_ms = (time.perf_counter() - started) * 1e3
            types = tokens.types
            if prompt is not None and prompt.num_virtual_tokens:
                types = None if self.manifest.task in WITHOUT_TYPES else types
            self._call(
                *(f"session_{name}", session.pointer, self._resident(prompt), tokens.ids),
                *(types, tokens.count, byref(found)),
            )
            latency = self._latency(found.latency, prompt)
            total_ms = latency.total_ms + tokenize_ms
            yield replace(latency, tokenize_ms=tokenize_ms, total_ms=total_ms)

    def _latency(self, found: CLatency, prompt: CPrompt | None) -> Latency:
        count = found.new_tokens
        return Latency(
            load_ms=self.load_ms,
            prompt_ms=0.0 if prompt is None else prompt.load_ms,
            swap_ms=found.swap_ms,
            tokenize_ms=found.tokenize_ms,
            prefill_ms=found.prefill_ms,
            ttft_ms=found.ttft_ms if count else None,
            tpot_ms=found.tpot_ms if count > 1 else None,
            total_ms=found.total_ms,
            virtual_tokens=found.virtual_tokens,
            input_tokens=found.input_tokens,
            new_tokens=count,
        )


def _copied(pointer: Any, *shape: int) -> npt.NDArray[Any]:
    return np.ctypeslib.as_array(pointer, shape).copy()
