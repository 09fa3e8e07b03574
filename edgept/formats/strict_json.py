"""The part of JSON that a safetensors header needs, read strictly and in document order.

Python's own parser is not used: it accepts duplicate keys, floats, lone surrogates and any depth,
and it reports what it dislikes in an order that the C reader could not match.
"""

import re
from typing import NoReturn, TypeAlias

from edgept.errors import InvalidFileError
from edgept.formats.reason import Reason

__all__ = ["Json", "parse_json"]

Json: TypeAlias = str | int | list["Json"] | dict[str, "Json"]

MAX_DIGITS = 15  # far beyond any file's size, exact in a double and in a 64-bit integer

_SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_NUMBER = re.compile(r"[-+.0-9eE]+")
_HEX4 = re.compile(r"[0-9a-fA-F]{4}")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def parse_json(text: str, *, max_depth: int) -> Json:
    """Parse objects, arrays, strings and plain non-negative integers; refuse everything else.

    Args:
        text: the whole document.
        max_depth: how deep objects and arrays may nest; a lone object has depth 1.

    Raises:
        InvalidFileError: with the first offence in reading order as its reason.
    """
    return _Parser(text, max_depth).document()


class _Parser:
    """A cursor over the text; each method consumes one construct."""

    def __init__(self, text: str, max_depth: int) -> None:
        self._text = text
        self._at = 0
        self._max_depth = max_depth

    def document(self) -> Json:
        value = self._value(1)
        self._skip_space()
        if self._at != len(self._text):
            self._refuse(Reason.HEADER_JSON, "text after the value")
        return value

    def _value(self, depth: int) -> Json:
        self._skip_space()
        start = self._peek()
        if start == '"':
            return self._string()
        if start in ("{", "["):
            if depth > self._max_depth:
                self._refuse(Reason.HEADER_DEPTH, f"nesting deeper than {self._max_depth}")
            self._at += 1
            return self._object(depth) if start == "{" else self._array(depth)
        if start and start in "-+.0123456789":
            return self._number()
        return self._refuse(Reason.HEADER_JSON, "no object, array, string or number")

    def _object(self, depth: int) -> dict[str, Json]:
        members: dict[str, Json] = {}
        if self._take("}"):
            return members
        while True:
            self._skip_space()
            key = self._string()
            if key in members:
                self._refuse(Reason.HEADER_DUPLICATE_KEY, f"key {key[:40]!r} a second time")
            self._expect(":")
            members[key] = self._value(depth + 1)
            if self._take("}"):
                return members
            self._expect(",")

    def _array(self, depth: int) -> list[Json]:
        items: list[Json] = []
        if self._take("]"):
            return items
        while True:
            items.append(self._value(depth + 1))
            if self._take("]"):
                return items
            self._expect(",")

    def _number(self) -> int:
        match = _NUMBER.match(self._text, self._at)
        digits = match.group() if match else ""
        is_plain = (
            digits.isdigit() and len(digits) <= MAX_DIGITS and (digits == "0" or digits[0] != "0")
        )
        if not is_plain:
            self._refuse(Reason.HEADER_NUMBER, f"{digits[:20]!r}, no plain non-negative integer")
        self._at += len(digits)
        return int(digits)

    def _string(self) -> str:
        if self._peek() != '"':
            self._refuse(Reason.HEADER_JSON, "no string")
        self._at += 1
        parts: list[str] = []
        while True:
            match = _PLAIN.match(self._text, self._at)
            if match:
                parts.append(match.group())
                self._at = match.end()
            end = self._peek()
            if end == '"':
                self._at += 1
                return "".join(parts)
            if end != "\\":
                self._refuse(Reason.HEADER_JSON, "a control character or an open string")
            self._at += 1
            parts.append(self._escape())

    def _escape(self) -> str:
        letter = self._peek()
        if letter in _ESCAPES:
            self._at += 1
            return _ESCAPES[letter]
        if letter != "u":
            self._refuse(Reason.HEADER_JSON, "an unknown escape")
        self._at += 1
        code = self._hex4()
        if code == 0:
            self._refuse(Reason.HEADER_NUL, "\\u0000 in a string")
        if not 0xD800 <= code <= 0xDFFF:
            return chr(code)
        if code >= 0xDC00 or not self._text.startswith("\\u", self._at):
            self._refuse(Reason.HEADER_SURROGATE, "half of a surrogate pair")
        self._at += 2
        low = self._hex4()
        if not 0xDC00 <= low <= 0xDFFF:
            self._refuse(Reason.HEADER_SURROGATE, "half of a surrogate pair")
        return chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00))

    def _hex4(self) -> int:
        match = _HEX4.match(self._text, self._at)
        if match is None:
            self._refuse(Reason.HEADER_JSON, "\\u without four hexadecimal digits")
        self._at += 4
        return int(match.group(), 16)

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        if match:
            self._at = match.end()

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, mark: str) -> bool:
        self._skip_space()
        if self._peek() != mark:
            return False
        self._at += 1
        return True

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            self._refuse(Reason.HEADER_JSON, f"no {mark!r}")

    def _refuse(self, reason: Reason, found: str) -> NoReturn:
        raise InvalidFileError(
            reason,
            f"header, character {self._at}: {found} where strict JSON is expected. The file is "
            "damaged or was not written by a safetensors library: write it again.",
        )
