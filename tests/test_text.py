import json
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from edgept.errors import InvalidFileError, UsageError
from edgept.runtime.text import Tokenizer, _clean_up, _clean_up_cut, read_tokenizer_config

STORIES = Path(__file__).parents[2] / "shared" / "data" / "stories260K"

CORPUS = [
    "The parcel left Hamburg on Monday; it isn't here yet, is it?",
    "Größere Pakete dürfen über Nacht stehen. Straße, Übung, Äpfel, Öl.",
    "荷物はどこですか。まだ届いていません。東京の倉庫にあります。",
    "Thanks 😀😀 see you 👩‍👩‍👧 soon 🇯🇵! a  b   c\n\n\tdone .",
] * 3

TEXTS = [
    *CORPUS[:4],
    "",
    " ",
    "  leading and trailing  ",
    "<s>spelled out</s> [CLS] <|end|>next",
    "\ufffd real replacement character \ufffd",
    "é (combining e\u0301) \x00 control \u200d",
    "x" * 700,
]

CHAT_TOKENS = ["<|start|>", "<|end|>"]


def byte_level() -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """GPT-2's kind: every byte is a character of the alphabet."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        initial_alphabet=alphabet,
        special_tokens=CHAT_TOKENS,
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken("東京", normalized=False)])  # not special, not of the alphabet
    # The runtime turns both off, like transformers' call without arguments.
    backend.enable_truncation(5)
    backend.enable_padding(length=16)
    return backend, {"eos_token": "<|end|>", "pad_token": "<|end|>"}


def word_piece() -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """BERT's kind, with the clean-up of spaces that transformers does after decoding."""
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    backend.train_from_iterator([*CORPUS, "n ' t . ? ! , m s ve re"], trainer)
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    config = {name: f"[{name[:3].upper()}]" for name in ("cls_token", "sep_token", "pad_token")}
    return backend, {**config, "unk_token": "[UNK]", "clean_up_tokenization_spaces": True}


def metaspace() -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """T5's kind: Unigram, spaces as a character, the first one dropped."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=160, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return backend, {"eos_token": "</s>", "unk_token": "<unk>"}


def word_suffix() -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """CLIP's and OpenAI GPT's kind: a token that ends a word says so."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend, {"unk_token": "<unk>"}


def byte_fallback(strip: int) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Llama 2's kind (strip 1) and Gemma's (strip 0)."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "▁▁", "a", "▁a", "b", "é", "東", "▁ab"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges = [("▁", "▁"), ("▁", "a"), ("▁a", "b")]
    model = models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        if strip
        else [normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(
        [*steps, decoders.Strip(" ", strip, 0)] if strip else list(steps)
    )
    backend.add_special_tokens([AddedToken(token) for token in ("<unk>", "<s>", "</s>")])
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return backend, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def changes_its_mind() -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """A decoder that rewrites the whole text: the text of "a" changes when a "b" follows."""
    backend, config = byte_fallback(1)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Replace("ab", "c")]
    )
    return backend, config


def no_decoder() -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    backend, config = word_suffix()
    backend.decoder = None
    return backend, config


KINDS: dict[str, Callable[[], tuple[tokenizers.Tokenizer, dict[str, Any]]]] = {
    "byte-level": byte_level,
    "word-piece": word_piece,
    "metaspace": metaspace,
    "word-suffix": word_suffix,
    "byte-fallback": lambda: byte_fallback(1),
    "byte-fallback-without-strip": lambda: byte_fallback(0),
    "changes-its-mind": changes_its_mind,
    "no-decoder": no_decoder,
}


def save(folder: Path, backend: tokenizers.Tokenizer, config: dict[str, Any]) -> Path:
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", params=[*KINDS, "stories260K"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param != "stories260K":
        return save(tmp_path_factory.mktemp("bundle"), *KINDS[request.param]())
    if not STORIES.is_dir():
        pytest.skip("needs ../shared/data/stories260K")
    return STORIES


