"""What a decoder makes of each token, for the C library to put together."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers import decoders

from edgept.errors import ExportError

__all__ = ["DecodedTokens", "as_bytes", "byte_alphabet", "decode_tokens"]

_BYTES, _RUNS, _TEXTS = 1, 2, 3
_ORDER = ("Replace", "ByteFallback", "Fuse", "Strip")


@dataclass
class DecodedTokens:
    """Tokens by id.

    Attributes:
        decoder: how they are put together: 1 all are bytes of characters, 2 texts and runs of bytes,
            3 texts.
        texts: bytes of each.
        firsts: the same of a sequence's first token; empty where it makes no difference.
        byte_tokens: ids that are one byte of a run.
        strip: how many leading characters are dropped, and which.
    """

    decoder: int
    texts: dict[int, bytes]
    firsts: dict[int, bytes] = field(default_factory=dict)
    byte_tokens: set[int] = field(default_factory=set)
    strip: tuple[int, int] = (0, 0)


def byte_alphabet() -> dict[str, int]:
    """GPT-2's characters that stand for bytes: printable ones for themselves, the rest from U+0100."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(0x100 + number): byte for number, byte in enumerate(others)
    }


_ALPHABET = byte_alphabet()


def as_bytes(token: str) -> bytes | None:
    """What a token of byte characters stands for; None where one of its characters is none of them."""
    if all(character in _ALPHABET for character in token):
        return bytes(_ALPHABET[character] for character in token)
    return None


def decode_tokens(
    names: Mapping[int, str], part: Mapping[str, Any] | None, library: Any
) -> DecodedTokens:
    """Decode every token alone.

    Args:
        names: tokens by id, as the vocabulary writes them.
        part: the decoder of tokenizer.json.
        library: the same as the tokenizers library has it.

    Raises:
        ExportError: the C library does not know this decoder.
    """
    kind = None if part is None else part["type"]
    if kind == "ByteLevel":
        return DecodedTokens(_BYTES, {n: as_bytes(t) or t.encode() for n, t in names.items()})
    if part is not None and kind not in ("WordPiece", "Metaspace"):
        return _sentencepiece(names, part)
    if kind is None:  # tokens with spaces between them
        library = decoders.WordPiece(prefix="\uffff", cleanup=False)
    begin = library.decode(["a"])
    return DecodedTokens(
        _TEXTS,
        {n: library.decode(["a", token])[len(begin) :].encode() for n, token in names.items()},
        {n: library.decode([token]).encode() for n, token in names.items()},
    )


def _sentencepiece(names: Mapping[int, str], part: Mapping[str, Any]) -> DecodedTokens:
    """Replace any number of times, then ByteFallback, Fuse and Strip at most once each."""
    texts = dict(names)
    byte_tokens: set[int] = set()
    strip = 0, 0
    seen: list[str] = []
    for step in part.get("decoders", [part]):
        kind = step["type"]
        known = kind in _ORDER and all(
            _ORDER.index(kind) >= _ORDER.index(before) for before in seen
        )
        if kind == "Replace":
            known &= bool(step["pattern"].get("String"))
        elif kind == "Strip":
            known &= "Fuse" in seen and step["stop"] == 0
        if not known or (kind != "Replace" and kind in seen):
            found = json.dumps(part, ensure_ascii=False)
            raise ExportError(
                f"the tokenizer has the decoder {found[:300]}, which the C library does not know."
            )
        seen.append(kind)
        if kind == "Replace":
            pattern, content = step["pattern"]["String"], step["content"]
            texts = {n: text.replace(pattern, content) for n, text in texts.items()}
        elif kind == "ByteFallback":
            fallback = decoders.ByteFallback()
            byte_tokens = {n for n, text in texts.items() if fallback.decode([text]) != text}
        elif kind == "Strip":
            strip = step["start"], ord(step["content"])
    encoded = {
        n: bytes([int(text[3:5], 16)]) if n in byte_tokens else text.encode()
        for n, text in texts.items()
    }
    return DecodedTokens(_RUNS, encoded, {}, byte_tokens, strip)
