"""A bundle's tokenizer as the flat table that the C library looks up in; runtime/c/TABLE.md describes it.

What the C library cannot do exactly as the tokenizers library is refused here, so that a table that
exists gives the same ids and the same text.
"""

import itertools
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgept.errors import ExportError
from edgept.export.tokenizer_characters import Characters, added_token_class, compositions
from edgept.export.tokenizer_decoder import as_bytes, byte_alphabet, decode_tokens
from edgept.export.tokenizer_steps import Steps
from edgept.runtime.text import Tokenizer

__all__ = ["compile_tokenizer"]

_MAGIC, _VERSION, _SECTIONS = b"edgeptTB", 1, 19
_NONE = 0xFFFFFFFF
_BPE, _WORDPIECE = 1, 2
_BYTE_SYMBOLS, _WHOLE_WORDS, _BYTE_FALLBACK, _FUSE_UNKNOWN, _CLEAN_UP = 1, 2, 4, 8, 16
_EXISTS, _SPECIAL, _BYTE, _HELD = 1, 2, 4, 8
_KEY_WORD, _KEY_CONTINUES, _KEY_ADDED, _KEY_NORMALIZED = range(4)
_SINGLE_WORD, _LEFT, _RIGHT, _IGNORED = 1, 2, 4, 8
_MAX_LENGTH = 0xFFFFFF  # of a token, in bytes
_MAX_SPAN = 255  # of what a step puts in
_MOST_SLOTS = 256  # used ones in a row, in a hash table
_POST_PROCESSORS = ("TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel")


def compile_tokenizer(tokenizer: Tokenizer) -> bytes:
    """The bytes of tokenizer.bin.

    Raises:
        ExportError: the tokenizer has a part that the C library cannot reproduce; the message names it.
    """
    backend = tokenizer.backend
    parts: dict[str, Any] = json.loads(backend.to_str())
    table = _Table(tokenizer, parts)
    table.add_model()
    table.add_tokens()
    table.add_added_tokens()
    table.add_templates()
    return table.to_bytes()


def _mix(value: int) -> int:
    value ^= value >> 15
    value = value * 739982445 & _NONE
    return value ^ value >> 12


def _hash_key(kind: int, key: bytes) -> int:
    value = (2166136261 + kind * 2654435761) & _NONE
    for byte in key:
        value = (value ^ byte) * 16777619 & _NONE
    return _mix(value)


def _slots(hashes: Sequence[int]) -> list[int]:
    """A hash table of entries, at most half full, without long runs of used slots."""
    count = 1
    while count < 2 * len(hashes):
        count *= 2
    while True:
        slots = [0] * count
        for entry, value in enumerate(hashes):
            slot = value % count
            while slots[slot] != 0:
                slot = (slot + 1) % count
            slots[slot] = entry + 1
        if _longest_run(slots) <= _MOST_SLOTS:
            return slots
        count *= 2
        if count > 64 * len(hashes):
            raise ExportError(
                f"more than {_MOST_SLOTS} of the tokenizer's tokens or merges share a hash; the C library "
                "looks through no more. Use the Python runtime for this model."
            )


def _longest_run(slots: Sequence[int]) -> int:
    """Most used slots in a row, from the last to the first slot, too."""
    longest = run = 0
    for entry in itertools.chain(slots, slots):
        run = run + 1 if entry else 0
        longest = max(longest, run)
    return longest


def _pack(numbers: Iterable[int]) -> bytes:
    values = list(numbers)
    return struct.pack(f"<{len(values)}I", *values)