def load(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_bundle(folder)
    assert tokenizer is not None
    return tokenizer


def reference(folder: Path) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(folder)


def streamed(tokenizer: Tokenizer, ids: list[int], skip: bool = True) -> list[str]:
    stream = tokenizer.stream(skip)
    return [*(stream.push(token) for token in ids), stream.finish()]


def test_encoding_is_that_of_transformers(folder: Path) -> None:
    tokenizer, expected = load(folder), reference(folder)
    for text in TEXTS:
        for special in (False, True):
            ids = expected(text, add_special_tokens=special)["input_ids"]
            assert tokenizer.encode(text, special_tokens=special) == ids


def test_decoding_is_that_of_transformers(folder: Path) -> None:
    tokenizer, expected = load(folder), reference(folder)
    random.seed(0)
    sequences = [expected(text)["input_ids"] for text in TEXTS]
    sequences += [random.choices(range(tokenizer.vocab_size), k=30) for _ in range(50)]
    for ids in sequences:
        for skip in (False, True):
            found = tokenizer.decode(ids, skip_special_tokens=skip)
            assert found == expected.decode(ids, skip_special_tokens=skip)


def test_pieces_of_random_tokens_add_up_to_decode(folder: Path) -> None:
    tokenizer = load(folder)
    random.seed(1)
    vocab = range(tokenizer.vocab_size + 20)  # some virtual tokens too
    few = random.sample(vocab, 6)
    for round_ in range(400):
        # Long sequences outgrow the window; few different ids give long runs of bytes or specials.
        source = few if round_ % 3 == 0 else vocab
        ids = random.choices(source, k=random.choice([1, 2, 5, 30, 120]))
        for skip in (False, True):
            pieces = streamed(tokenizer, ids, skip)
            assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=skip), ids


def test_pieces_of_texts_add_up_and_hold_whole_characters(folder: Path) -> None:
    tokenizer = load(folder)
    for text in TEXTS:
        ids = tokenizer.encode(text * 4, special_tokens=True)
        pieces = streamed(tokenizer, ids)
        whole = tokenizer.decode(ids)
        assert "".join(pieces) == whole
        if "\ufffd" not in whole:
            assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback", "metaspace"])
def test_text_comes_while_tokens_come(kind: str, tmp_path: Path) -> None:
    tokenizer = load(save(tmp_path, *KINDS[kind]()))
    ids = tokenizer.encode("a ab a b ab " * 40, special_tokens=False)
    pieces = streamed(tokenizer, ids)
    assert sum(map(bool, pieces)) >= len(ids) - 2
    assert pieces[-1] == ""


def test_an_emoji_over_several_tokens_comes_at_once(tmp_path: Path) -> None:
    tokenizer = load(save(tmp_path, *byte_level()))
    ids = tokenizer.encode("😊ß", special_tokens=False)
    assert len(ids) == 4  # three of them for the emoji, which no training text held
    pieces = streamed(tokenizer, ids)
    assert [piece for piece in pieces if piece] == ["😊", "ß"]


def test_one_bad_byte_spoils_its_whole_run(tmp_path: Path) -> None:
    # The library's rule; it is why a stream waits for the end of a run.
    tokenizer = load(save(tmp_path, *byte_fallback(0)))
    ids = [3 + 0x41, 3 + 0xE2, 261]  # "A", the first byte of three, "a"
    assert tokenizer.decode(ids) == "\ufffd\ufffda"
    assert streamed(tokenizer, ids) == ["", "", "\ufffd\ufffda", ""]
    assert streamed(tokenizer, ids[:1]) == ["", "A"]


def test_invalid_bytes_come_out_once_they_are_certain(tmp_path: Path) -> None:
    backend, config = byte_level()
    tokenizer = load(save(tmp_path, backend, config))
    half = backend.token_to_id("Ã")  # byte 0xC3, the first half of a "ß"
    assert half is not None
    pieces = streamed(tokenizer, [half] * 100)
    assert pieces[1:-1] == ["\ufffd"] * 99  # each is final once the next has come
    assert "".join(pieces) == tokenizer.decode([half] * 100)


def test_a_decoder_that_rewrites_earlier_text_waits_for_the_end(tmp_path: Path) -> None:
    tokenizer = load(save(tmp_path, *changes_its_mind()))
    assert tokenizer.decode([261, 263]) == "c"
    assert streamed(tokenizer, [261, 263]) == ["", "", "c"]


def test_tokens_without_text_do_not_hide_where_the_text_began(tmp_path: Path) -> None:
    backend, config = byte_fallback(1)
    steps = [decoders.Replace("▁", " "), decoders.Replace("b", ""), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    tokenizer = load(save(tmp_path, backend, config))
    ids = [261, *[263] * 50, 262]  # "a", fifty times nothing, " a"
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids) == "a a"


