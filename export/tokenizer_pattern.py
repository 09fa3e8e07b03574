r"""A pre-tokenizer's regular expression as a small program, which the C library runs.

Taken are alternatives of characters, classes and repeats of them, groups that are not repeated, and a
look at the next character: what the patterns of GPT-2, Llama 3, Qwen and most others consist of. What
a class holds is not worked out here: `tokenizer_characters` asks the tokenizers library.

A character or class is an *atom*: its text as the pattern has it, ``\p{L}`` or ``[^\r\n]``, with
``(?i:...)`` around where letters match in both cases.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from edgept.errors import ExportError

__all__ = ["Instruction", "class_program", "compile_pattern", "literal_program"]

NONE = 0xFFFFFFFF
LITERAL = 0x80000000
CHARACTERS, POSSESSIVE, FORK, JUMP, NOT_BEFORE, BEFORE, DONE = range(1, 8)

Instruction = tuple[int, int, int, int]

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
_CLASS_ESCAPES = "sSdDwW"
_QUANTIFIER = re.compile(r"\{(\d+)(,?)(\d*)\}|[?*+]")
# ASCII letters that one character stands for where case does not count: U+00DF for ss, ligatures.
_FOLDED = {"ss", "ff", "fi", "fl", "st"}


@dataclass
class _Atom:
    """A character or a class, `least` to `most` times."""

    text: str
    literal: str | None
    any_case: bool
    least: int = 1
    most: int = 1
    possessive: bool = False


@dataclass
class _Look:
    """What follows: `atom`, or not."""

    atom: _Atom
    wanted: bool


@dataclass
class _Group:
    """Alternatives, which may be left out where `optional`."""

    choices: list[list["_Atom | _Look | _Group"]] = field(default_factory=list)
    optional: bool = False


def compile_pattern(pattern: str, class_of: Callable[[str], int]) -> list[Instruction]:
    """A regular expression as instructions; jumps count from the first.

    Args:
        pattern: in the syntax of Oniguruma, as tokenizer.json has it.
        class_of: from an atom's text to the number of its class.

    Raises:
        ExportError: the pattern has something that is not taken.
    """
    parser = _Parser(pattern)
    group = parser.alternatives(any_case=False)
    if parser.at != len(pattern):
        raise parser.refusal(pattern[parser.at])
    if _shortest(group) == 0:
        raise ExportError(f"the pre-tokenizer's pattern {pattern!r} may match nothing at all.")
    program: list[Instruction] = []
    _emit(group, program, class_of)
    program.append((DONE, 0, 0, 0))
    return program


def literal_program(text: str) -> list[Instruction]:
    """A program that matches this text."""
    return [*((CHARACTERS, ord(c) | LITERAL, 1, 1) for c in text), (DONE, 0, 0, 0)]


def class_program(number: int, *, many: bool) -> list[Instruction]:
    """A program that matches one character of a class, or as many as there are."""
    return [(CHARACTERS, number, 1, NONE if many else 1), (DONE, 0, 0, 0)]


def _shortest(item: _Atom | _Look | _Group) -> int:
    """Characters that an item matches at least."""
    if isinstance(item, _Atom):
        return item.least
    if isinstance(item, _Look) or item.optional:
        return 0
    return min(sum(_shortest(part) for part in choice) for choice in item.choices)


def _emit(
    item: _Atom | _Look | _Group, program: list[Instruction], class_of: Callable[[str], int]
) -> None:
    """Append an item's instructions."""
    if isinstance(item, _Atom):
        operation = POSSESSIVE if item.possessive else CHARACTERS
        program.append((operation, _operand(item, class_of), item.least, item.most))
    elif isinstance(item, _Look):
        program.append((BEFORE if item.wanted else NOT_BEFORE, _operand(item.atom, class_of), 0, 0))
    else:
        choices = [*item.choices, []] if item.optional else item.choices
        ends = []
        for number, choice in enumerate(choices):
            fork = len(program)
            last = number == len(choices) - 1
            if not last:
                program.append((FORK, fork + 1, 0, 0))
            for part in choice:
                _emit(part, program, class_of)
            if not last:
                ends.append(len(program))
                program.append((JUMP, 0, 0, 0))
                program[fork] = (FORK, fork + 1, len(program), 0)
        for end in ends:
            program[end] = (JUMP, len(program), 0, 0)


def _operand(atom: _Atom, class_of: Callable[[str], int]) -> int:
    if atom.literal is not None and not atom.any_case:
        return ord(atom.literal) | LITERAL
    return class_of(f"(?i:{atom.text})" if atom.any_case else atom.text)


