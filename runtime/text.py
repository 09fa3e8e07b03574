"""Text to token ids and back, one token at a time too, over a bundle's tokenizer.json.

Code organization:
    Tokenizer   encode, decode; safe to share between threads; encoding.py is what a text becomes
    TextStream  the text of a growing sequence, in pieces that add up to exactly `decode`
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from edgept.errors import InvalidFileError, UsageError
from edgept.runtime.encoding import EncodedText

__all__ = ["TextStream", "Tokenizer", "read_tokenizer_config", "special_tokens"]

# TextStream decodes a window of the last tokens. Past _WINDOW of them, it keeps the last _CONTEXT,
# since a decoder treats a sequence's first token unlike the others.
_WINDOW = 32
_CONTEXT = 8

# transformers' clean_up_tokenization_spaces: one pass per row, in this order.
_CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """Read a bundle's tokenizer_config.json; empty where there is none.

    Raises:
        InvalidFileError: the file is not a JSON object.
    """
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _malformed(path, error) from error
    if not isinstance(config, dict):
        raise _malformed(path, f"a {type(config).__name__} instead of an object")
    return config


def special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """The named special tokens of a tokenizer_config.json: ``{"bos_token": "<s>", ...}``."""
    return {name: _content(value) for name, value in _named_tokens(config) if _content(value)}


def _malformed(path: Path, found: object) -> InvalidFileError:
    return InvalidFileError(
        "tokenizer-malformed",
        f"{path} is not a tokenizer file: {found}. Copy the bundle again, or export again.",
    )


def _named_tokens(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Entries that name a token: bos_token, eos_token, ..., and a model's own, image_token."""
    for name, value in config.items():
        if name.endswith("_token") and isinstance(value, (str, dict)):
            yield name, value
    extra = config.get("extra_special_tokens")
    if isinstance(extra, dict):
        yield from extra.items()


def _content(token: Any) -> str:
    """A token's text; the config writes it as a string or as an added token's fields."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)


def _added_token(fields: dict[str, Any]) -> AddedToken:
    names = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(**{name: fields[name] for name in names if name in fields})


def _config_tokens(config: dict[str, Any], known: set[str]) -> list[AddedToken]:
    """Tokens that only tokenizer_config.json declares, in the order in which transformers adds them.

    Args:
        config: tokenizer_config.json.
        known: contents of the added tokens of tokenizer.json.
    """
    # An entry that tokenizer.json has too replaces it, and is no change where the two are equal.
    decoder = config.get("added_tokens_decoder") or {}
    tokens = [_added_token(decoder[key]) for key in sorted(decoder, key=int)]
    known = known | {token.content for token in tokens}
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    for value in [value for _, value in _named_tokens(config)] + list(extra):
        if _content(value) and _content(value) not in known:
            known.add(_content(value))
            tokens.append(AddedToken(_content(value), special=True))
    return tokens


def _streams(decoder: dict[str, Any] | None) -> bool:
    """Whether later tokens leave the text of earlier ones alone, given a token of context.

    Args:
        decoder: the decoder's part of tokenizer.json.
    """
    steps = [] if decoder is None else decoder.get("decoders", [decoder])
    whole_text = False  # the steps before made one string of all tokens
    for step in steps:
        kind = step.get("type")
        if kind in ("ByteLevel", "Fuse"):
            whole_text = True
        elif kind == "Strip":
            if whole_text and step.get("stop", 0):
                return False
        elif whole_text or kind not in (
            "BPEDecoder",
            "ByteFallback",
            "Metaspace",
            "Replace",
            "WordPiece",
        ):
            return False
    return True


def _clean_up(text: str) -> str:
    for found, replacement in _CLEAN_UP:
        text = text.replace(found, replacement)
    return text


def _clean_up_cut(text: str) -> int:
    """Up to where `text` can be cleaned up now, whatever follows; the rest begins with a space.

    Every pattern begins with a space. One that reaches over a cut before a space would need the
    character before the cut to be a space (" ."), an apostrophe (" ' ") or, once " ' t" has become
    "'t", an n (" n't"), so no cut is made behind those.
    """
    cut = text.rfind(" ")
    while cut > 0 and text[cut - 1] in " 'n":
        cut = text.rfind(" ", 0, cut)
    return max(cut, 0)


class Tokenizer:
    """A bundle's tokenizer: the ids and the text that transformers' fast tokenizer gives.

    Threads may share one; it never changes after it is made.

    Attributes:
        vocab_size: ids that have a token, added tokens included. The model's embedding may be padded
            to more; such ids, like virtual tokens, have no text.
        backend: the library's own tokenizer, with what tokenizer_config.json adds.
        has_types: whether the model is told which of a pair's texts a token is of.
        cleans_up: whether decoded text loses the spaces in front of punctuation.
        cuts_left: whether a text that is too long loses its beginning instead of its end.
        unknown: the token that stands for what the vocabulary lacks; None without one.
        marks_continuations: whether a token that continues a word is marked as such: "##ing".
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
        # Batches are padded by the runtime, and a text that is too long is an error, not cut in silence.
        backend.no_padding()
        backend.no_truncation()
        known = {token.content for token in backend.get_added_tokens_decoder().values()}
        backend.add_tokens(_config_tokens(config, known))
        backend.encode_special_tokens = bool(config.get("split_special_tokens", False))
        parts = json.loads(backend.to_str())
        self.backend = backend
        self._special = {
            token.content for token in backend.get_added_tokens_decoder().values() if token.special
        }
        self._streams = _streams(parts["decoder"])
        self._byte_fallback = '"ByteFallback"' in json.dumps(parts["decoder"])
        # As in transformers: clean-up was made for WordPiece and would eat a BPE's own spaces.
        self.cleans_up = bool(config.get("clean_up_tokenization_spaces")) and (
            parts["model"].get("type") != "BPE"
        )
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        self.cuts_left = config.get("truncation_side") == "left"
        self.unknown = special_tokens(config).get("unk_token")
        # a tokenizer that names its model's inputs may leave them out, whatever its template says
        inputs = config.get("model_input_names")
        self.has_types = not isinstance(inputs, list) or "token_type_ids" in inputs
        around = backend.num_special_tokens_to_add
        self._separates_pairs = around(is_pair=True) > around(is_pair=False)
        self.marks_continuations = bool(parts["model"].get("continuing_subword_prefix"))

    @classmethod
    def from_bundle(cls, folder: Path) -> "Tokenizer | None":
        """Load tokenizer.json, with what tokenizer_config.json adds; None where there is none.

        A bundle without a tokenizer works with token ids only.

        Raises:
            InvalidFileError: one of the two files cannot be read as what it should be.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            return None
        config = read_tokenizer_config(folder)
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)), config)
        except Exception as error:  # the library raises Exception itself
            raise _malformed(path, error) from error

    def encode(self, text: str, *, special_tokens: bool) -> list[int]:
        """Token ids of a text.

        Args:
            text: any text; special tokens spelled out in it become their ids, as in transformers.
            special_tokens: also add what the model expects around a text (BOS, [CLS] ... [SEP]).
                False for a text that a chat template made: it holds them already.

        Raises:
            UsageError: the text holds lone surrogates, which no encoding of text can write.
        """
        return self.encode_text(text, special_tokens=special_tokens).ids

    def encode_text(
        self, text: str, second: str | None = None, *, special_tokens: bool = True
    ) -> EncodedText:
        """Tokens of a text or a pair, with where each stands; arguments as `encode`.

        Raises:
            UsageError: as `encode`, or this tokenizer puts nothing between the texts of a pair.
        """
        try:
            encoding = self.backend.encode(text, second, add_special_tokens=special_tokens)
        except (TypeError, UnicodeEncodeError) as error:
            raise UsageError(
                f"cannot tokenize this text: {error}. It must be a str without lone surrogates; "
                "decode its bytes with errors='replace'."
            ) from error
        if second is not None and not self._separates_pairs:
            raise UsageError(
                "this model's tokenizer puts nothing between two texts, so the model has not learned to "
                "tell the two of a pair apart. Join them as the model was trained: one text."
            )
        return EncodedText(encoding, has_types=self.has_types)

    def token(self, token_id: int) -> str | None:
        """A token as the vocabulary writes it; None for a special token and an id without one."""
        token = self.backend.id_to_token(token_id)
        return None if token in self._special else token

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids. Virtual tokens and other ids without a token have none.

        Args:
            ids: token ids from 0 to 2^32 - 1.
            skip_special_tokens: leave out BOS, EOS, padding and the like.
        """
        text = self._decode(ids, skip_special_tokens)
        return _clean_up(text) if self.cleans_up else text

    def stream(self, skip_special_tokens: bool = True) -> "TextStream":
        """A decoder for one sequence whose tokens arrive one by one."""
        return TextStream(self, skip_special_tokens)

    def _decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)