def test_the_window_stays_small(tmp_path: Path) -> None:
    tokenizer = load(save(tmp_path, *byte_fallback(1)))
    stream = tokenizer.stream()
    for token in tokenizer.encode("a ab " * 2000, special_tokens=False):
        stream.push(token)
        assert len(stream._window) <= 33


def test_streams_in_threads_do_not_mix(tmp_path: Path) -> None:
    tokenizer = load(save(tmp_path, *byte_level()))

    def run(number: int) -> bool:
        text = f"{number} 😀 Größe {number} 荷物 " * 60
        ids = tokenizer.encode(text, special_tokens=False)
        return "".join(streamed(tokenizer, ids)) == text

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(24)))


def test_tokens_that_only_the_config_declares(tmp_path: Path) -> None:
    backend, config = byte_level()
    config |= {
        "bos_token": "<|begin|>",  # new
        "eos_token": {"content": "<|end|>", "lstrip": True, "__type": "AddedToken"},
        "image_token": "<|image|>",  # a model's own name
        "extra_special_tokens": ["<|extra|>", "Pak"],  # the second may be in the vocabulary
        "added_tokens_decoder": {
            "1": {"content": "<|end|>", "special": True, "lstrip": True, "normalized": False},
            "342": {"content": "<|late|>", "special": False, "rstrip": True},
            "341": {"content": "<|early|>", "special": True},
        },
    }
    save(tmp_path, backend, config)
    tokenizer, expected = load(tmp_path), reference(tmp_path)
    text = "a <|begin|> b <|end|> <|image|><|extra|>Paket <|late|> <|early|> c 東京"
    ids = tokenizer.encode(text, special_tokens=True)
    assert ids == expected(text)["input_ids"]
    assert tokenizer.decode(ids) == expected.decode(ids, skip_special_tokens=True)
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)
    assert tokenizer.vocab_size == len(expected)


def test_split_special_tokens(tmp_path: Path) -> None:
    backend, config = byte_level()
    save(tmp_path, backend, {**config, "split_special_tokens": True})
    text = "a <|end|> b"
    ids = load(tmp_path).encode(text, special_tokens=False)
    assert ids == reference(tmp_path)(text, add_special_tokens=False)["input_ids"]
    assert 1 not in ids


def test_clean_up_is_the_same_in_pieces() -> None:
    random.seed(2)
    cuts = 0
    for _ in range(20_000):
        few = random.choice([" 'nt", " '.,", " 'vre", " nt.", " 'sm?!"])
        text = "".join(random.choices(few, k=random.randint(1, 14)))
        cut = _clean_up_cut(text)
        assert _clean_up(text[:cut]) + _clean_up(text[cut:]) == _clean_up(text), (text, cut)
        cuts += cut > 0
    assert cuts > 5000


def test_a_bundle_without_a_tokenizer(tmp_path: Path) -> None:
    assert Tokenizer.from_bundle(tmp_path) is None
    assert read_tokenizer_config(tmp_path) == {}


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "\udc80", "[" * 100_000])
def test_malformed_files_are_named(name: str, text: str, tmp_path: Path) -> None:
    save(tmp_path, *byte_level())
    (tmp_path / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InvalidFileError, match=name) as caught:
        Tokenizer.from_bundle(tmp_path)
    assert caught.value.reason == "tokenizer-malformed"


def test_a_text_that_utf8_cannot_write_is_refused(tmp_path: Path) -> None:
    tokenizer = load(save(tmp_path, *byte_level()))
    with pytest.raises(UsageError, match="surrogates"):
        tokenizer.encode("\ud800", special_tokens=False)


def test_special_tokens_true_adds_what_the_model_expects() -> None:
    if not STORIES.is_dir():
        pytest.skip("needs ../shared/data/stories260K")
    tokenizer = load(STORIES)
    ids = tokenizer.encode("Once upon a time", special_tokens=True)
    assert ids[0] == 1
    assert ids[1:] == tokenizer.encode("Once upon a time", special_tokens=False)
    assert tokenizer.decode(ids) == "Once upon a time"
    assert tokenizer.vocab_size == 512


def test_a_copy_without_config_still_works(tmp_path: Path) -> None:
    if not STORIES.is_dir():
        pytest.skip("needs ../shared/data/stories260K")
    shutil.copy(STORIES / "tokenizer.json", tmp_path)
    assert load(tmp_path).encode("Hi", special_tokens=True)[0] == 1
