"""A request as the C library takes it: its tokens and its options, or why it cannot; and how long it took."""

import secrets
import sys
import threading
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_int64
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from edgept.bundle import TABLE_NAME
from edgept.errors import UsageError
from edgept.latency import Latency
from edgept.manifest import Manifest
from edgept.runtime.c_header import CGenerateOptions, CLatency, CText
from edgept.runtime.c_library import CHandle, call
from edgept.runtime.c_prompt import CPrompt
from edgept.runtime.content import Content, compose
from edgept.runtime.options import GenerateOptions, read_options
from edgept.runtime.reading import OF_PAIRS
from edgept.runtime.stop import StopStrings

__all__ = ["Tokens", "lacks", "to_latency", "to_options", "to_text", "to_tokens"]

# More tokens or candidates than any model has: larger numbers would not fit into C's.
_MANY = 1 << 31


@dataclass(frozen=True)
class Tokens:
    """Pointers to (count,) int64; types None is all 0."""

    ids: Any
    types: Any
    count: int


def to_tokens(session: CHandle, manifest: Manifest, content: Content) -> Tokens:
    """A content's tokens; those of a text are the session's, until its next text.

    Raises:
        UsageError: it is no request, or one that the library cannot take.
    """
    if isinstance(content, str):
        return _encode(session, manifest, content, None)
    is_pair = isinstance(content, tuple) and [*map(type, content)] == [str, str]
    if is_pair and manifest.task in OF_PAIRS:
        return _encode(session, manifest, str(content[0]), str(content[1]))
    if isinstance(content, (list, tuple)) and not all(
        isinstance(item, (int, np.integer)) for item in content
    ):
        lacks("requests of several parts")
    ids = np.zeros(0, np.int64)
    if not isinstance(content, (list, tuple, np.ndarray)) or len(content):
        request = compose(content, None, tokenizer=None, vocab_size=manifest.vocab_size, model=None)
        ids = request.ids  # (tokens,) int64
    if not ids.size:
        return Tokens(None, None, 0)
    # it keeps the array alive; a cast pointer would be a cycle, and garbage for long
    first = c_int64.from_buffer(np.ascontiguousarray(ids).data)
    return Tokens(byref(first), None, len(ids))


def _encode(session: CHandle, manifest: Manifest, text: str, pair: str | None) -> Tokens:
    found = CText()
    second = None if pair is None else to_text(manifest, pair)
    first = to_text(manifest, text)
    call(session.library, "session_encode", session.pointer, first, second, 1, byref(found))
    return Tokens(found.ids, found.types, found.count)


def to_text(manifest: Manifest, text: str) -> bytes:
    """A text as C takes it.

    Raises:
        UsageError: it cannot be, or the bundle has no tokenizer for it.
    """
    if TABLE_NAME not in manifest.files:
        raise UsageError(
            f"this bundle has no {TABLE_NAME}, so the C library takes token ids only. Pass a list of "
            "ints, or load the bundle with engine='python', which reads tokenizer.json."
        )
    if "\0" in text:
        lacks("texts that hold a zero character, where texts end in C")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"cannot tokenize this text: {error}. It must be a str without lone surrogates; decode "
            "its bytes with errors='replace'."
        ) from error


def to_options(
    manifest: Manifest, stop_ids: Sequence[int], options: GenerateOptions
) -> tuple[CGenerateOptions, threading.Event | None]:
    """Options of a generation as C takes them, and the event that cancels it.

    Raises:
        UsageError: a value is out of its range, or the library lacks the option.
    """
    sampling, limits, beams = read_options(manifest.eos_token_ids, **options)
    strings = _stop_strings(manifest, limits.stop)
    own = manifest.decoding
    count = beams.num_beams
    if count is None:
        count = own.num_beams if own is not None and sampling.temperature == 0 else 1
    if count != 1 or set(beams.given) - {"num_beams"}:
        lacks("beam search", " num_beams=1 is greedy.")
    ids = _token_ids(stop_ids)
    seed = secrets.randbits(64) if sampling.seed is None else int(sampling.seed)
    chosen = CGenerateOptions(
        max_new_tokens=min(int(limits.max_new_tokens), _MANY),
        temperature=sampling.temperature,
        top_k=min(int(sampling.top_k), _MANY),
        # 0 is off in C; here it is the most probable token alone
        top_p=sampling.top_p or sys.float_info.min,
        seed=seed % (1 << 64),
        repetition_penalty=sampling.repetition_penalty,
    )
    # types of arrays are garbage of the slow kind: only where they are needed
    if ids:
        chosen.stop_ids, chosen.stop_count = (c_int64 * len(ids))(*ids), len(ids)
    if strings:
        chosen.stop_strings = (c_char_p * len(strings))(*strings)
        chosen.stop_string_count = len(strings)
    return chosen, limits.cancel


def _stop_strings(manifest: Manifest, stops: Sequence[str]) -> list[bytes]:
    StopStrings(stops)  # refuses what is none
    return [to_text(manifest, stop) for stop in stops]


def _token_ids(ids: Sequence[int]) -> list[int]:
    if not all(isinstance(item, (int, np.integer)) for item in ids):
        raise UsageError(f"stop_ids are token ids, found {ids!r}. Pass a list of whole numbers.")
    return [*map(int, ids)]


def lacks(what: str, hint: str = "") -> NoReturn:
    """Say that a request is for more than the library does.

    Raises:
        UsageError: always.
    """
    raise UsageError(f"the C library lacks {what}.{hint} Load the bundle with engine='python'.")


def to_latency(found: CLatency, load_ms: float, prompt: CPrompt | None) -> Latency:
    """What the library says of a request's time."""
    tokens = found.new_tokens
    return Latency(
        load_ms=load_ms,
        prompt_ms=0.0 if prompt is None else prompt.load_ms,
        swap_ms=found.swap_ms,
        tokenize_ms=found.tokenize_ms,
        prefill_ms=found.prefill_ms,
        ttft_ms=found.ttft_ms if tokens else None,
        tpot_ms=found.tpot_ms if tokens > 1 else None,
        total_ms=found.total_ms,
        virtual_tokens=found.virtual_tokens,
        input_tokens=found.input_tokens,
        new_tokens=tokens,
    )
