"""The C reader of prompt files against the Python one: the same files, the same reasons."""

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from edgept.errors import InvalidFileError
from edgept.prompt_file import read_prompt
from tests.c_library import read_prompt_file
from tests.malformed import ROWS, corpus, encode, valid, valid_fields
from tests.prompt_mutator import assert_same, mutants, read_in_python

CORPUS = corpus()


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
    """A few of what `make fuzz-quick` compares."""
    seen = set()
    for _, data in zip(range(4000), mutants(0), strict=False):
        found = assert_same(data)
        seen.add(found if isinstance(found, str) else "valid")
    assert len(seen) > 30, seen
