"""What the tokenizers library does to every single character, written down for the C library.

Regular expressions, Rust's standard library and the normal forms each come with a Unicode version of
their own. So nothing is looked up here: each property is what the library was seen to do.

Code organization:
    *_class, *_map, ...   a property of every code point, as observed
    Characters            a table of the properties that one tokenizer needs
"""

import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from edgept.errors import ExportError

__all__ = [
    "Characters",
    "added_token_class",
    "combining_classes",
    "compositions",
    "decomposition",
    "normalizer_map",
    "pre_tokenizer_class",
    "regex_class",
]

_POINTS = 0x110000
_BLOCK = 128
_SYLLABLES = range(0xAC00, 0xD7A4)  # of Hangul, which come apart and together by rule
_MAX_CLASSES = 32
_ITSELF, _SPACED = 0, 1  # values of a map; others are 2 + an entry of SPANS


@cache
def _observed() -> tuple[int, ...]:
    """Code points that are tried.

    All where there are characters, and where some may be put soon. Of the rest, which is unassigned or
    of private use and thus all alike, the first of every 128, and the last two of each plane, which are
    no characters.
    """
    full = [*range(0x34000), *range(0xE0000, 0xE1000)]
    sparse = [
        point
        for plane in range(0x30000, 0x110000, 0x10000)
        for point in (*range(plane, plane + 0x10000, _BLOCK), plane + 0xFFFE, plane + 0xFFFF)
    ]
    return tuple(point for point in sorted({*full, *sparse}) if not 0xD800 <= point <= 0xDFFF)


@cache
def regex_class(atom: str) -> frozenset[int]:
    """Code points that one character of a regular expression matches.

    Raises:
        ExportError: it is no regular expression.
    """
    if atom.startswith("(?i:") and len(atom) == 6:  # one letter: try what any letter matches
        split = pre_tokenizers.Split(Regex(atom), "removed")
        letters = regex_class("(?i:[a-z])")
        return frozenset(point for point in letters if not split.pre_tokenize_str(chr(point)))
    try:
        split = pre_tokenizers.Split(Regex(f"(?:{atom})+"), "removed")
    except Exception as error:  # the library raises Exception itself
        raise ExportError(
            f"the tokenizer's pattern {atom!r} is not understood: {error}."
        ) from error
    points = _observed()
    left = split.pre_tokenize_str("".join(map(chr, points)))
    return frozenset(points).difference(*(points[begin:end] for _, (begin, end) in left))


@cache
def pre_tokenizer_class(name: str) -> tuple[frozenset[int], frozenset[int]]:
    """Code points that a pre-tokenizer cuts out as a piece of their own, and those that it removes.

    Args:
        name: the library's class, called without arguments except for digits, each alone.
    """
    make: Any = getattr(pre_tokenizers, name)
    step = make(individual_digits=True) if name == "Digits" else make()
    points = _observed()
    text = "".join(f"a{chr(point)}" for point in points) + "a"
    places = [place for _, place in step.pre_tokenize_str(text)]
    begins, ends = {begin for begin, _ in places}, {end for _, end in places}
    cut = [
        (point, 2 * number + 1)
        for number, point in enumerate(points)
        if 2 * number + 1 in ends and 2 * number + 2 in begins
    ]
    isolated = frozenset(point for point, place in cut if place in begins)
    return isolated, frozenset(point for point, _ in cut) - isolated


@cache
def added_token_class(*, words: bool) -> frozenset[int]:
    """Code points next to which a token that is a single word is none; or that a token strips."""
    mark = "\ue000"
    tokenizer: Any = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))  # noqa: S106 - a token
    tokenizer.add_special_tokens([AddedToken(mark, single_word=words, lstrip=not words)])
    points = [point for point in _observed() if chr(point) != mark]
    # a hyphen is neither a part of a word nor a space
    encoding = tokenizer.encode("".join(f"-{chr(point)}{mark}-" for point in points))
    begins = {
        begin
        for token, (begin, _) in zip(encoding.ids, encoding.offsets, strict=True)
        if token != 0
    }
    if words:
        return frozenset(p for number, p in enumerate(points) if 4 * number + 2 not in begins)
    return frozenset(p for number, p in enumerate(points) if 4 * number + 1 in begins)


@cache
def normalizer_map(name: str, **options: bool) -> Mapping[int, str]:
    """Code points that a normalizer, of this class and made with these options, changes; what to."""
    normalizer = getattr(normalizers, name)(**options)
    normalized = ((point, normalizer.normalize_str(chr(point))) for point in _observed())
    return {point: text for point, text in normalized if text != chr(point)}


@cache
def decomposition(form: str) -> Mapping[int, str]:
    """What NFD or NFKD makes of characters; Hangul syllables, which follow a rule, are left out."""
    found = normalizer_map(form).items()
    return {point: text for point, text in found if point not in _SYLLABLES}


