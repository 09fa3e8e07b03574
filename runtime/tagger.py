"""Token classification: the entities in a text, such as the names of people and places.

Grouping tokens follows transformers' TokenClassificationPipeline, so that a model gives the entities
there that it gives here: https://huggingface.co/docs/transformers/main_classes/pipelines
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgept.errors import UsageError
from edgept.latency import Latency
from edgept.runtime.forward import Output, softmax
from edgept.runtime.text import Tokenizer

__all__ = ["AGGREGATIONS", "Entity", "Tagging", "check_aggregation", "to_tagging"]

AGGREGATIONS = ("none", "simple", "first", "average", "max")
# The class of what is no entity, by convention.
_OUTSIDE = "O"


@dataclass(frozen=True)
class Entity:
    """A piece of the text that has a class.

    Attributes:
        label: "PER"; of single tokens (aggregation "none") as the model says it, "B-PER".
        score: its probability; of several tokens, the mean.
        start: its first character in the text; None where the request was no single text.
        end: the character behind its last.
        text: what stands there.
    """

    label: str
    score: float
    start: int | None
    end: int | None
    text: str


@dataclass(frozen=True, eq=False)
class Tagging:
    """What was found in a text.

    Attributes:
        entities: in the order of the text.
        prompt: name of the prompt that brought the head, else of the one in front; None for the plain
            model.
        truncated: tokens of the text that were cut off to fit, and so have no class.
        latency: how long each phase took; prefill is the run.
    """

    entities: tuple[Entity, ...]
    prompt: str | None
    truncated: int
    latency: Latency


class _Span(NamedTuple):
    """Tokens that stand together: their probabilities or their label, and their place."""

    first: int  # position among the text's tokens
    last: int
    probabilities: npt.NDArray[np.float64]  # (classes,)
    label: str
    score: float


def check_aggregation(aggregation: str) -> None:
    """Refuse an aggregation that there is not.

    Raises:
        UsageError: so it is.
    """
    if aggregation not in AGGREGATIONS:
        raise UsageError(
            f"aggregation is {aggregation!r}, expected one of {', '.join(AGGREGATIONS)}: simple joins "
            "neighbours of one class, none gives every token."
        )


def to_tagging(
    output: Output, text: str | None, tokenizer: Tokenizer | None, aggregation: str
) -> Tagging:
    """The entities of a text, from logits (virtual + text tokens, classes).

    Args:
        output: of the request.
        text: that it was of; None where it was token ids or had several parts.
        tokenizer: of the bundle.
        aggregation: one of AGGREGATIONS.
    """
    tokens = _Tokens(output, text, tokenizer)
    probabilities = softmax(output.values[output.is_text])  # (text tokens, classes)
    spans = []
    for place in tokens.places:
        best = int(probabilities[place].argmax())
        score = float(probabilities[place, best])
        spans.append(_Span(place, place, probabilities[place], output.labels[best], score))
    if aggregation not in ("none", "simple"):
        spans = _words(spans, tokens, output.labels, aggregation)
    if aggregation != "none":
        spans = _groups(spans)
    entities = [tokens.entity(span) for span in spans if span.label != _OUTSIDE]
    return Tagging(tuple(entities), output.prompt, output.truncated, output.latency)


class _Tokens:
    """The text's own tokens, without the special ones around it."""

    def __init__(self, output: Output, text: str | None, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._ids = output.request.ids[output.is_text]
        self._encoded, self._text = output.request.text, text
        if self._encoded is not None:
            self.places = np.flatnonzero(self._encoded.texts == 0).tolist()
        else:
            self.places = [
                place
                for place, token in enumerate(self._ids.tolist())
                if tokenizer is None or tokenizer.token(token) is not None
            ]

    def continues_word(self, place: int) -> bool:
        """Whether a token goes on with the word of the token before it."""
        if self._encoded is None or self._text is None or self._tokenizer is None:
            return False
        token = self._encoded.tokens[place]
        start, end = self._encoded.offsets[place]
        if token == self._tokenizer.unknown:
            return False
        if self._tokenizer.marks_continuations:
            return len(token) != end - start  # by its mark, "##ing"
        return start > 0 and " " not in self._text[start - 1 : start + 1]

    def entity(self, span: _Span) -> Entity:
        if self._encoded is None or self._text is None:
            ids = self._ids[span.first : span.last + 1].tolist()
            text = "" if self._tokenizer is None else self._tokenizer.decode(ids)
            return Entity(span.label, span.score, None, None, text)
        start = self._encoded.offsets[span.first][0]
        end = self._encoded.offsets[span.last][1]
        return Entity(span.label, span.score, start, end, self._text[start:end])


def _words(
    spans: Sequence[_Span], tokens: _Tokens, labels: Sequence[str], aggregation: str
) -> list[_Span]:
    """One span a word: of its first token's class, of its surest token's, or of the mean's."""
    words: list[list[_Span]] = []
    for span in spans:
        if words and tokens.continues_word(span.first):
            words[-1].append(span)
        else:
            words.append([span])
    found = []
    for word in words:
        if aggregation == "first":
            probabilities = word[0].probabilities
        elif aggregation == "max":
            probabilities = max(word, key=lambda span: span.score).probabilities
        else:
            probabilities = np.mean([span.probabilities for span in word], axis=0)
        best = int(probabilities.argmax())
        score = float(probabilities[best])
        found.append(_Span(word[0].first, word[-1].last, probabilities, labels[best], score))
    return found


def _groups(spans: Sequence[_Span]) -> list[_Span]:
    """Neighbours of one class as one; B- begins another."""
    groups: list[list[_Span]] = []
    for span in spans:
        _, begins = _class_of(span.label)
        if groups and not begins and _class_of(groups[-1][-1].label)[0] == _class_of(span.label)[0]:
            groups[-1].append(span)
        else:
            groups.append([span])
    return [
        _Span(
            group[0].first,
            group[-1].last,
            group[0].probabilities,
            group[0].label.split("-", 1)[-1],
            float(np.mean([span.score for span in group])),
        )
        for group in groups
    ]


def _class_of(label: str) -> tuple[str, bool]:
    """A label without B- or I-, and whether it begins an entity."""
    if label.startswith(("B-", "I-")):
        return label[2:], label.startswith("B-")
    return label, False
