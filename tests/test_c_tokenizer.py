"""The C library's tokenizer: Hugging Face's ids and text, hostile tables and texts, refusals."""

import ctypes
import json
import random
import struct
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Backend

from benchmarks.c_tokenizer import CTokenizer, RefusedError, build, compiler
from benchmarks.tokenizer_kinds import KINDS
from benchmarks.tokenizer_texts import PHRASES, lines, real_lines
from benchmarks.tokenizers import compare, drawn, main, special_texts, trained
from edgept.bundle import TABLE_NAME
from edgept.errors import ExportError
from edgept.export.tokenizer_characters import _observed, regex_class
from edgept.export.tokenizer_files import save_table
from edgept.export.tokenizer_table import _longest_run, _slots, compile_tokenizer
from edgept.runtime.text import Tokenizer
from tests.conftest import shared

DEMO = Path(__file__).parents[1] / "edgept" / "demo" / "model"
LINES = 150  # of each kind of tokenizer


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if compiler() is None:
        pytest.skip("needs a C compiler: cc, or what CC names")
    return ctypes.CDLL(str(build(tmp_path_factory.mktemp("c"))))


@pytest.fixture
def load(library: ctypes.CDLL) -> Iterator[Callable[[bytes], CTokenizer]]:
    """A function that loads a table; what it loads is freed after the test."""
    loaded = []

    def load_table(table: bytes) -> CTokenizer:
        loaded.append(CTokenizer(library, table))
        return loaded[-1]

    yield load_table
    for tokenizer in loaded:
        tokenizer.close()


Load = Callable[[bytes], CTokenizer]


@cache
def reference(kind: str) -> Tokenizer:
    return trained(kind, list(PHRASES) * 6)


@cache
def table(kind: str) -> bytes:
    return compile_tokenizer(reference(kind))


def assert_equal(c: CTokenizer, tokenizer: Tokenizer, real: list[str], count: int = LINES) -> None:
    texts = lines(count, 3, real, special_texts(tokenizer))
    result = compare(c, tokenizer, texts, seed=4)
    assert result.lines == count
    assert result.texts > 0
    assert not result.differences, "\n".join(result.differences[:5])


# ---- the same as Hugging Face's tokenizers --------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_kind(load: Load, kind: str) -> None:
    assert_equal(load(table(kind)), reference(kind), [])


@pytest.mark.parametrize("seed", range(6))
def test_random_parts(load: Load, seed: int) -> None:
    tokenizer = drawn(seed, list(PHRASES) * 4)
    assert_equal(load(compile_tokenizer(tokenizer)), tokenizer, [])


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("qwen2", {"split_special_tokens": True}),
        ("llama2", {"added_tokens_decoder": {"2000": {"content": "<|new|>", "special": True}}}),
        ("bert-uncased", {"clean_up_tokenization_spaces": True}),
        ("bert-cased", {"model_input_names": ["input_ids", "attention_mask"]}),
        ("bert-cased", {"clean_up_tokenization_spaces": True}),
    ],
)
def test_tokenizer_config_counts(load: Load, kind: str, config: dict[str, Any]) -> None:
    tokenizer = trained(kind, list(PHRASES) * 6, config)
    assert_equal(load(compile_tokenizer(tokenizer)), tokenizer, [])


def test_real_tokenizers(load: Load) -> None:
    tokenizer = Tokenizer.from_bundle(DEMO)
    assert tokenizer is not None
    real = real_lines(DEMO.parent / "texts")
    assert_equal(load(compile_tokenizer(tokenizer)), tokenizer, real, 1000)


def test_real_sentencepiece(load: Load) -> None:
    tokenizer = Tokenizer.from_bundle(shared("stories260K"))
    assert tokenizer is not None
    real = real_lines(shared("tinystories-valid-1000"))
    assert_equal(load(compile_tokenizer(tokenizer)), tokenizer, real, 1000)


@pytest.mark.parametrize("kind", ["gpt2", "llama2", "bert-uncased", "llama3"])
@pytest.mark.parametrize(
    "text", ["a" * 100_000, " " * 50_000 + "x", "\u0301" * 20_000, "é中" * 9_000]
)
def test_long_word_takes_no_time(load: Load, kind: str, text: str) -> None:
    c = load(table(kind))
    began = time.process_time()
    ids = c.encode(text, special_tokens=True)
    took = time.process_time() - began
    assert ids == reference(kind).encode(text, special_tokens=True)
    assert took < 2, "quadratic work would take minutes"


