r"""Small tokenizers of the structure of well-known models' ones, trained on a few lines.

What is copied from those models is the structure of their tokenizer.json: normalizer, pre-tokenizer with
its regular expression, post-processor, decoder and the model's switches. The vocabulary is a small one.
"""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

__all__ = ["KINDS", "combined", "train"]

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CASE}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CASE}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"


def _byte_level(lines: Sequence[str], special: Sequence[Any], **parts: Any) -> Any:
    """A byte-level BPE; `parts` are set on it."""
    tokenizer: Any = Tokenizer(models.BPE(ignore_merges=parts.pop("ignore_merges", False)))
    tokenizer.pre_tokenizer = parts.pop("pre_tokenizer")
    tokenizer.normalizer = parts.pop("normalizer", None)
    trainer = trainers.BpeTrainer(
        vocab_size=parts.pop("size", 2000),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(special),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = parts.pop("post_processor", None)
    assert not parts
    return tokenizer


def _split_bytes(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _gpt2(lines: Sequence[str]) -> Any:
    return _byte_level(
        lines,
        ["<|endoftext|>"],
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        post_processor=processors.ByteLevel(trim_offsets=False),
    )


def _roberta(lines: Sequence[str]) -> Any:
    special = ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, special=True)]
    tokenizer = _byte_level(
        lines, special, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def _llama3(lines: Sequence[str]) -> Any:
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>"]
    tokenizer = _byte_level(lines, special, pre_tokenizer=_split_bytes(LLAMA3), ignore_merges=True)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A",
                pair="<|begin_of_text|> $A:0 <|begin_of_text|> $B:1",
                special_tokens=[("<|begin_of_text|>", 0)],
            ),
        ]
    )
    # a word that no merges lead to, which ignore_merges finds nevertheless
    return _edited(tokenizer, lambda parts: parts["model"]["vocab"].update({"Ġxylophonist": 2000}))


def _qwen2(lines: Sequence[str]) -> Any:
    return _byte_level(
        lines,
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        normalizer=normalizers.NFC(),
        pre_tokenizer=_split_bytes(QWEN2),
        post_processor=processors.ByteLevel(trim_offsets=False),
    )


def _smollm(lines: Sequence[str]) -> Any:
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    return _byte_level(
        lines, ["<|endoftext|>", "<|im_start|>"], pre_tokenizer=pre_tokenizers.Sequence(steps)
    )


def _neox(lines: Sequence[str]) -> Any:
    """GPT-NeoX and OLMo: runs of spaces are added tokens that are normalized."""
    tokenizer = _byte_level(
        lines,
        ["<|endoftext|>", "<|padding|>"],
        normalizer=normalizers.NFC(),
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
    )
    tokenizer.add_tokens([AddedToken(" " * count, normalized=True) for count in range(24, 1, -1)])
    return tokenizer


def _pattern(pattern: str, **parts: Any) -> Callable[[Sequence[str]], Any]:
    def make(lines: Sequence[str]) -> Any:
        return _byte_level(lines, ["<|endoftext|>"], pre_tokenizer=_split_bytes(pattern), **parts)

    return make


def _deepseek(lines: Sequence[str]) -> Any:
    steps = [
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
        pre_tokenizers.Split(Regex("[一-龥\u3040-ゟ゠-ヿ]+"), "isolated"),
        pre_tokenizers.Split(Regex(DEEPSEEK), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return _byte_level(
        lines, ["<｜begin▁of▁sentence｜>"], pre_tokenizer=pre_tokenizers.Sequence(steps)
    )


def _edited(tokenizer: Any, edit: Callable[[Any], object]) -> Any:
    """The tokenizer that an edited tokenizer.json gives."""
    parts = json.loads(tokenizer.to_str())
    edit(parts)
    return Tokenizer.from_str(json.dumps(parts))


def _sentencepiece(
    lines: Sequence[str],
    *,
    normalizer: Any = None,
    pre_tokenizer: Any = None,
    strips: bool = True,
    fallback: bool = True,
    fuse: bool = True,
) -> Any:
    """A BPE over characters; those that the vocabulary lacks become bytes."""
    tokenizer: Any = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse, byte_fallback=fallback))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    named = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        limit_alphabet=300,
        special_tokens=[*named, *bytes_],
        max_token_length=16,
        show_progress=False,
    )
    tokenizer.train_from_iterator([line[:60] for line in lines], trainer)
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(
        [*steps, *([decoders.Strip(" ", 1, 0)] if strips else [])]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )

    def only_named(parts: Any) -> None:
        parts["added_tokens"] = [t for t in parts["added_tokens"] if t["content"] in named]

    return _edited(tokenizer, only_named)


def _llama2(lines: Sequence[str]) -> Any:
    legacy = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _sentencepiece(lines, normalizer=legacy)


def _phi3(lines: Sequence[str]) -> Any:
    tokenizer = _llama2(lines)
    tokenizer.add_special_tokens(
        [AddedToken("<|end|>", rstrip=True), AddedToken("<|user|>", rstrip=True)]
    )
    tokenizer.add_tokens([AddedToken("</s>", rstrip=True, normalized=False, special=False)])
    return tokenizer


def _mistral(lines: Sequence[str]) -> Any:
    marked = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return _sentencepiece(lines, pre_tokenizer=marked)


def _gemma(lines: Sequence[str]) -> Any:
    tokenizer = _sentencepiece(
        lines,
        normalizer=normalizers.Replace(" ", "▁"),
        pre_tokenizer=pre_tokenizers.Split(" ", "merged_with_previous"),
        strips=False,
    )
    runs = [AddedToken(c * n, normalized=False) for c in "\n▁" for n in range(2, 20)]
    tokenizer.add_tokens([*runs, AddedToken("<table>", normalized=False)])
    tokenizer.add_special_tokens(["<start_of_turn>", "<end_of_turn>"])
    return tokenizer


