"""The calls on a model that writes: generate, stream, in batches, logits, perplexity, chat."""

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt

from edgept.errors import UsageError
from edgept.manifest import SEQ2SEQ_TASK
from edgept.runtime.beams import BeamOptions
from edgept.runtime.calls import refuse
from edgept.runtime.content import Content, LoadedPrompt, encode_parts
from edgept.runtime.generation import Generation, GenerationStream
from edgept.runtime.generator import Generator
from edgept.runtime.graph_vision import GraphVision
from edgept.runtime.options import GenerateOptions, read_options
from edgept.runtime.perplexity import PERPLEXITY_WINDOW, perplexity
from edgept.runtime.seq2seq_generator import Seq2SeqGenerator
from edgept.runtime.text_model import TextModel

if TYPE_CHECKING:
    from edgept.runtime.chat import ChatTemplate

__all__ = ["WritingModel"]


class WritingModel(TextModel):
    """What `Model` offers on bundles of decoders and of encoder-decoders."""

    def generate(
        self,
        content: Content,
        *,
        prompt: LoadedPrompt | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """Generate a continuation.

        Args:
            content: a text, a list of token ids, or a list of both with loaded prompts anywhere:
                `[spanish, "text", support, "more text"]`. What `chat` returns, too. Special tokens
                are added to the first text only, as peft's users do.
            prompt: put in front of the content; None is the plain model.
            **options: see `GenerateOptions`: max_new_tokens, temperature, stop and so on.

        Raises:
            UsageError: an argument is out of range, or the request does not fit.
            EdgeptError: the sequence is full and on_full is "error", or onnxruntime failed.
        """
        self._writer("generate")
        stream = self.stream(content, prompt=prompt, **options)
        for _ in stream:
            pass
        if stream.result is None:
            raise AssertionError("a stream that has ended has a result")
        return stream.result

    def stream(
        self,
        content: Content,
        *,
        prompt: LoadedPrompt | None = None,
        **options: Unpack[GenerateOptions],
    ) -> GenerationStream:
        """Generate piece by piece: iterate for the text, then read `.result`. Arguments as `generate`."""
        started = time.perf_counter()
        writer = self._writer("stream")
        sampling, limits, beams = read_options(self.manifest.eos_token_ids, **options)
        request = self._compose(content, prompt)
        times = {"load_ms": self.load_ms, "started": started}
        if isinstance(writer, Seq2SeqGenerator):
            return writer.stream(request, sampling, limits, beams, **times)
        _refuse_beams(beams)
        return writer.stream(request, sampling, limits, **times)

    def generate_batch(
        self,
        requests: Iterable[tuple[Content, LoadedPrompt | None]],
        **options: Unpack[GenerateOptions],
    ) -> list[Generation]:
        """Generate for many requests together, each row under a prompt of its own.

        Args:
            requests: (content, prompt) pairs; contents as in `generate`, prompts may be None.
            **options: of each row, see `GenerateOptions`; row i samples with seed + i.

        Returns:
            One generation a request, in their order, each with the tokens that it has alone.
        """
        started = time.perf_counter()
        writer = self._writer("generate_batch")
        sampling, limits, beams = read_options(self.manifest.eos_token_ids, **options)
        composed = [self._compose(content, prompt) for content, prompt in requests]
        times = {"load_ms": self.load_ms, "started": started}
        if isinstance(writer, Seq2SeqGenerator):
            return writer.batch(composed, sampling, limits, beams, **times)
        _refuse_beams(beams)
        return writer.batch(composed, sampling, limits, **times)

    def logits(
        self, content: Content, *, prompt: LoadedPrompt | None = None
    ) -> npt.NDArray[np.float32]:
        """Logits at every position of the content: row i predicts what follows its i-th token.

        Returns:
            (tokens, vocabulary) float32; a leading prompt has no rows of its own, since it is not run.
        """
        return self._generator("logits").logits(self._compose(content, prompt))

    def perplexity(self, text: str, *, prompt: LoadedPrompt | None = None) -> float:
        """Perplexity of a text, in windows of at most 512 tokens, each with its first token given.

        Raises:
            UsageError: the text has fewer than two tokens, or the bundle has no tokenizer.
        """
        self._generator("perplexity")
        ids = self._compose(text, None).ids
        room = self.max_length - (prompt.num_virtual_tokens if prompt else 0)
        window = min(room, PERPLEXITY_WINDOW)
        return perplexity(ids, window, lambda chunk: self.logits(chunk, prompt=prompt))

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> Content:
        """Render messages with the bundle's chat template; pass the result to `generate`.

        Args:
            messages: `{"role": …, "content": …}`; a content may be a list that holds loaded
                prompts among its texts, and they stand exactly there.
            tools: what the template offers the model to call.
            add_generation_prompt: end where the assistant's turn begins.
            **variables: that the template knows, `enable_thinking=False`.

        Raises:
            UsageError: the bundle has no chat template, or the template refuses the messages.
            UntrustedError: the template tries to leave its sandbox.
        """
        if isinstance(self._runner, GraphVision):
            refuse("chat", self.manifest.task)
        if self.tokenizer is None:
            raise UsageError("chat needs a tokenizer, and this bundle has none.")
        rendered = self._chat_template.render_parts(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, **variables
        )
        return encode_parts(rendered, self.tokenizer)

    @cached_property
    def _chat_template(self) -> "ChatTemplate":
        from edgept.runtime.chat import ChatTemplate  # Jinja: not every program chats

        return ChatTemplate.from_bundle(self.bundle)

    def _writer(self, call: str) -> Generator | Seq2SeqGenerator:
        if not isinstance(self._runner, (Generator, Seq2SeqGenerator)):
            refuse(call, self.manifest.task)
        return self._runner

    def _generator(self, call: str) -> Generator:
        if not isinstance(self._runner, Generator):
            refuse(call, self.manifest.task)
        return self._runner

    def _seq2seq(self, call: str) -> Seq2SeqGenerator:
        if not isinstance(self._runner, Seq2SeqGenerator):
            refuse(call, self.manifest.task)
        return self._runner


def _refuse_beams(beams: BeamOptions) -> None:
    """A decoder-only model's cache is extended in place, so its rows cannot change places."""
    if beams.num_beams not in (None, 1) or set(beams.given) - {"num_beams"}:
        raise UsageError(
            f"{beams.given[0]} is for beam search, which runs on bundles of encoder-decoders "
            f"({SEQ2SEQ_TASK}) only: a decoder-only model's keys and values are extended in place. Leave "
            "it out."
        )