class TextStream:
    r"""Text of a sequence as its tokens arrive; the pieces joined are `Tokenizer.decode` of them all.

    A piece holds whole characters: while a token may be the beginning of one, it is held back. With a
    byte-fallback tokenizer a run of byte tokens (``<0xE2>``) is held back until it ends, since one
    invalid byte turns its whole run into U+FFFD. A decoder of a kind whose text later tokens may
    change gives all at `finish`. One stream serves one sequence and one thread.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._window: list[int] = []  # the last ids, oldest first
        self._given = 0  # characters of the window's text that were given out
        self._uncleaned = ""  # given out by the window, held for clean-up

    def push(self, token_id: int) -> str:
        """Take the next token id; return the text that is certain now, often empty."""
        tokenizer = self._tokenizer
        token = tokenizer.backend.id_to_token(token_id)
        if token is None or (self._skip_special_tokens and token in tokenizer._special):
            return ""  # decode drops these before anything else, so they end no run of bytes either
        self._window.append(token_id)
        if not tokenizer._streams or (tokenizer._byte_fallback and _is_byte(token)):
            return ""
        text = tokenizer._decode(self._window, self._skip_special_tokens)
        # U+FFFD at the end may be the first bytes of a character. One stands for them all, and every
        # other one is final.
        certain = len(text) - text.endswith("\ufffd")
        piece = text[self._given : certain]
        self._given = certain
        if len(self._window) > _WINDOW and certain == len(text):
            self._forget()
        return self._cleaned(piece)

    def finish(self) -> str:
        """The text still held back, at the end of the sequence."""
        text = self._tokenizer._decode(self._window, self._skip_special_tokens)
        piece = text[self._given :]
        self._given = len(text)
        if not self._tokenizer.cleans_up:
            return piece
        piece, self._uncleaned = _clean_up(self._uncleaned + piece), ""
        return piece

    def _forget(self) -> None:
        """Drop old ids, so that a token costs the same however long the sequence is."""
        context = self._window[-_CONTEXT:]
        text = self._tokenizer._decode(context, self._skip_special_tokens)
        if text:  # else the first character, which may lose a space, would be still to come
            self._window, self._given = context, len(text)

    def _cleaned(self, piece: str) -> str:
        if not self._tokenizer.cleans_up:
            return piece
        text = self._uncleaned + piece
        cut = _clean_up_cut(text)
        self._uncleaned = text[cut:]
        return _clean_up(text[:cut])


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")