def test_benchmark(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["tokenizers", "--lines", "60", "--kind", "gpt2", "--combined", "1", "--json"]
    monkeypatch.setattr("sys.argv", command)
    assert main() == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"gpt2", "combined-0"}
    for row in found.values():
        assert (row["lines"], row["differences"]) == (60, 0)
        assert row["c_mb_per_s"] > 0


def test_pair_of_a_tokenizer_that_knows_none(load: Load) -> None:
    with pytest.raises(RefusedError, match="no pair"):
        load(table("gpt2")).encode_pair("a", "b", special_tokens=True)


def test_classes_hold_where_no_character_was_tried() -> None:
    skipped = sorted(set(range(0x30000, 0x110000)).difference(_observed()))
    points = random.Random(5).sample(skipped, 3000)
    for atom in (r"\p{L}", r"\p{N}", r"\s", r"\S"):
        split = pre_tokenizers.Split(Regex(atom), "removed")
        found = {p for p in points if not split.pre_tokenize_str(chr(p))}
        assert found == {p for p in points if p // 128 * 128 in regex_class(atom)}


# ---- texts that are none ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\x80",
        b"\xbf",
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\xe0\x80\x80",
        b"\xe0\x9f\xbf",
        b"\xed\xa0\x80",  # surrogates
        b"\xed\xbf\xbf",
        b"\xf0\x80\x80\x80",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",  # above U+10FFFF
        b"\xf5\x80\x80\x80",
        b"\xff",
        b"\xe4\xb8",
        b"\xf0\x9f\x98",
        b"\xe4a",
        b"\xc3(",
    ],
)
def test_invalid_utf8_is_refused(load: Load, data: bytes) -> None:
    c = load(table("gpt2"))
    for text in (data, b"before " + data, data + b" behind"):
        with pytest.raises(RefusedError, match="not UTF-8"):
            c.encode(text, special_tokens=False)
    assert c.encode("fine", special_tokens=False)


@pytest.mark.parametrize("kind", ["gpt2", "llama2", "bert-cased"])
def test_borders_of_utf8(load: Load, kind: str) -> None:
    c = load(table(kind))
    points = (0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFD, 0xFFFF, 0x10000, 0x10FFFF)
    for text in ("", *(f"a{chr(point)}b" for point in points), "a\0b"):
        assert c.encode(text, special_tokens=False) == reference(kind).encode(
            text, special_tokens=False
        )