class _Table:
    """Collects the sections."""

    def __init__(self, tokenizer: Tokenizer, parts: Mapping[str, Any]) -> None:
        kind = parts["model"]["type"]
        if kind not in ("BPE", "WordPiece"):
            raise ExportError(
                f"the tokenizer is a {kind} model; the C library knows BPE and WordPiece."
            )
        self.tokenizer, self.parts = tokenizer, parts
        self.backend: Any = tokenizer.backend
        self.characters = Characters()
        self.steps = Steps(parts, self.characters)
        self.vocab: dict[str, int] = dict(parts["model"].get("vocab") or {})
        self.added: dict[int, Any] = dict(self.backend.get_added_tokens_decoder())
        self.size = max([*self.vocab.values(), *self.added], default=-1) + 1
        self.flags = _CLEAN_UP if tokenizer.cleans_up else 0
        self.model = 0
        self.unknown, self.max_characters = _NONE, 0
        self.decoder, self.strip = 0, (0, 0)
        self.word_class = self.space_class = _NONE
        self.pairs = 0
        self.keys: dict[tuple[int, bytes], int] = {}
        self.sections: list[bytes] = [b""] * _SECTIONS
        self._text = bytearray()
        self._spans: dict[bytes, tuple[int, int]] = {}

    def span(self, data: bytes) -> tuple[int, int]:
        """Where bytes stand in TEXT: put there once."""
        if len(data) > _MAX_LENGTH:
            raise ExportError(f"the tokenizer has a token of {len(data)} bytes.")
        if data not in self._spans:
            self._spans[data] = len(self._text), len(data)
            self._text += data
        return self._spans[data]

    # ---- the model ---------------------------------------------------------------------------------

    def add_model(self) -> None:
        """MERGES, BYTES and the keys that words are looked up by."""
        model = self.parts["model"]
        if len(set(self.vocab.values())) != len(self.vocab):
            raise ExportError("the tokenizer has two tokens of one id.")
        if self.size > 4 * (len(self.vocab) + len(self.added)):
            raise ExportError(f"the tokenizer's {len(self.vocab)} ids reach up to {self.size}.")
        unknown = model.get("unk_token")
        if unknown is not None:
            if unknown not in self.vocab:
                raise ExportError(
                    f"the tokenizer's unknown token {unknown!r} is not in its vocabulary."
                )
            self.unknown = self.vocab[unknown]
        if model["type"] == "BPE":
            self._add_bpe(model)
        else:
            self._add_wordpiece(model)

    def _add_bpe(self, model: Mapping[str, Any]) -> None:
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(name):
                raise ExportError(
                    f"the tokenizer's BPE has {name} {model[name]!r}, which the C library does not know."
                )
        self.model = _BPE
        self.flags |= _FUSE_UNKNOWN if model.get("fuse_unk") else 0
        whole_words = bool(model.get("ignore_merges"))
        self.flags |= _WHOLE_WORDS if whole_words else 0
        fallback = bool(model.get("byte_fallback"))
        if self.steps.byte_level:
            self.flags |= _BYTE_SYMBOLS
            symbols = {byte: self.vocab.get(char) for char, byte in byte_alphabet().items()}
            if fallback and None in symbols.values():
                raise ExportError(
                    "the tokenizer works on bytes, falls back to bytes and lacks some of them, which the "
                    "C library does not know."
                )
            self._set_bytes(symbols)
        elif fallback:
            self.flags |= _BYTE_FALLBACK
            self._set_bytes({byte: self.vocab.get(f"<0x{byte:02X}>") for byte in range(256)})
        for token, number in self.vocab.items():
            key = as_bytes(token) if self.steps.byte_level else token.encode()
            if key and (whole_words or (len(token) == 1 and not self.steps.byte_level)):
                self.keys[_KEY_WORD, key] = number
        self._add_merges(model["merges"])

    def _set_bytes(self, ids: Mapping[int, int | None]) -> None:
        found = (ids[byte] for byte in range(256))
        self.sections[8] = _pack(_NONE if number is None else number for number in found)

    def _add_merges(self, merges: Sequence[Any]) -> None:
        pairs: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, merge in enumerate(merges):
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            pair = self.vocab[left], self.vocab[right]
            pairs[pair] = rank, self.vocab[left + right]  # of one that comes twice, the last counts
        ranked = sorted((rank, *pair, merged) for pair, (rank, merged) in pairs.items())
        self.sections[6] = _pack(number for _, *merge in ranked for number in merge)
        self.sections[7] = _pack(
            _slots(
                [
                    _mix((left * 2654435761 ^ right * 2246822519) & _NONE)
                    for _, left, right, _ in ranked
                ]
            )
        )

    def _add_wordpiece(self, model: Mapping[str, Any]) -> None:
        if self.steps.byte_level or self.unknown == _NONE:
            raise ExportError(
                "the tokenizer is a WordPiece model that works on bytes or has no unknown token, which "
                "the C library does not know."
            )
        self.model = _WORDPIECE
        self.max_characters = int(model["max_input_chars_per_word"])
        prefix = model["continuing_subword_prefix"]
        for token, number in self.vocab.items():
            if token:
                self.keys[_KEY_WORD, token.encode()] = number
            if token.startswith(prefix) and token != prefix:
                self.keys[_KEY_CONTINUES, token[len(prefix) :].encode()] = number
        self.sections[7] = _pack([0])

    # ---- tokens ------------------------------------------------------------------------------------

    def add_tokens(self) -> None:
        """TOKENS and FIRST_TOKENS: what each id is decoded to."""
        # of an added token that is normalized, the library decodes the normalized form
        found = ((number, self.backend.id_to_token(number)) for number in range(self.size))
        names = {number: token for number, token in found if token is not None}
        special = {token.content for token in self.added.values() if token.special}
        decoded = decode_tokens(names, self.parts["decoder"], self.backend.decoder)
        self.decoder, self.strip = decoded.decoder, decoded.strip
        held = '"ByteFallback"' in json.dumps(self.parts["decoder"])
        tokens, first_tokens = [], []
        for number in range(self.size):
            token = names.get(number)
            if token is None:
                tokens += [0, 0]
                first_tokens += [0, 0]
                continue
            flags = _EXISTS | (_SPECIAL if token in special else 0)
            flags |= _BYTE if number in decoded.byte_tokens else 0
            is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
            flags |= _HELD if held and is_byte else 0
            offset, length = self.span(decoded.texts[number])
            tokens += [offset, length | flags << 24]
            first_tokens += self.span(decoded.firsts.get(number, b""))
        self.sections[2] = _pack(tokens)
        self.sections[3] = _pack(first_tokens) if decoded.firsts else b""

    # ---- added tokens ------------------------------------------------------------------------------

    def add_added_tokens(self) -> None:
        """ADDED and the keys that these tokens are found by."""
        normalizer = self.backend.normalizer
        ignores = self.backend.encode_special_tokens
        special = {token.content for token in self.added.values() if token.special}
        entries: list[int] = []
        for number, token in sorted(self.added.items(), key=lambda item: not item[1].special):
            content = token.content
            if token.normalized and normalizer is not None:
                content = normalizer.normalize_str(content)
            if not content:
                raise ExportError(
                    f"the tokenizer's added token {token.content!r} is nothing once it is normalized."
                )
            kind = _KEY_NORMALIZED if token.normalized else _KEY_ADDED
            self.keys.setdefault((kind, content.encode()), len(entries) // 2)
            flags = _SINGLE_WORD if token.single_word else 0
            flags |= _LEFT if token.lstrip else 0
            flags |= _RIGHT if token.rstrip else 0
            flags |= _IGNORED if ignores and token.content in special else 0
            entries += [number, flags]
        if any(flags & _SINGLE_WORD for flags in entries[1::2]):
            self.word_class = self.characters.class_number(added_token_class(words=True))
        if any(flags & (_LEFT | _RIGHT) for flags in entries[1::2]):
            self.space_class = self.characters.class_number(added_token_class(words=False))
        self.sections[9] = _pack(entries)

    # ---- templates ---------------------------------------------------------------------------------

    def add_templates(self) -> None:
        """TEMPLATES: what stands around a text and a pair, as a probe shows it."""
        self._check_post_processor(self.parts["post_processor"])
        count = self.backend.num_special_tokens_to_add
        self.pairs = int(count(is_pair=True) > count(is_pair=False))
        probe = self._probe()
        heads: list[int] = []
        entries: list[int] = []
        for special in (True, False):
            for second in (None, probe):
                encoding = self.backend.encode(probe, second, add_special_tokens=special)
                template = self._template(encoding)
                if not self.tokenizer.has_types:
                    template = [(what, 0) for what, _ in template]
                heads += [len(entries) // 2, len(template)]
                entries += [number for entry in template for number in entry]
        self.sections[18] = _pack([*heads, *entries])

    def _check_post_processor(self, step: Mapping[str, Any] | None) -> None:
        if step is None or step["type"] in _POST_PROCESSORS:
            return
        if step["type"] != "Sequence":
            raise ExportError(
                f"the tokenizer has the post-processor {step['type']}, which the C library does not know."
            )
        for part in step["processors"]:
            self._check_post_processor(part)

    def _probe(self) -> str:
        """A text that has tokens."""
        for text in ("a", " a", "the", "0", *self.vocab, *(t.content for t in self.added.values())):
            if self.backend.encode(text, add_special_tokens=False).ids:
                return str(text)
        raise ExportError("the tokenizer gives no tokens for any text.")

    @staticmethod
    def _template(encoding: Any) -> list[tuple[int, int]]:
        template: list[tuple[int, int]] = []
        seen: set[int] = set()
        before: int | None = None
        rows = zip(encoding.sequence_ids, encoding.ids, encoding.type_ids, strict=True)
        for sequence, number, kind in rows:
            if sequence is None:
                template.append((number, kind))
            elif sequence != before:
                if sequence in seen:
                    raise ExportError("the tokenizer's template has a text twice.")
                seen.add(sequence)
                template.append((_NONE - 1 + sequence, kind))
            before = sequence
        return template

    # ---- the file ----------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """All sections with their header."""
        steps = self.steps
        texts = list(dict.fromkeys([*steps.texts, *self.characters.texts()]))
        longest = max((len(text.encode()) for text in texts), default=0)
        if longest > _MAX_SPAN:
            raise ExportError(
                f"a step of the tokenizer puts in {longest} bytes; the C library takes {_MAX_SPAN}."
            )
        entries = {text: number for number, text in enumerate(texts)}
        sections = self.sections
        sections[4] = _pack(
            number
            for (kind, key), value in self.keys.items()
            for number in (self.span(key)[0], len(key) | kind << 24, value)
        )
        sections[5] = _pack(_slots([_hash_key(kind, key) for kind, key in self.keys]))
        sections[10] = _pack(number for step in steps.normalizer for number in step)
        sections[11] = _pack(number for step in steps.pre_tokenizer for number in step)
        sections[12] = _pack(number for step in steps.programs for number in step)
        sections[13:16] = self.characters.sections(entries)
        sections[16] = _pack(number for text in texts for number in self.span(text.encode()))
        if self.characters.reorders:
            sections[17] = _pack(number for triple in compositions() for number in triple)
        sections[1] = bytes(self._text)
        sections[0] = _pack(self._settings())
        return _join(sections)

    def _settings(self) -> list[int]:
        longest = [0, 0, 0]
        for kind, key in self.keys:
            place = max(kind - 1, 0)
            longest[place] = max(longest[place], len(key))
        return [
            self.model,
            self.flags,
            self.unknown,
            self.size,
            self.max_characters,
            self.decoder,
            *self.strip,
            *longest,
            self.word_class,
            self.space_class,
            self.characters.map_count,
            self.pairs,
            0,
        ]


def _join(sections: Sequence[bytes]) -> bytes:
    """The file: header, then the sections at multiples of 4."""
    offset = 16 + 8 * _SECTIONS
    places: list[int] = []
    body = bytearray()
    for section in sections:
        places += [offset + len(body), len(section)]
        body += section + bytes(-len(section) % 4)
    size = offset + len(body)
    if size > _NONE:
        raise ExportError(f"the tokenizer's table would have {size} bytes.")
    return _MAGIC + struct.pack("<2I", _VERSION, size) + _pack(places) + bytes(body)
