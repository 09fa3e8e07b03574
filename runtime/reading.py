"""The calls on a model that reads a text in one forward pass: classify, tag, answer, embed."""

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias, TypedDict, TypeVar, Unpack

import numpy as np
import numpy.typing as npt

from edgept.errors import UsageError
from edgept.latency import Timed, until_now
from edgept.runtime.answerer import Answer, AnswerLimits, to_answer, to_window
from edgept.runtime.calls import refuse
from edgept.runtime.classifier import Classification, to_classification
from edgept.runtime.content import Content, Input, LoadedPrompt, check_tokenizer
from edgept.runtime.embedder import Embedding, to_embedding
from edgept.runtime.forward import Forward, Output
from edgept.runtime.tagger import Tagging, check_aggregation, to_tagging
from edgept.runtime.text_model import TextModel

if TYPE_CHECKING:
    from edgept.runtime.encoding import EncodedText

__all__ = ["AnswerOptions", "ReadingModel"]

# Tasks whose models read two texts at once.
OF_PAIRS = ("text-classification", "question-answering")

_T = TypeVar("_T", bound=Timed)
Request: TypeAlias = tuple[Content, LoadedPrompt | None]
"""A content and the prompt in front of it."""
Question: TypeAlias = tuple[tuple[str, str], LoadedPrompt | None]
"""A question and its context, and the prompt in front of them."""


class AnswerOptions(TypedDict, total=False):
    """Options of `answer` and `answer_batch`; the names are those of transformers' pipelines.

    Attributes:
        top_k: spans to give, best first. Default 1.
        max_answer_len: tokens of the longest answer. Default 15.
        handle_impossible_answer: whether "no answer" may be one. Default False.
        align_to_words: widen an answer to whole words. Default True.
        max_seq_len: positions of a window, question included and prompt not; default 384, or what the
            model has room for.
        doc_stride: tokens of the context that neighbouring windows share; default half of a window,
            128 at most.
    """

    top_k: int
    max_answer_len: int
    handle_impossible_answer: bool
    align_to_words: bool
    max_seq_len: int | None
    doc_stride: int | None


