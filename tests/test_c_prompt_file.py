"""The C reader of prompt files against the Python one: the same files, the same reasons."""

import json
import os
import random
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgept.errors import InvalidFileError
from edgept.prompt_file import parse_prompt, read_prompt
from tests.c_library import read_prompt_file
from tests.malformed import ROWS, corpus, encode, valid, valid_fields

CORPUS = corpus()


def read_in_python(data: bytes) -> dict[str, Any] | str:
    try:
        prompt = parse_prompt(data)
    except InvalidFileError as error:
        return error.reason
    found = {
        key: getattr(prompt, key)
        for key in ("fingerprint", "method", "task", "name", "base_model", "created_by", "labels")
    }
    return {**found, **prompt.tensors}


def assert_same(data: bytes, seen: str = "") -> dict[str, Any] | str:
    in_c, in_python = read_prompt_file(data), read_in_python(data)
    if isinstance(in_c, str) or isinstance(in_python, str):
        assert in_c == in_python, seen
        return in_c
    assert in_c.keys() == in_python.keys(), seen
    for key, value in in_python.items():
        np.testing.assert_array_equal(in_c[key], value, seen)
    return in_c


@pytest.mark.parametrize("name", CORPUS)
def test_malformed_files_have_the_same_reason(name: str) -> None:
    data, reason = CORPUS[name]
    assert read_prompt_file(data) == reason == read_in_python(data)


def test_valid_files_are_the_same() -> None:
    assert isinstance(assert_same(valid()), dict)
    fields = valid_fields()
    fields["__metadata__"] |= {
        "labels": '["ja, \\u00fc\\ud83d\\ude00", "nein \\"danke\\""]',
        "base_model": "org/model",
        "created_by": 'edgept 0 "\\/\b\f\t'.translate({8: None, 9: None, 12: None}),
        "unknown": "\u0007 is nobody's business",
    }
    fields["head.weight"] = {"dtype": "F32", "shape": [2, 4], "data_offsets": [32, 64]}
    fields["head.bias"] = {"dtype": "BF16", "shape": [2], "data_offsets": [64, 68]}
    found = assert_same(encode(fields, ROWS + ROWS + b"\x80\x3f\x00\xc0"))
    assert isinstance(found, dict)
    assert found["labels"] == ("ja, ü😀", 'nein "danke"')
    np.testing.assert_array_equal(found["head.bias"], [1, -2])


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_finite_half_is_widened_exactly(dtype: str) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    exponent = 0x7C00 if dtype == "F16" else 0x7F80
    halves = halves[halves & exponent != exponent]
    fields = valid_fields()
    fields["prompt_embeds"].update(
        dtype=dtype, shape=[len(halves) // 4, 4], data_offsets=[0, halves.nbytes]
    )
    found = assert_same(encode(fields, halves.tobytes()))
    assert isinstance(found, dict)
    assert found["prompt_embeds"].size == len(halves)


def test_kinds_of_files(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    good.write_bytes(valid())
    assert isinstance(read_prompt_file(good), dict)
    link, pipe, listening = (tmp_path / name for name in ("link", "pipe", "socket"))
    link.symlink_to(good)
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listening))
        for path in (link, pipe, listening, tmp_path, Path("/dev/null")):
            with pytest.raises(InvalidFileError) as caught:
                read_prompt(path)
            assert read_prompt_file(path) == caught.value.reason
    assert read_prompt_file(tmp_path / "missing") == "status 2"
    assert isinstance(read_prompt_file(good, max_bytes=len(valid())), dict)
    assert read_prompt_file(good, max_bytes=len(valid()) - 1) == "file-too-large"


def test_keys_past_every_limit_are_told_apart() -> None:
    """Thousands of keys, most of one hash's length: in time, and without a false duplicate."""
    fields = valid_fields()
    fields["__metadata__"] |= {f"k{index:x}": "" for index in range(5000)}
    assert isinstance(assert_same(encode(fields)), dict)
    text = json.dumps(fields, separators=(",", ":")).replace('"k1387":""', '"k1386":""')
    assert assert_same(encode(text)) == "header-duplicate-key"


def test_mutated_files_have_the_same_reason() -> None:
    """Files with a few bytes, tokens or fields changed; the seed makes a failure repeatable."""
    chosen = random.Random(0)
    seeds = [valid(), *(data for data, _ in CORPUS.values() if len(data) < 2000)]
    tokens = [
        *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u", b"d800", b"dc00", b"0000", b" "),
        *(
            b"0",
            b"1",
            b"-",
            b"e",
            b".",
            b"\x00",
            b"\x1f",
            b"\x7f",
            b"\xc2\x9b",
            b"\xff",
            b"\xed\xa0",
        ),
        *(b'"prompt_kv"', b'"head.bias"', b'"__metadata__"', b'"shape"', b'"F16"', b'"labels"'),
    ]
    seen = set()
    for _ in range(4000):
        data = bytearray(chosen.choice(seeds))
        for _ in range(chosen.randint(1, 3)):
            at = chosen.randrange(8, len(data)) if len(data) > 8 else len(data)
            how = chosen.randrange(4)
            if how == 0:
                data[at : at + 1] = bytes([chosen.randrange(256)])
            elif how == 1:
                data[at : at + chosen.randint(0, 4)] = chosen.choice(tokens)
            elif how == 2:
                del data[at : at + chosen.randint(1, 8)]
            else:
                data[at:at] = data[at : at + chosen.randint(1, 40)]
        if chosen.random() < 0.9 and len(data) >= 8:  # the length follows the header's end
            end = data.rfind(b"}") + 1
            data[:8] = struct.pack("<Q", max(end - 8, 0))
        found = assert_same(bytes(data), data.hex())
        seen.add(found if isinstance(found, str) else "valid")
    assert len(seen) > 25, seen
