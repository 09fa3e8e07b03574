"""Extractive question answering: the piece of a context that answers a question.

Choosing spans follows transformers' QuestionAnsweringPipeline (until version 4; version 5 has none):
https://huggingface.co/docs/transformers/v4.57.1/main_classes/pipelines
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgept.errors import UsageError
from edgept.latency import Latency
from edgept.runtime.encoding import EncodedText
from edgept.runtime.forward import Output, softmax

__all__ = ["Answer", "AnswerLimits", "Span", "Window", "to_answer", "to_window"]

# Positions of a window with its question, as in transformers' pipeline.
_WINDOW = 384


@dataclass(frozen=True)
class Span:
    """A piece of the context.

    Attributes:
        text: of the context; "" says that there is no answer.
        score: probability of its start times that of its end, summed over where the text is found.
        start: its first character in the context.
        end: the character behind its last.
    """

    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Answer:
    """What the context says to a question.

    Attributes:
        text: of the best span; "" where none is found, or where the best answer is that there is none.
        score: as in Span.
        start: its first character in the context.
        end: the character behind its last.
        spans: the top_k best ones, best first.
        prompt: name of the prompt that brought the head, else of the one in front; None for the plain
            model.
        windows: pieces in which the context was read.
        latency: how long each phase took; prefill is the runs that its windows were part of, and tokens
            are counted in each window.
    """

    text: str
    score: float
    start: int
    end: int
    spans: tuple[Span, ...]
    prompt: str | None
    windows: int
    latency: Latency


@dataclass(frozen=True)
class AnswerLimits:
    """What may be an answer, and how it is looked for; the names are those of transformers' pipeline.

    Attributes:
        top_k: spans to give.
        max_answer_len: tokens of the longest one.
        handle_impossible_answer: whether "no answer" is one, where the model learned that (SQuAD 2).
        align_to_words: whether spans are widened to whole words.
        max_seq_len: positions of a window; None takes 384, or what there is.
        doc_stride: tokens that neighbouring windows share; None takes half of a window, 128 at most.
    """

    top_k: int = 1
    max_answer_len: int = 15
    handle_impossible_answer: bool = False
    align_to_words: bool = True
    max_seq_len: int | None = None
    doc_stride: int | None = None

    def __post_init__(self) -> None:
        for name in ("top_k", "max_answer_len", "max_seq_len"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise UsageError(f"{name} is {value!r}, expected a whole number from 1 on.")

    def windows(self, pair: EncodedText, room: int) -> list[EncodedText]:
        """The windows in which a question and its context are read.

        Args:
            pair: the two.
            room: positions of the model that no prompt takes.

        Raises:
            UsageError: a window is longer than that, or has no room for the context.
        """
        size = min(_WINDOW, room) if self.max_seq_len is None else self.max_seq_len
        if size > room:
            raise UsageError(
                f"max_seq_len is {size}; the model has {room} positions for a window. Leave it out, or "
                "take a smaller one."
            )
        return [*pair.windows(size, self.doc_stride)]


@dataclass(frozen=True, eq=False)
class Window:
    """What was found in one window of a context.

    Attributes:
        spans: its best, best first, none twice.
        none: the score of "no answer".
        output: of its run, without the values.
    """

    spans: tuple[Span, ...]
    none: float
    output: Output


def to_window(output: Output, context: str, limits: AnswerLimits) -> Window:
    """The best spans of a window, from logits (virtual + text tokens, 2), start and end.

    Virtual tokens are not part of an answer, nor are they weighed against those that may be.

    Args:
        output: of the request, whose text is a pair.
        context: the whole one.
        limits: what may be an answer.
    """
    encoded = output.request.text
    if encoded is None:
        raise AssertionError("a question and its context are one pair")
    places = np.flatnonzero(encoded.texts == 1)
    # models that know "no answer" point to the special token in front; it takes part in the softmax
    front = np.flatnonzero(encoded.texts[:1] < 0)  # none, or position 0
    allowed = np.concatenate([front, places])
    logits = output.values[output.is_text][allowed]  # (front + context tokens, 2)
    if not len(allowed):
        return Window((), 0.0, replace(output, values=output.values[:0]))
    probabilities = softmax(logits.T)  # (2, front + context tokens)
    none = float(probabilities[:, 0].prod()) if len(front) else 0.0
    spans = []
    # some become equal when they are widened to words
    count = limits.top_k * 2 + 10 if limits.align_to_words else limits.top_k
    for first, last, score in _best(probabilities[:, len(front) :], count, limits.max_answer_len):
        start, end = _characters(encoded, places[first], places[last], limits.align_to_words)
        spans.append(Span(context[start:end], score, start, end))
    return Window(tuple(spans), none, replace(output, values=output.values[:0]))


def to_answer(windows: Sequence[Window], limits: AnswerLimits) -> Answer:
    """The answer that windows of one context, at least one, give together."""
    by_text: dict[str, Span] = {}  # lower case: "The" at a sentence's begin is "the" elsewhere
    for span in (span for window in windows for span in window.spans):
        same = by_text.get(span.text.lower())
        score = span.score if same is None else same.score + span.score
        by_text[span.text.lower()] = replace(same or span, score=score)
    spans = [*by_text.values()]
    if limits.handle_impossible_answer:
        spans.append(Span("", min(window.none for window in windows), 0, 0))
    spans = sorted(spans, key=lambda span: span.score, reverse=True)[: limits.top_k]
    best = spans[0] if spans else Span("", 0.0, 0, 0)
    return Answer(
        text=best.text,
        score=best.score,
        start=best.start,
        end=best.end,
        spans=tuple(spans),
        prompt=windows[0].output.prompt,
        windows=len(windows),
        latency=_together([window.output.latency for window in windows]),
    )


def _together(latencies: Sequence[Latency]) -> Latency:
    """The latency of windows, some of which ran together and then have the very same times."""
    return replace(
        latencies[0],
        swap_ms=sum({latency.swap_ms for latency in latencies}),
        prefill_ms=sum({latency.prefill_ms for latency in latencies}),
        total_ms=max(latency.total_ms for latency in latencies),
        virtual_tokens=sum(latency.virtual_tokens for latency in latencies),
        input_tokens=sum(latency.input_tokens for latency in latencies),
    )


def _best(
    probabilities: npt.NDArray[np.float64], count: int, longest: int
) -> Iterator[tuple[int, int, float]]:
    """The best spans of a context: first and last token, score.

    Args:
        probabilities: (2, context tokens) that an answer starts and ends there.
        count: of spans.
        longest: tokens of a span.
    """
    size = probabilities.shape[1]
    # (longest, context tokens): span scores by length and first token
    scores = np.zeros((min(longest, size), size))
    for more in range(len(scores)):
        scores[more, : size - more] = probabilities[0, : size - more] * probabilities[1, more:]
    flat = scores.ravel()
    count = min(count, int(np.count_nonzero(flat)))
    if not count:
        return
    order = np.argpartition(-flat, count - 1)[:count]
    for place in order[np.argsort(-flat[order], kind="stable")]:
        more, first = divmod(int(place), size)
        yield first, first + more, float(flat[place])


def _characters(encoded: EncodedText, first: int, last: int, to_words: bool) -> tuple[int, int]:
    """Where a span of tokens stands in the context; widened to whole words where there are words."""
    start, end = encoded.offsets[first][0], encoded.offsets[last][1]
    words = encoded.words
    if not to_words or words[first] < 0 or words[last] < 0:
        return start, end
    of_context = encoded.texts == 1
    begins = np.flatnonzero(of_context & (words == words[first]))
    ends = np.flatnonzero(of_context & (words == words[last]))
    return encoded.offsets[begins[0]][0], encoded.offsets[ends[-1]][1]