class ReadingModel(TextModel):
    """What `Model` offers on bundles for other tasks than generation.

    A text that is longer than the model is refused, unless a call says truncate=True; then the result
    says how many tokens were cut off.
    """

    def classify(
        self, content: Content, *, prompt: LoadedPrompt | None = None, truncate: bool = False
    ) -> Classification:
        """Say which class a text is of, or a pair of texts.

        Args:
            content: as in `generate`; a tuple of two texts is a pair.
            prompt: whose virtual tokens stand in front, and whose head is used; None is the plain
                model with its own head.
            truncate: cut a text that is too long, instead of refusing it.

        Raises:
            UsageError: the request does not fit, or neither a prompt nor the model has a head.
        """
        return self._classify([(content, prompt)], "classify", truncate)[0]

    def classify_batch(
        self, requests: Iterable[Request], *, truncate: bool = False
    ) -> list[Classification]:
        """Classify many texts, each under a prompt of its own; those with the same head run together.

        Args:
            requests: (content, prompt) pairs; contents as in `classify`, prompts may be None.
            truncate: as in `classify`.

        Returns:
            One classification a request, in their order, each as it is alone.
        """
        return self._classify(requests, "classify_batch", truncate)

    def tag(
        self,
        content: Content,
        *,
        prompt: LoadedPrompt | None = None,
        aggregation: str = "simple",
        truncate: bool = False,
    ) -> Tagging:
        """Find the entities in a text: names, places, parts of speech.

        Args:
            content: as in `generate`. Entities have their place in it where it is one text.
            prompt: whose virtual tokens stand in front, and whose head is used; None is the plain
                model with its own head. Virtual tokens are no part of the result.
            aggregation: "simple" joins neighbouring tokens of one class, where B- begins another entity;
                "first", "average" and "max" first give each word one class: that of its first token, of
                its tokens' mean, of its surest token; "none" gives every token.
            truncate: cut a text that is too long, instead of refusing it.

        Raises:
            UsageError: the request does not fit, or neither a prompt nor the model has a head.
        """
        return self._tag([(content, prompt)], "tag", aggregation, truncate)[0]

    def tag_batch(
        self,
        requests: Iterable[Request],
        *,
        aggregation: str = "simple",
        truncate: bool = False,
    ) -> list[Tagging]:
        """Tag many texts; requests are (content, prompt) pairs, the rest is as in `tag`.

        Returns:
            One tagging a request, in their order, each as it is alone.
        """
        return self._tag(requests, "tag_batch", aggregation, truncate)

    def answer(
        self,
        question: str,
        context: str,
        *,
        prompt: LoadedPrompt | None = None,
        **options: Unpack[AnswerOptions],
    ) -> Answer:
        """Find the piece of a context that answers a question.

        A long context is read in windows that overlap, the question in front of each.

        Args:
            question: a text.
            context: the text that holds the answer, of any length.
            prompt: whose virtual tokens stand in front of each window, and whose head is used; None is
                the plain model with its own head. Virtual tokens are no part of an answer. As under
                peft, they make the model see no token types.
            **options: see `AnswerOptions`: top_k, max_answer_len, handle_impossible_answer and so on.

        Raises:
            UsageError: a text is empty, the question leaves no room for the context, an option is out
                of range, or neither a prompt nor the model has a head.
        """
        return self._answer([((question, context), prompt)], "answer", options)[0]

    def answer_batch(
        self, requests: Iterable[Question], **options: Unpack[AnswerOptions]
    ) -> list[Answer]:
        """Answer many questions; requests are ((question, context), prompt), the rest is as in `answer`.

        Returns:
            One answer a request, in their order, each as it is alone.
        """
        return self._answer(requests, "answer_batch", options)

    def embed(
        self, content: Content, *, prompt: LoadedPrompt | None = None, truncate: bool = False
    ) -> Embedding:
        """Turn a text into a vector, pooled and normalised as the bundle's manifest says.

        Args:
            content: as in `generate`.
            prompt: whose virtual tokens stand in front; None is the plain model. As under peft, they are
                positions like others: they count in the mean, and "cls" reads the first of them.
            truncate: cut a text that is too long, instead of refusing it.

        Raises:
            UsageError: the request does not fit.
        """
        return self._embed([(content, prompt)], "embed", truncate)[0]

    def embed_batch(
        self, requests: Iterable[Request], *, truncate: bool = False
    ) -> list[Embedding]:
        """Embed many texts, those under different prompts together; arguments as `classify_batch`.

        Returns:
            One embedding a request, in their order, each as it is alone. `np.array` makes float32
            (requests, hidden) of them.
        """
        return self._embed(requests, "embed_batch", truncate)

    def outputs(
        self, content: Content, *, prompt: LoadedPrompt | None = None, truncate: bool = False
    ) -> npt.NDArray[np.float32]:
        """What the graph gives, as peft's model gives it; arguments as `classify`.

        A question and its context are a tuple, (question, context).

        Returns:
            Of a classifier of texts, logits (classes,). Else one row a position, (virtual + text tokens,
            width), virtual tokens and special tokens included: a tagger's logits, those of an answer's
            start [:, 0] and end [:, 1], or the last hidden states.
        """
        return self._outputs([(content, prompt)], "outputs", truncate)[0]

    def outputs_batch(
        self, requests: Iterable[Request], *, truncate: bool = False
    ) -> list[npt.NDArray[np.float32]]:
        """`outputs` of many; requests are (content, prompt) pairs."""
        return self._outputs(requests, "outputs_batch", truncate)

    def _outputs(
        self, requests: Iterable[Request], call: str, truncate: bool
    ) -> list[npt.NDArray[np.float32]]:
        found = self._read(requests, call, None, truncate, lambda _, output: output)
        return [output.values for output in found]

    def _classify(
        self, requests: Iterable[Request], call: str, truncate: bool
    ) -> list[Classification]:
        def finish(_: Content, output: Output) -> Classification:
            return to_classification(output)

        return self._read(requests, call, "text-classification", truncate, finish)

    def _tag(
        self, requests: Iterable[Request], call: str, aggregation: str, truncate: bool
    ) -> list[Tagging]:
        check_aggregation(aggregation)

        def finish(content: Content, output: Output) -> Tagging:
            text = content if isinstance(content, str) else None
            return to_tagging(output, text, self.tokenizer, aggregation)

        return self._read(requests, call, "token-classification", truncate, finish)

    def _embed(self, requests: Iterable[Request], call: str, truncate: bool) -> list[Embedding]:
        def finish(_: Content, output: Output) -> Embedding:
            pooling = self.manifest.pooling or "mean"
            return to_embedding(output, pooling, normalize=self.manifest.normalize)

        return self._read(requests, call, "feature-extraction", truncate, finish)

    def _answer(
        self, requests: Iterable[Question], call: str, options: AnswerOptions
    ) -> list[Answer]:
        started = time.perf_counter()
        forward = self._forward(call, "question-answering")
        limits = AnswerLimits(**options)
        tokenizer = check_tokenizer(self.tokenizer)
        composed: list[Input] = []
        contexts: list[str] = []  # of each window
        sizes: list[int] = []  # windows of each request
        for pair, prompt in requests:
            question, context = _checked_question(pair)
            encoded = tokenizer.encode_text(question, context)
            windows = limits.windows(encoded, self._room(prompt))
            composed += [self._compose(window, prompt) for window in windows]
            contexts += [context] * len(windows)
            sizes.append(len(windows))
        found = iter(
            forward.run(
                composed,
                lambda index, output: to_window(output, contexts[index], limits),
                load_ms=self.load_ms,
                started=started,
            )
        )
        return [
            until_now(to_answer([next(found) for _ in range(size)], limits), started)
            for size in sizes
        ]

    def _read(
        self,
        requests: Iterable[Request],
        call: str,
        task: str | None,
        truncate: bool,
        finish: Callable[[Content, Output], _T],
    ) -> list[_T]:
        """Run (content, prompt) requests; `finish` makes a result of a content and its output."""
        started = time.perf_counter()
        forward = self._forward(call, task)
        requests = [*requests]
        contents = [content for content, _ in requests]
        composed = [
            self._compose(self._encoded(content, prompt, truncate), prompt)
            for content, prompt in requests
        ]
        return forward.run(
            composed,
            lambda index, output: until_now(finish(contents[index], output), started),
            load_ms=self.load_ms,
            started=started,
        )

    def _encoded(
        self, content: Content, prompt: LoadedPrompt | None, truncate: bool
    ) -> "Content | EncodedText":
        """A text or a pair as tokens, cut where that is asked for; anything else as it is."""
        if isinstance(content, str):
            encoded = check_tokenizer(self.tokenizer).encode_text(content)
        elif isinstance(content, tuple) and [*map(type, content)] == [str, str]:
            if self.manifest.task not in OF_PAIRS:
                raise UsageError(
                    f"a tuple of two texts is a pair, as {' and '.join(OF_PAIRS)} take; this bundle is "
                    f"for {self.manifest.task}. Pass one text, or [first, second] for one that is made "
                    "of both."
                )
            encoded = check_tokenizer(self.tokenizer).encode_text(*content)
        else:
            return content
        if truncate:
            left = self.tokenizer is not None and self.tokenizer.cuts_left
            encoded = encoded.cut_to(self._room(prompt), left=left)
        return encoded

    def _room(self, prompt: object) -> int:
        """Positions that a prompt leaves; what is no loaded prompt is refused when it is composed."""
        taken = prompt.num_virtual_tokens if isinstance(prompt, LoadedPrompt) else 0
        return self.max_length - taken

    def _forward(self, call: str, task: str | None) -> Forward:
        """The graph, where the call is for this bundle's task; None is any that reads."""
        if not isinstance(self._runner, Forward) or task not in (None, self.manifest.task):
            refuse(call, self.manifest.task)
        return self._runner


def _checked_question(pair: object) -> tuple[str, str]:
    if not (isinstance(pair, tuple) and [*map(type, pair)] == [str, str]):
        raise UsageError(
            f"a question is asked of a context: expected two texts, (question, context), found "
            f"{str(pair)[:60]!r}."
        )
    question, context = pair
    for name, text in (("question", question), ("context", context)):
        if not text.strip():
            raise UsageError(f"the {name} is empty. A question needs a context that may answer it.")
    return question, context
