"""The request that is measured: a text of the wanted length, or token ids where nothing reads text."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgept.errors import UsageError
from edgept.prompt import Prompt
from edgept.runtime.content import Content, LoadedPrompt
from edgept.runtime.model import Model

__all__ = ["Question", "ask", "check_length", "least_ids", "make_question"]

_TEXT = (
    "hello I ordered a pair of walking boots from your shop last week and the page said that they "
    "would come on Tuesday but nothing has arrived so far could you please look where my parcel is "
    "and tell me when I can expect it my order number is four seven one one and my name is Anna "
    "thank you very much for your help I would also like to know how to send one pair back "
)
_TRIES = 4


@dataclass(frozen=True)
class Question:
    """A request without its prompt.

    Attributes:
        text: None where the bundle has no tokenizer, or two bundles read the text differently.
        token_ids: of the text with its special tokens, or random ones.
        new_tokens: that are asked for.
        answered_tokens: that come; fewer where the model ends its answer.
    """

    text: str | None
    token_ids: list[int]
    new_tokens: int
    answered_tokens: int

    of: ClassVar[str] = "texts"
    swaps: ClassVar[str] = "each copies keys and values, which recent prompts need not"

    def describe(self, virtual_tokens: int) -> str:
        """In a few words, with the prompt's tokens."""
        tokens = f"{virtual_tokens} virtual + {len(self.token_ids)} tokens"
        return f"{tokens}, {self.answered_tokens} of {self.new_tokens} new"

    @property
    def content(self) -> Content:
        """What the model is given."""
        return self.token_ids if self.text is None else self.text


def make_question(
    model: Model, prompts: Sequence[LoadedPrompt], tokens: int, new_tokens: int
) -> Question:
    """A request of about `tokens` tokens, the one of a few whose answers are longest.

    Nothing keeps a model from ending its answer: the runtime has no switch that exists only for
    benchmarks, so an answer may have fewer tokens than are asked for, and the report says how many.

    Raises:
        UsageError: the request does not fit the model's longest sequence.
    """
    best: Question | None = None
    for turn in range(_TRIES):
        text, ids = _candidate(model, tokens, turn)
        question = ask(model, prompts, text, ids, new_tokens)
        if best is None or question.answered_tokens > best.answered_tokens:
            best = question
        if best.answered_tokens == new_tokens:
            break
    if best is None:
        raise AssertionError("there is a candidate")
    return best


def ask(
    model: Model,
    prompts: Sequence[LoadedPrompt],
    text: str | None,
    token_ids: list[int],
    new_tokens: int,
) -> Question:
    """This very request, once it is known to fit, and how long its answers are.

    Args:
        model: that answers.
        prompts: under which it is asked.
        text: None, or text that the model's tokenizer reads as the ids.
        token_ids: of the request.
        new_tokens: to ask for.

    Raises:
        UsageError: the request does not fit the model's longest sequence.
    """
    check_length(prompts, len(token_ids), new_tokens, model.max_length)
    content: Content = token_ids if text is None else text
    answered = min(
        len(model.generate(content, prompt=prompt, max_new_tokens=new_tokens).token_ids)
        for prompt in prompts
    )
    return Question(text, token_ids, new_tokens, answered)


def check_length(
    prompts: Sequence[Prompt | LoadedPrompt], tokens: int, new_tokens: int, longest: int
) -> None:
    """Refuse a request that does not fit the longest sequence.

    Raises:
        UsageError: it does not.
    """
    virtual = max(prompt.num_virtual_tokens for prompt in prompts)
    if virtual + tokens + new_tokens > longest:
        raise UsageError(
            f"{virtual} virtual, {tokens} text and {new_tokens} new tokens do not fit the longest "
            f"sequence of {longest}. Lower --prompt-length or --new-tokens."
        )


def least_ids(model: Model) -> list[int]:
    """The shortest request that there is: one token, which is no special one in most vocabularies."""
    return [min(16, model.manifest.vocab_size - 1)]


def _candidate(model: Model, tokens: int, turn: int) -> tuple[str | None, list[int]]:
    tokenizer = model.tokenizer
    if tokenizer is None:
        # the first few ids are special tokens in most vocabularies
        low = min(16, model.manifest.vocab_size // 2)
        random = np.random.default_rng(turn)
        return None, random.integers(low, model.manifest.vocab_size, tokens).tolist()
    words = _TEXT.split()
    endless = itertools.cycle(words[turn * 7 :] + words[: turn * 7])
    text, ids = "", tokenizer.encode("", special_tokens=True)
    while len(ids) < tokens:
        text = f"{text} {next(endless)}".lstrip()
        ids = tokenizer.encode(text, special_tokens=True)
    while len(ids) > tokens and len(text) > 1:  # the last word, letter by letter
        text = text[:-1]
        ids = tokenizer.encode(text, special_tokens=True)
    return text, ids