# ---- hostile tables --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama2", "nfkc"])
def test_truncated_tables_are_refused(load: Load, kind: str) -> None:
    whole = table(kind)
    header = 16 + 19 * 8
    sizes = [*range(header + 64), *range(header + 64, len(whole), max(1, len(whole) // 300))]
    for size in (*sizes, len(whole) - 1):
        cut = whole[:size]
        # a header that agrees with the size must not help
        fitted = cut[:12] + struct.pack("<I", size) + cut[16:] if size >= 16 else cut
        for data in (cut, fitted):
            with pytest.raises(RefusedError, match="malformed"):
                load(data)
    with pytest.raises(RefusedError, match="malformed"):
        load(whole + b"\0")


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "llama2", "bert-uncased", "nfkc"])
def test_flipped_bytes_never_crash(load: Load, kind: str) -> None:
    """Refused, or used without a crash: the text that comes out is another matter."""
    whole = bytearray(table(kind))
    source = random.Random(6)
    refused = used = 0
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(source.randrange(1, 4)):
            # the small sections, with most of the structure, as often as the large ones
            end = source.choice([400, 4000, len(whole)])
            changed[source.randrange(min(end, len(whole)))] = source.randrange(256)
        try:
            c = load(bytes(changed))
        except RefusedError as error:
            refused += error.status == "malformed" and error.detail != ""
            continue
        used += 1
        for text in source.sample(PHRASES, 3):
            try:
                ids = c.encode(text, special_tokens=True)
                c.library.edgept_tokenizer_is_special(
                    c._handle, ctypes.c_int64(ids[0] if ids else 0)
                )
                _decoded(c, ids)
            except RefusedError as error:
                if error.status != "too long":
                    raise
    assert refused > 0
    assert used > 0
    assert refused + used == 300


@pytest.mark.parametrize("number", [8, 9, 10])
def test_longest_keys_are_checked(load: Load, number: int) -> None:
    """A table that says more or less than it holds would cost time at every place of a text."""
    for by in (1, -1, 1 << 20):
        changed = bytearray(table("llama2"))
        place = struct.unpack_from("<I", changed, 16)[0] + 4 * number
        longest = struct.unpack_from("<I", changed, place)[0]
        struct.pack_into("<I", changed, place, longest + by & 0xFFFFFFFF)
        with pytest.raises(RefusedError, match="malformed"):
            load(bytes(changed))


@pytest.mark.parametrize(("kind", "section"), [("bert-uncased", 5), ("gpt2", 7)])
def test_long_runs_of_slots_are_refused(load: Load, kind: str, section: int) -> None:
    """One empty slot ends every search, but not soon."""
    changed = bytearray(table(kind))
    offset, size = struct.unpack_from("<2I", changed, 16 + 8 * section)
    slots = list(struct.unpack_from(f"<{size // 4}I", changed, offset))
    assert len(slots) > 512
    middle = len(slots) // 2  # the run goes on from the last slot to the first
    struct.pack_into(f"<{len(slots)}I", changed, offset, *(slot or 1 for slot in slots))
    struct.pack_into("<I", changed, offset + 4 * middle, 0)
    with pytest.raises(RefusedError, match="malformed"):
        load(bytes(changed))


def test_hash_tables_have_no_long_runs() -> None:
    """Hashes that lie side by side get a larger table; equal ones cannot be kept apart."""
    slots = _slots([value + value % 2 * 1024 for value in range(300)])
    assert len(slots) == 2048
    assert _longest_run(slots) <= 256
    assert sorted(slot for slot in slots if slot) == [*range(1, 301)]
    assert _slots([]) == [0]
    with pytest.raises(ExportError, match="share a hash"):
        _slots([7] * 300)


def _decoded(c: CTokenizer, ids: list[int]) -> None:
    """Decode at once and token by token; the text may be no UTF-8 then."""
    try:
        c.decode(ids)
        with c.stream() as stream:
            for token in ids:
                stream.push(token)
            stream.finish()
    except UnicodeDecodeError:
        pass


def test_a_failed_allocation_is_reported(tmp_path: Path) -> None:
    if compiler() is None:
        pytest.skip("needs a C compiler: cc, or what CC names")
    shim = tmp_path / "shim.c"
    shim.write_text(
        "#undef realloc\n#undef calloc\n#include <stdlib.h>\n"
        "int allocations_left = -1;\n"
        "void *failing_realloc(void *p, size_t n);\nvoid *failing_calloc(size_t a, size_t b);\n"
        "static int fails(void) { return allocations_left == 0 || (allocations_left > 0 && "
        "--allocations_left < 0); }\n"
        "void *failing_realloc(void *p, size_t n) { return fails() ? NULL : realloc(p, n); }\n"
        "void *failing_calloc(size_t a, size_t b) { return fails() ? NULL : calloc(a, b); }\n"
    )
    names = ("-Drealloc=failing_realloc", "-Dcalloc=failing_calloc")
    library = ctypes.CDLL(str(build(tmp_path, *names, shim)))
    left = ctypes.c_int.in_dll(library, "allocations_left")
    for kind in ("llama2", "bert-uncased", "qwen2", "words"):
        expected = reference(kind).encode(PHRASES[0], special_tokens=True)
        text = reference(kind).decode(expected)
        for allowed in range(200):
            left.value = allowed
            try:
                c = CTokenizer(library, table(kind))
            except RefusedError as error:
                if error.status != "no memory":
                    raise
                continue
            try:
                assert c.encode(PHRASES[0], special_tokens=True) == expected
                assert c.decode(expected) == text
                with c.stream() as stream:
                    pieces = [stream.push(token) for token in expected]
                    assert "".join([*pieces, stream.finish()]) == text
                break
            except RefusedError as error:
                if error.status != "no memory":
                    raise
                left.value = -1  # what failed once works afterwards
                assert c.encode(PHRASES[0], special_tokens=True) == expected
                assert c.decode(expected) == text
            finally:
                c.close()
        else:
            pytest.fail("200 allocations do not suffice")
        left.value = -1


# ---- what is refused -------------------------------------------------------------------------------


def edited(kind: str, edit: Callable[[dict[str, Any]], object]) -> Tokenizer:
    parts = json.loads(reference(kind).backend.to_str())
    edit(parts)
    return Tokenizer(Backend.from_str(json.dumps(parts)), {})


def split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


REFUSED: list[tuple[str, str, Any, str]] = [
    (
        "gpt2",
        "model",
        {"type": "Unigram", "vocab": [["a", 0.0], ["b", 0.0]], "unk_id": 0},
        "Unigram",
    ),
    ("gpt2", "model", {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}, "WordLevel"),
    ("gpt2", "normalizer", {"type": "Nmt"}, "normalizer .*Nmt"),
    ("gpt2", "normalizer", {"type": "Strip", "strip_left": True, "strip_right": True}, "Strip"),
    (
        "gpt2",
        "normalizer",
        {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "},
        "normalizer .*Regex",
    ),
    ("gpt2", "pre_tokenizer", {"type": "UnicodeScripts"}, "pre-tokenizer .*UnicodeScripts"),
    ("gpt2", "pre_tokenizer", {"type": "Whitespace"}, "pre-tokenizer .*Whitespace"),
    ("gpt2", "pre_tokenizer", split(r"\w+\b"), r"has '\\\\b'"),
    ("gpt2", "pre_tokenizer", split(r"a+?"), r"has '\?'"),
    ("gpt2", "pre_tokenizer", split(r"(?<=a)b"), r"has '\(\?<'"),
    ("gpt2", "pre_tokenizer", split(r"(ab)+"), r"has '\+'"),
    ("gpt2", "pre_tokenizer", split(r"^a"), r"has '\^'"),
    ("gpt2", "pre_tokenizer", split(r"a*"), "may match nothing"),
    ("gpt2", "pre_tokenizer", split(r"(?i:ss)"), "has 's'"),
    ("gpt2", "pre_tokenizer", split(r"(?i:ß)"), "has 'ß'"),
    (
        "gpt2",
        "decoder",
        {"type": "CTC", "pad_token": "a", "word_delimiter_token": "b", "cleanup": True},
        "CTC",
    ),
    ("llama2", "decoder", {"type": "Strip", "content": " ", "start": 1, "stop": 0}, "Strip"),
    ("llama2", "decoder", {"type": "BPEDecoder", "suffix": "</w>"}, "BPEDecoder"),
]


@pytest.mark.parametrize(("kind", "part", "value", "found"), REFUSED)
def test_what_cannot_be_reproduced_is_refused(kind: str, part: str, value: Any, found: str) -> None:
    def edit(parts: dict[str, Any]) -> None:
        parts[part] = value
        if part == "model":
            parts["added_tokens"] = []

    with pytest.raises(ExportError, match=found):
        compile_tokenizer(edited(kind, edit))


@pytest.mark.parametrize(
    ("name", "value"),
    [("dropout", 0.5), ("end_of_word_suffix", "</w>"), ("continuing_subword_prefix", "##")],
)
def test_switches_of_bpe_are_refused(name: str, value: Any) -> None:
    def edit(parts: dict[str, Any]) -> None:
        parts["model"][name] = value
        parts["model"]["merges"] = []

    with pytest.raises(ExportError, match=name):
        compile_tokenizer(edited("gpt2", edit))


def test_steps_behind_byte_level_are_refused() -> None:
    def edit(parts: dict[str, Any]) -> None:
        steps = [parts["pre_tokenizer"], {"type": "Digits", "individual_digits": True}]
        parts["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}

    with pytest.raises(ExportError, match=r"behind ByteLevel .*Digits"):
        compile_tokenizer(edited("gpt2", edit))


def test_export_says_why_there_is_no_table(tmp_path: Path) -> None:
    tokenizer = edited("gpt2", lambda parts: parts.update(normalizer={"type": "Nmt"}))
    tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    said: list[str] = []
    save_table(tmp_path, said.append)
    assert not (tmp_path / TABLE_NAME).exists()
    assert len(said) == 1
    assert "the C library takes token ids only" in said[0]
    assert "Nmt" in said[0]
