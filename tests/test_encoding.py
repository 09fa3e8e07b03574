"""Texts and pairs cut to fit and read in windows, as the tokenizers library does it."""

from pathlib import Path

import pytest
import tokenizers

from edgept.errors import UsageError
from edgept.runtime.encoding import EncodedText
from edgept.runtime.text import Tokenizer
from tests.conftest import tiny_tokenizer
from tests.encoder_bundles import TEXTS, word_pieces

PAIRS = [(TEXTS[0], TEXTS[3]), (TEXTS[3], TEXTS[2]), (TEXTS[2], TEXTS[1]), (TEXTS[0], None)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("pieces")
    word_pieces().save_pretrained(folder)
    loaded = Tokenizer.from_bundle(folder)
    assert loaded is not None
    return loaded


def library() -> tokenizers.Tokenizer:
    backend: tokenizers.Tokenizer = word_pieces().backend_tokenizer
    return backend


def described(encoded: EncodedText) -> list[object]:
    return [
        encoded.ids,
        encoded.type_ids,
        encoded.tokens,
        encoded.offsets,
        [None if word < 0 else word for word in encoded.words.tolist()],
    ]


def described_there(encoding: tokenizers.Encoding) -> list[object]:
    return [
        encoding.ids,
        encoding.type_ids,
        encoding.tokens,
        encoding.offsets,
        encoding.word_ids,
    ]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pair", PAIRS)
def test_cut_as_the_library_cuts(
    pair: tuple[str, str | None], side: str, tokenizer: Tokenizer
) -> None:
    whole = tokenizer.encode_text(*pair)
    assert described(whole) == described_there(library().encode(*pair))
    for room in range(len(whole) + 2, 4, -1):
        backend = library()
        backend.enable_truncation(room, direction=side)
        cut = whole.cut_to(room, left=side == "left")
        assert described(cut) == described_there(backend.encode(*pair))
        assert cut.cut == max(len(whole) - room, 0)


@pytest.mark.parametrize(("room", "stride"), [(40, 10), (30, 0), (35, 11), (64, 20), (500, 0)])
def test_windows_as_the_library_makes_them(room: int, stride: int, tokenizer: Tokenizer) -> None:
    question, context = "where is Anna", " ".join(TEXTS)
    backend = library()
    backend.enable_truncation(room, stride=stride, strategy="only_second")
    first = backend.encode(question, context)
    windows = [*tokenizer.encode_text(question, context).windows(room, stride)]
    assert len(windows) == 1 + len(first.overflowing)
    for found, expected in zip(windows, [first, *first.overflowing], strict=True):
        assert described(found) == described_there(expected)


def test_what_does_not_fit(tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode_text("where is Anna", "in Berlin")
    with pytest.raises(UsageError, match="3 special tokens take them"):
        encoded.cut_to(3)
    with pytest.raises(UsageError, match="nothing of the context fits"):
        [*encoded.windows(5, None)]
    taken = len(tokenizer.encode_text("where is Anna", "").ids)
    with pytest.raises(UsageError, match="share 0 to 3"):
        [*encoded.windows(taken + 4, 4)]
    # left alone, neighbours share what leaves room to go on
    assert len([*encoded.windows(taken + 1, None)]) == len(encoded) - taken


def test_pairs_need_a_template(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = Tokenizer.from_bundle(tmp_path)
    assert loaded is not None
    with pytest.raises(UsageError, match="nothing between two texts"):
        loaded.encode_text("a", "b")


def test_token_types_are_left_out_where_the_tokenizer_names_its_models_inputs(
    tmp_path: Path,
) -> None:
    word_pieces().save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"model_input_names": ["input_ids", "attention_mask"]}'
    )
    loaded = Tokenizer.from_bundle(tmp_path)
    assert loaded is not None
    encoded = loaded.encode_text(TEXTS[0], TEXTS[1])
    assert set(encoded.type_ids) == set(encoded.cut_to(20).type_ids) == {0}