def _words(lines: Sequence[str]) -> Any:
    """Words that are marked, each alone, without bytes; single-word and stripping added tokens."""
    scheme = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer = _sentencepiece(lines, pre_tokenizer=scheme, fallback=False, fuse=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_tokens(
        [
            AddedToken("fox", single_word=True, normalized=False),
            AddedToken("é", single_word=True, lstrip=True, rstrip=True, normalized=False),
            AddedToken("中", single_word=True, normalized=True),
        ]
    )
    return tokenizer


def _nfkc(lines: Sequence[str]) -> Any:
    """Compatibility forms and lower case, words without a mark, tokens joined by spaces."""
    tokenizer = _sentencepiece(
        lines,
        normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
        pre_tokenizer=pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("contiguous")]
        ),
        fallback=False,
    )
    tokenizer.add_tokens([AddedToken("LAZY Dog", normalized=True)])
    tokenizer.add_special_tokens([AddedToken("Quick BROWN", normalized=True)])
    return _edited(tokenizer, lambda parts: parts.update(decoder=None))


def _nfd(lines: Sequence[str]) -> Any:
    """Accents stripped the other way, digits in groups, marks that close a word."""
    steps = [
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Punctuation("merged_with_previous"),
        pre_tokenizers.Split("e", "merged_with_next"),
        pre_tokenizers.Split(Regex(r"\s+"), "removed"),
        pre_tokenizers.Split(Regex(r"[a-zA-Z]+|\p{N}"), "contiguous", invert=True),
    ]
    return _sentencepiece(
        lines,
        normalizer=normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()]),
        pre_tokenizer=pre_tokenizers.Sequence(steps),
    )


def _bert(*, lowercase: bool) -> Callable[[Sequence[str]], Any]:
    def make(lines: Sequence[str]) -> Any:
        tokenizer: Any = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trainer = trainers.WordPieceTrainer(
            vocab_size=2000, limit_alphabet=400, special_tokens=special, show_progress=False
        )
        tokenizer.train_from_iterator(lines, trainer)
        tokenizer.decoder = decoders.WordPiece(cleanup=lowercase)
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
        return tokenizer

    return make


# From a name to what trains that tokenizer on lines.
KINDS: dict[str, Callable[[Sequence[str]], Any]] = {
    "gpt2": _gpt2,
    "roberta": _roberta,
    "llama3": _llama3,
    "qwen2": _qwen2,
    "smollm": _smollm,
    "neox": _neox,
    "cl100k": _pattern(CL100K),
    "o200k": _pattern(O200K),
    "bloom": _pattern(BLOOM),
    "deepseek": _deepseek,
    "llama2": _llama2,
    "phi3": _phi3,
    "mistral": _mistral,
    "gemma": _gemma,
    "words": _words,
    "nfkc": _nfkc,
    "nfd": _nfd,
    "bert-uncased": _bert(lowercase=True),
    "bert-cased": _bert(lowercase=False),
}


def train(kind: str, lines: Sequence[str]) -> Any:
    """A tokenizer of a kind, trained on lines."""
    return KINDS[kind](lines)


def combined(seed: int, lines: Sequence[str]) -> Any:
    """A tokenizer of parts that were drawn at random, as no model has it."""
    source = random.Random(seed)
    prepend = source.choice(["first", "always", "never"])
    normalizer = source.sample(
        [
            normalizers.NFC(),
            normalizers.NFKD(),
            normalizers.Lowercase(),
            normalizers.Prepend("▁"),
            normalizers.Replace(" ", "▁"),
            normalizers.Replace("th", "TH the"),
            normalizers.BertNormalizer(strip_accents=source.random() < 0.5, lowercase=False),
            normalizers.StripAccents(),
        ],
        source.randrange(3),
    )
    steps = source.sample(
        [
            pre_tokenizers.Digits(individual_digits=source.random() < 0.5),
            pre_tokenizers.Metaspace(prepend_scheme=prepend, split=source.random() < 0.5),
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(source.choice(["removed", "merged_with_next"])),
            pre_tokenizers.Split(" ", source.choice(["merged_with_previous", "contiguous"])),
            pre_tokenizers.Split(Regex(r"\s{2,4}|[a-f]?\d++|(?i:the|[ab]n't)?\p{Lu}"), "isolated"),
            pre_tokenizers.BertPreTokenizer(),
        ],
        source.randrange(3),
    )
    byte_level = source.random() < 0.4
    if byte_level:
        space, regex = source.random() < 0.5, source.random() < 0.5
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=regex))
    parts: dict[str, Any] = {
        "normalizer": normalizers.Sequence(normalizer),
        "pre_tokenizer": pre_tokenizers.Sequence(steps),
    }
    if byte_level:
        tokenizer = _byte_level(lines, ["<s>"], ignore_merges=source.random() < 0.5, **parts)
    else:
        fallback, fuse = source.random() < 0.5, source.random() < 0.5
        tokenizer = _sentencepiece(lines, fallback=fallback, fuse=fuse, **parts)
    # none begins with a space: behind a token that strips spaces, the library itself would panic
    for content in source.sample(["the", "é", "x ", "<|a|>", "▁▁", "Ab C", "th", "中"], 4):
        options = {
            name: source.random() < 0.4
            for name in ("single_word", "lstrip", "rstrip", "normalized", "special")
        }
        tokenizer.add_tokens([AddedToken(content, **options)])
    return tokenizer
