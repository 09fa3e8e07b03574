"""What a reply is worth: its mode by its words, and whether the corpus could have given it."""

import re
from collections.abc import Mapping
from functools import cache

from edgept.demo.corpus import (
    DESKS,
    INTENTS,
    LANGUAGES,
    Question,
    reply_language,
    reply_templates,
    slot_names,
    slots_of,
    texts,
)

__all__ = ["language_of", "mode_of", "reply_matches"]


def reply_matches(reply: str, question: Question, mode: str, *, copied: bool) -> bool:
    """Whether a reply is one that the generator could have given in this mode.

    Args:
        reply: the text to judge.
        question: what it replies to.
        mode: the mode it should have.
        copied: ask for the question's own order number, name, product, amount and city; otherwise
            anything may stand in their places, and only mode and intent are judged.
    """
    if mode == "intent":
        return reply == question.intent
    language = reply_language(question, mode)
    slots = slots_of(language, question.values)
    parts = [
        "|".join(
            _pattern(option, slots, copied) for option in options if slot_names(option) <= {*slots}
        )
        for options in reply_templates(question, mode)
    ]
    greeting, body, closing = (f"(?:{part})" for part in parts)
    joiner = texts(language)["joiner"]
    return re.fullmatch(f"{greeting}{joiner}{body}(?:{joiner}{closing})?", reply) is not None


def mode_of(reply: str, question: Question) -> str:
    """The mode that a reply appears to have, judged by its words and not by what it says.

    Returns:
        One of MODES; or "unknown", where no word tells, and where a desk does not write the
        customer's language.
    """
    if reply in INTENTS:
        return "intent"
    language = language_of(reply)
    for desk in DESKS:
        greetings = [*texts(question.language)["desks"][desk]["greeting"].values()]
        if any(re.match(_pattern(g, {}, copied=False), reply) for gs in greetings for g in gs):
            return desk if language == question.language else "unknown"
    return language


def language_of(text: str) -> str:
    """Guess a text's language from the words that only one language of the corpus uses.

    Returns:
        One of LANGUAGES, or "unknown" where no word tells.
    """
    if re.search(r"[\u3040-\u30ff]", text):
        return "japanese"
    words = re.findall(r"[^\W\d_]+", text.lower())
    counts = {
        language: sum(word in _own_words(language) for word in words)
        for language in LANGUAGES
        if language != "japanese"
    }
    best = max(counts, key=lambda language: counts[language])
    return best if counts[best] else "unknown"


def _pattern(template: str, slots: Mapping[str, str], copied: bool) -> str:
    """The regular expression of all that a template can become."""
    syntax = {"[": "(?:", "|": "|", "]": ")"}
    pattern = ""
    for piece in re.findall(r"{\w+}|.", template):
        if len(piece) > 1:
            pattern += re.escape(slots[piece[1:-1]]) if copied else ".*?"
        else:
            pattern += syntax.get(piece, re.escape(piece))
    return pattern


@cache
def _own_words(language: str) -> frozenset[str]:
    """Words of a language's texts that no other language of the corpus has."""

    def words(of: str) -> set[str]:
        plain = re.sub(r"{\w+}", " ", " ".join(_strings(texts(of))))
        return set(re.findall(r"[^\W\d_]+", plain.lower()))

    others = set().union(*(words(other) for other in LANGUAGES if other != language))
    return frozenset(words(language) - others)


def _strings(node: object) -> list[str]:
    """All strings below a node of the parsed file."""
    if isinstance(node, str):
        return [node]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [text for child in children for text in _strings(child)]