class _Parser:
    """Reads a pattern from its beginning to its end."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0

    def refusal(self, found: str) -> ExportError:
        return ExportError(
            f"the pre-tokenizer's pattern {self.pattern!r} has {found!r} at character {self.at}, "
            "which is not among what the C library matches."
        )

    def alternatives(self, *, any_case: bool) -> _Group:
        group = _Group([self._sequence(any_case=any_case)])
        while self._takes("|"):
            group.choices.append(self._sequence(any_case=any_case))
        return group

    def _takes(self, text: str) -> bool:
        found = self.pattern.startswith(text, self.at)
        self.at += len(text) if found else 0
        return found

    def _sequence(self, *, any_case: bool) -> list[_Atom | _Look | _Group]:
        items: list[_Atom | _Look | _Group] = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            begin = self.at
            if self.pattern[self.at] == "(":
                items.append(self._group(any_case=any_case))
            else:
                items.append(self._repeated(self._atom(any_case=any_case)))
            if any_case and _folds(items):
                self.at = begin
                raise self.refusal(self.pattern[begin])
        return items

    def _group(self, *, any_case: bool) -> _Look | _Group:
        for opening, wanted in (("(?!", False), ("(?=", True)):
            if self._takes(opening):
                look = _Look(self._atom(any_case=any_case), wanted)
                if not self._takes(")"):
                    raise self.refusal(self.pattern[self.at : self.at + 1])
                return look
        if self._takes("(?i:"):
            any_case = True
        elif not self._takes("(?:"):
            self._takes("(")
            if self.pattern.startswith("?", self.at):
                raise self.refusal(self.pattern[self.at - 1 : self.at + 2])
        group = self.alternatives(any_case=any_case)
        if not self._takes(")"):
            raise self.refusal(self.pattern[self.at : self.at + 1])
        if self._takes("?"):
            group.optional = True
        if self.at < len(self.pattern) and self.pattern[self.at] in "?*+{":
            raise self.refusal(self.pattern[self.at])
        return group

    def _atom(self, *, any_case: bool) -> _Atom:
        begin = self.at
        character = self.pattern[begin : begin + 1]
        literal: str | None = None
        if character == "\\":
            literal = self._escape()
        elif character == "[":
            self._class()
        elif character == "" or character in "^$.?*+)":
            raise self.refusal(character)
        else:
            literal = character
            self.at += 1
        text = self.pattern[begin : self.at]
        if any_case and not text.isascii():
            self.at = begin
            raise self.refusal(text)
        # where a letter has no case, nothing but itself is matched
        any_case = any_case and (literal is None or literal.isalpha())
        return _Atom(text, literal, any_case)

    def _escape(self) -> str | None:
        r"""Step over ``\s`` or ``\p{L}``, which are classes, or a character, which is returned."""
        letter = self.pattern[self.at + 1 : self.at + 2]
        if letter in ("p", "P"):
            end = self.pattern.find("}", self.at)
            if self.pattern[self.at + 2 : self.at + 3] != "{" or end < 0:
                raise self.refusal(self.pattern[self.at : self.at + 3])
            self.at = end + 1
            return None
        if letter != "" and letter in _CLASS_ESCAPES:
            self.at += 2
            return None
        if letter in _ESCAPES or (letter != "" and not letter.isalnum()):
            self.at += 2
            return _ESCAPES.get(letter, letter)
        raise self.refusal(self.pattern[self.at : self.at + 2])

    def _class(self) -> None:
        """Step over ``[...]``, in which others may stand."""
        begin, depth = self.at, 0
        while self.at < len(self.pattern):
            character = self.pattern[self.at]
            self.at += 2 if character == "\\" else 1
            depth += (character == "[") - (character == "]")
            if depth == 0:
                return
        self.at = begin
        raise self.refusal("[")

    def _repeated(self, atom: _Atom) -> _Atom:
        found = _QUANTIFIER.match(self.pattern, self.at)
        if found is None:
            if self.pattern.startswith("{", self.at):
                raise self.refusal("{")
            return atom
        self.at = found.end()
        if found[0] in "?*+":
            atom.least = 1 if found[0] == "+" else 0
            atom.most = 1 if found[0] == "?" else NONE
            atom.possessive = self._takes("+")
        else:
            atom.least = int(found[1])
            atom.most = int(found[3]) if found[3] else NONE if found[2] else atom.least
            if not atom.least <= atom.most or atom.most == 0:
                raise self.refusal(found[0])
        if self.pattern[self.at : self.at + 1] in ("?", "*", "+", "{"):
            raise self.refusal(self.pattern[self.at])
        return atom


def _folds(items: list[_Atom | _Look | _Group]) -> bool:
    """Whether the last two atoms, in any case, may be one character: the two s of U+00DF."""
    if len(items) < 2 or not isinstance(items[-1], _Atom) or not isinstance(items[-2], _Atom):
        # a group beside a letter: taken only where the letter begins no such pair
        letters = [part for part in items[-2:] if isinstance(part, _Atom)]
        return len(items) > 1 and any(letter.any_case for letter in letters)
    return any(
        pair[0] in _letters(items[-2]) and pair[1] in _letters(items[-1]) for pair in _FOLDED
    )


def _letters(atom: _Atom) -> Iterator[str]:
    """ASCII letters, in lower case, that an atom may match."""
    if not atom.any_case:
        return iter(())
    return iter((atom.literal or "filst").lower())
