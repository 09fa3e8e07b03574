"""What the calls on a model of text share: its bundle, and how a request is laid out."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgept.runtime.content import Content, Input, LoadedPrompt, compose

if TYPE_CHECKING:
    from edgept.manifest import Manifest
    from edgept.runtime.encoding import EncodedText
    from edgept.runtime.forward import Forward
    from edgept.runtime.generator import Generator
    from edgept.runtime.graph_vision import GraphVision
    from edgept.runtime.seq2seq_generator import Seq2SeqGenerator
    from edgept.runtime.text import Tokenizer

__all__ = ["WITHOUT_TYPES", "TextModel"]

# Tasks in which peft does not pass token types on where there are virtual tokens, so that a model was
# tuned with all of them 0 and must be run so.
WITHOUT_TYPES = ("question-answering", "feature-extraction")


class TextModel:
    """What `ReadingModel` and `WritingModel` rely on; `Model` sets it."""

    bundle: Path
    manifest: "Manifest"
    tokenizer: "Tokenizer | None"
    max_length: int
    load_ms: float
    _runner: "Forward | Generator | Seq2SeqGenerator | GraphVision"

    def _compose(self, content: "Content | EncodedText", prompt: LoadedPrompt | None) -> Input:
        request = compose(
            content,
            prompt,
            tokenizer=self.tokenizer,
            vocab_size=self.manifest.vocab_size,
            model=self,
        )
        if request.virtual_tokens and self.manifest.task in WITHOUT_TYPES:
            return replace(request, type_ids=None)
        return request
