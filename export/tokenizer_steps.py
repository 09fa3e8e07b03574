"""The normalizer and the pre-tokenizer of a tokenizer.json as steps that the C library knows."""

from collections.abc import Mapping
from typing import Any

from edgept.errors import ExportError
from edgept.export.tokenizer_characters import (
    Characters,
    decomposition,
    normalizer_map,
    pre_tokenizer_class,
    regex_class,
)
from edgept.export.tokenizer_pattern import (
    FORK,
    JUMP,
    Instruction,
    class_program,
    compile_pattern,
    literal_program,
)

__all__ = ["Steps"]

_PREPEND, _REPLACE, _MAP, _REORDER, _COMPOSE = range(1, 6)
_SPLIT, _PREFIX, _REPLACE_PIECES = range(1, 4)
_BEHAVIORS = ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_MAX_INSTRUCTIONS = 1024


class Steps:
    """Steps that rewrite a text and cut it into words.

    Attributes:
        normalizer: (operation, a, b, c) in their order.
        pre_tokenizer: the same.
        programs: instructions of all patterns.
        texts: what the steps put in or look for, each once; steps have its number.
        byte_level: whether words are taken as bytes.
    """

    def __init__(self, parts: Mapping[str, Any], characters: Characters) -> None:
        """Translate.

        Args:
            parts: a tokenizer.json.
            characters: gets the classes and the maps that are needed.

        Raises:
            ExportError: a step is not among those that the C library knows.
        """
        self.normalizer: list[tuple[int, int, int, int]] = []
        self.pre_tokenizer: list[tuple[int, int, int, int]] = []
        self.programs: list[Instruction] = []
        self.texts: list[str] = []
        self.byte_level = False
        self._characters = characters
        self._drops = False  # the normalizer may drop a text's first characters
        if parts["normalizer"] is not None:
            self._normalize(parts["normalizer"])
        if parts["pre_tokenizer"] is not None:
            self._pre_tokenize(parts["pre_tokenizer"])
        if len(self.programs) > _MAX_INSTRUCTIONS:
            raise ExportError(
                f"the pre-tokenizer's patterns take {len(self.programs)} instructions; the C library "
                f"runs at most {_MAX_INSTRUCTIONS}."
            )

    def text(self, text: str) -> int:
        """The number of a text."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text)

    def _normalize(self, step: Mapping[str, Any]) -> None:
        kind = step["type"]
        if kind == "Sequence":
            for part in step["normalizers"]:
                self._normalize(part)
        elif kind == "Prepend":
            if step["prepend"]:
                self.normalizer.append((_PREPEND, self.text(step["prepend"]), 0, 0))
        elif kind == "Replace" and step["pattern"].get("String"):
            found, replacement = self.text(step["pattern"]["String"]), self.text(step["content"])
            self._drops |= not step["content"]
            self.normalizer.append((_REPLACE, found, replacement, 0))
        elif kind in ("NFC", "NFD", "NFKC", "NFKD"):
            form = "NFKD" if "K" in kind else "NFD"
            self._map(decomposition(form), hangul=True)
            self._reorder()
            if kind.endswith("C"):
                self.normalizer.append((_COMPOSE, 0, 0, 0))
        elif kind in ("Lowercase", "StripAccents"):
            self._drops |= kind == "StripAccents"
            self._map(normalizer_map(kind))
        elif kind == "BertNormalizer":
            self._bert(step)
        else:
            raise _refusal("normalizer", step)

    def _bert(self, step: Mapping[str, Any]) -> None:
        """BertNormalizer: clean up, put spaces around Chinese characters, strip accents, lower-case."""
        lowercase, strip = step["lowercase"], step["strip_accents"]
        strip = lowercase if strip is None else strip
        self._drops = True
        cleaned = normalizer_map(
            "BertNormalizer",
            clean_text=step["clean_text"],
            handle_chinese_chars=step["handle_chinese_chars"],
            strip_accents=False,
            lowercase=False,
        )
        last = normalizer_map(
            "BertNormalizer",
            clean_text=False,
            handle_chinese_chars=False,
            strip_accents=strip,
            lowercase=lowercase,
        )
        if strip:
            # accents are stripped from what NFD left: characters that it changes do not come here
            whole = decomposition("NFD")
            self._map(_fused(cleaned, whole), hangul=True)
            self._reorder()
            last = {
                point: text
                for point, text in last.items()
                if point not in whole and not 0xAC00 <= point <= 0xD7A3
            }
            self._map(last)
        else:
            self._map(_fused(cleaned, last))

    def _map(self, texts: Mapping[int, str], *, hangul: bool = False) -> None:
        number = self._characters.map_number(texts)
        self.normalizer.append((_MAP, number, int(hangul), 0))

    def _reorder(self) -> None:
        self._characters.reorders = True
        self.normalizer.append((_REORDER, 0, 0, 0))

    def _pre_tokenize(self, step: Mapping[str, Any]) -> None:
        kind = step["type"]
        if self.byte_level:  # what follows would see bytes in place of characters
            raise _refusal("pre-tokenizer behind ByteLevel", step)
        if kind == "Sequence":
            for part in step["pretokenizers"]:
                self._pre_tokenize(part)
        elif kind == "ByteLevel":
            if step["add_prefix_space"]:
                self.pre_tokenizer.append((_PREFIX, self.text(" "), 0, 0))
            if step["use_regex"]:
                self._split(compile_pattern(_GPT2, self._class_of), "Isolated")
            self.byte_level = True
        elif kind == "Split":
            self._split(self._pattern(step), step["behavior"], inverted=step["invert"])
        elif kind == "Metaspace":
            self._metaspace(step)
        elif kind == "Digits":
            digits, _ = pre_tokenizer_class("Digits")
            self._split_class(digits, "Isolated", many=not step["individual_digits"])
        elif kind == "Punctuation":
            marks, _ = pre_tokenizer_class("Punctuation")
            self._split_class(marks, step["behavior"])
        elif kind == "WhitespaceSplit":
            _, spaces = pre_tokenizer_class("WhitespaceSplit")
            self._split_class(spaces, "Removed")
        elif kind == "BertPreTokenizer":
            marks, spaces = pre_tokenizer_class("BertPreTokenizer")
            self._split_class(spaces, "Removed")
            self._split_class(marks, "Isolated")
        else:
            raise _refusal("pre-tokenizer", step)

    def _pattern(self, step: Mapping[str, Any]) -> list[Instruction]:
        if step["pattern"].get("String"):
            return literal_program(step["pattern"]["String"])
        if step["pattern"].get("Regex"):
            return compile_pattern(step["pattern"]["Regex"], self._class_of)
        raise _refusal("pre-tokenizer", step)

    def _metaspace(self, step: Mapping[str, Any]) -> None:
        mark = self.text(step["replacement"])
        self.pre_tokenizer.append((_REPLACE_PIECES, self.text(" "), mark, 0))
        scheme = step["prepend_scheme"]
        if scheme == "first" and self._drops:
            raise ExportError(
                "the tokenizer's Metaspace marks the first word, behind a normalizer that may drop what "
                "stands before it; the C library does not know such a pair."
            )
        if scheme != "never":
            self.pre_tokenizer.append((_PREFIX, mark, int(scheme == "first"), 0))
        if step.get("split", True):
            self._split(literal_program(step["replacement"]), "MergedWithNext")

    def _class_of(self, atom: str) -> int:
        return self._characters.class_number(regex_class(atom))

    def _split_class(self, points: frozenset[int], behavior: str, *, many: bool = False) -> None:
        self._split(class_program(self._characters.class_number(points), many=many), behavior)

    def _split(self, program: list[Instruction], behavior: str, *, inverted: bool = False) -> None:
        begin = len(self.programs)
        for operation, a, b, c in program:
            to_a = a + begin if operation in (FORK, JUMP) else a
            to_b = b + begin if operation == FORK else b
            self.programs.append((operation, to_a, to_b, c))
        self.pre_tokenizer.append((_SPLIT, begin, _BEHAVIORS.index(behavior), int(inverted)))


def _fused(first: Mapping[int, str], second: Mapping[int, str]) -> dict[int, str]:
    """A map that does what two do in turn."""
    return {
        point: "".join(second.get(ord(c), c) for c in first.get(point, chr(point)))
        for point in {*first, *second}
    }


def _refusal(place: str, step: Mapping[str, Any]) -> ExportError:
    found = str(dict(step))
    return ExportError(
        f"the tokenizer has the {place} {found[:200]}, which the C library does not know."
    )