@cache
def combining_classes() -> Mapping[int, int]:
    """Combining classes that are not 0: marks of higher ones go behind those of lower ones."""
    nfd = normalizers.NFD()
    points = [point for point in _observed() if point not in decomposition("NFD")]
    points = [point for point in points if point not in _SYLLABLES]
    # U+0334 has the lowest class, 1, and U+0345 the highest, 240
    behind = nfd.normalize_str("".join(f"a{chr(point)}\u0334" for point in points))
    in_front = nfd.normalize_str("".join(f"a\u0345{chr(point)}" for point in points))
    marks = [
        point
        for number, point in enumerate(points)
        if behind[3 * number + 1] != chr(point) or in_front[3 * number + 1] != "\u0345"
    ]
    # a class, once given, never changes: one mark of each, whatever the version that Python has
    known = {unicodedata.combining(chr(point)): chr(point) for point in reversed(marks)}
    known.pop(0, None)
    classes = {}
    for point in marks:
        mark = chr(point)
        equal = [
            number
            for number, other in known.items()
            if nfd.normalize_str(f"a{mark}{other}") == f"a{mark}{other}"
            and nfd.normalize_str(f"a{other}{mark}") == f"a{other}{mark}"
        ]
        if len(equal) != 1:
            raise ExportError(
                f"the combining class of U+{point:04X} could not be found out. The tokenizers library "
                "may have changed how it normalizes; use another version of it."
            )
        classes[point] = equal[0]
    return classes


@cache
def compositions() -> tuple[tuple[int, int, int], ...]:
    """Pairs of characters that NFC composes, and what to; sorted. Hangul follows a rule."""
    nfc = normalizers.NFC()
    found = []
    for point, text in decomposition("NFD").items():
        if len(text) < 2 or nfc.normalize_str(chr(point)) != chr(point):
            continue
        first = nfc.normalize_str(text[:-1])
        if len(first) != 1 or nfc.normalize_str(first + text[-1]) != chr(point):
            raise ExportError(
                f"what U+{point:04X} is composed of could not be found out. The tokenizers library may "
                "have changed how it normalizes; use another version of it."
            )
        found.append((ord(first), ord(text[-1]), point))
    return tuple(sorted(found))


class Characters:
    """Classes and maps of characters, numbered as they are added, and the sections that hold them."""

    def __init__(self) -> None:
        self._classes: list[frozenset[int]] = []
        self._maps: list[Mapping[int, str]] = []
        self.reorders = False

    @property
    def map_count(self) -> int:
        """Numbers of a record that are values of maps."""
        return len(self._maps)

    def class_number(self, points: frozenset[int]) -> int:
        """The number of a class, the same one for the same characters.

        Raises:
            ExportError: a tokenizer needs more classes than a record has bits.
        """
        if points not in self._classes:
            if len(self._classes) == _MAX_CLASSES:
                raise ExportError(
                    f"the tokenizer tells more than {_MAX_CLASSES} classes of characters apart."
                )
            self._classes.append(points)
        return self._classes.index(points)

    def map_number(self, texts: Mapping[int, str]) -> int:
        """The number of a new map."""
        self._maps.append(texts)
        return len(self._maps) - 1

    def texts(self) -> Iterable[str]:
        """All that maps give and that `sections` needs the span of."""
        for texts in self._maps:
            yield from (text for point, text in texts.items() if text != f" {chr(point)} ")

    def sections(self, spans: Mapping[str, int]) -> tuple[bytes, bytes, bytes]:
        """BLOCKS, KINDS and RECORDS; empty where nothing is asked of characters.

        Args:
            spans: entries of SPANS by their texts.
        """
        if not (self._classes or self._maps or self.reorders):
            return b"", b"", b""
        observed = np.array(_observed(), np.int64)
        columns: npt.NDArray[np.uint32]
        columns = np.zeros(
            (2 + len(self._maps), len(observed)), np.uint32
        )  # (numbers, code points)
        for number, points in enumerate(self._classes):
            members = np.fromiter(points, np.int64, len(points))
            columns[0, np.searchsorted(observed, members)] |= np.uint32(1 << number)
        values = [dict(combining_classes())] if self.reorders else [{}]
        for texts in self._maps:
            given = ((point, text, text == f" {chr(point)} ") for point, text in texts.items())
            values.append({p: _SPACED if spaced else 2 + spans[t] for p, t, spaced in given})
        for column, numbers in zip(columns[1:], values, strict=True):
            members = np.fromiter(numbers, np.int64, len(numbers))
            column[np.searchsorted(observed, members)] = list(numbers.values())
        kinds = np.zeros(len(observed), np.int64)
        for column in columns:
            _, inverse = np.unique(column, return_inverse=True)
            kinds = kinds * (int(inverse.max()) + 1) + inverse
            _, first, kinds = np.unique(kinds, return_index=True, return_inverse=True)
        if len(first) > 0xFFFF:
            raise ExportError("the tokenizer tells more than 65535 kinds of characters apart.")
        everywhere = np.full(_POINTS, -1, np.int64)
        everywhere[observed] = kinds
        everywhere[0xD800:0xE000] = 0  # surrogates, which no text has
        skipped = np.flatnonzero(everywhere < 0)
        everywhere[skipped] = everywhere[skipped // _BLOCK * _BLOCK]
        rows = everywhere.astype("<u2").reshape(-1, _BLOCK)  # (blocks of the code space, 128)
        unique: dict[bytes, int] = {}
        blocks = np.array([unique.setdefault(row.tobytes(), len(unique)) for row in rows], "<u2")
        records = columns[:, first].T.astype("<u4")  # (kinds, numbers)
        return blocks.tobytes(), b"".join(unique), records.tobytes()
