"""Prompt files that are nearly valid, without end, and whether both readers say the same of each.

`python -m tests.prompt_mutator COUNT [SEED]` compares COUNT of them, and `--files FOLDER` those that a
fuzzer found; `make fuzz-quick` in runtime/c does both.
"""

import json
import random
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgept.errors import InvalidFileError
from edgept.prompt_file import parse_prompt
from tests.c_library import read_prompt_file
from tests.malformed import ROWS, corpus, encode, valid, valid_fields

# What headers are made of, and what has broken readers before.
_TOKENS = [
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u", b"d800", b"dc00", b"0000", b" "),
    *(b"0", b"1", b"-", b"e", b".", b"\x00", b"\x1f", b"\x7f", b"\xc2\x9b", b"\xff", b"\xed\xa0"),
    *(b'"prompt_kv"', b'"head.bias"', b'"head.dense.bias"', b'"__metadata__"', b'"shape"', b"null"),
    *(b'"F16"', b'"BF16"', b'"labels"', b'"name"', b"999999999999999", b"\xf4\x8f\xbf\xbf", b"\n"),
]
_NAMES = ["prompt_embeds", "prompt_kv", "head.weight", "head.bias"]
_NAMES += ["head.dense.weight", "head.dense.bias", "box.weight", "box.bias", "__metadata__", "lora"]
_SLOW_SECONDS = 1.0


def read_in_python(data: bytes) -> dict[str, Any] | str:
    """What the Python reader makes of a file: its contents, or its reason."""
    try:
        prompt = parse_prompt(data)
    except InvalidFileError as error:
        return error.reason
    found = {
        key: getattr(prompt, key)
        for key in ("fingerprint", "method", "task", "name", "base_model", "created_by", "labels")
    }
    return {**found, **prompt.tensors}


def assert_same(data: bytes) -> dict[str, Any] | str:
    """Let both readers read a file; their answer.

    Raises:
        AssertionError: they have two.
    """
    in_c, in_python = read_prompt_file(data), read_in_python(data)
    if isinstance(in_c, str) or isinstance(in_python, str):
        assert in_c == in_python, data.hex()
        return in_c
    assert in_c.keys() == in_python.keys(), data.hex()
    for key, value in in_python.items():
        assert np.array_equal(in_c[key], value), (key, data.hex())
    return in_c


def mutants(seed: int) -> Iterator[bytes]:
    """Files without end: bytes changed, tokens spliced in, fields replaced; the same for the same seed."""
    chosen = random.Random(seed)
    seeds = [valid(), *(data for data, _ in corpus().values() if len(data) < 2000)]
    while True:
        data = _by_fields(chosen) if chosen.random() < 0.3 else _by_bytes(chosen, seeds)
        yield data


def _by_bytes(chosen: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(chosen.choice(seeds))
    for _ in range(chosen.randint(1, 3)):
        at = chosen.randrange(8, len(data)) if len(data) > 8 else len(data)
        how = chosen.randrange(4)
        if how == 0:
            data[at : at + 1] = bytes([chosen.randrange(256)])
        elif how == 1:
            data[at : at + chosen.randint(0, 4)] = chosen.choice(_TOKENS)
        elif how == 2:
            del data[at : at + chosen.randint(1, 8)]
        else:
            data[at:at] = data[at : at + chosen.randint(1, 40)]
    if chosen.random() < 0.9 and len(data) >= 8:  # the length follows the header's end
        data[:8] = struct.pack("<Q", max(data.rfind(b"}") + 1 - 8, 0))
    return bytes(data)


def _by_fields(chosen: random.Random) -> bytes:
    """A header of right syntax whose tensors are made up, most of them fitting their bytes."""
    fields = valid_fields()
    end = 32
    made = _head(chosen) if chosen.random() < 0.5 else _anything(chosen)
    for name, dtype, shape in made:
        size = min(int(np.prod(shape, dtype=object)) * (4 if dtype == "F32" else 2), 10**15 - 1)
        begin, end = end, end + size
        fields[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [begin, min(end, 10**15 - 1)],
        }
    metadata = fields.get("__metadata__")
    if isinstance(metadata, dict) and chosen.random() < 0.5:
        rows = chosen.randint(1, 4)
        metadata["labels"] = json.dumps([f"{chosen.randint(0, 6)}" for _ in range(rows)])
        metadata["name"] = "".join(
            chr(chosen.choice([34, 92, 127, 233, 0x9F, 0x1F600])) for _ in range(3)
        )
    body = ROWS + chosen.randbytes(min(max(end - 32, 0), 4096))
    return encode(json.dumps(fields, ensure_ascii=chosen.random() < 0.5), body)


def _anything(chosen: random.Random) -> Iterator[tuple[str, str, list[int]]]:
    """Name, type and shape of a few tensors."""
    for _ in range(chosen.randint(0, 4)):
        dtype = chosen.choice(["F32", "F16", "BF16", "F64"])
        rank = chosen.choice([1, 2, 2, 2, 3, 5, 6])
        shape = [chosen.choice([0, 1, 2, 2, 4, 10**14]) for _ in range(rank)]
        yield chosen.choice(_NAMES), dtype, shape


def _head(chosen: random.Random) -> Iterator[tuple[str, str, list[int]]]:
    """A head and what may stand beside it; one number in twenty is another one, and some are left out."""
    classes, width = chosen.randint(1, 4), chosen.randint(1, 4)
    shapes = {"head.weight": [classes, width], "head.bias": [classes]}
    if chosen.random() < 0.3:
        shapes |= {"head.dense.weight": [width, width], "head.dense.bias": [width]}
    if chosen.random() < 0.5:
        shapes |= {"box.weight": [4, width], "box.bias": [4]}
    for name, shape in shapes.items():
        if chosen.random() < 0.95:
            sizes = [chosen.randint(0, 5) if chosen.random() < 0.05 else size for size in shape]
            yield name, chosen.choice(["F32", "F32", "F16"]), sizes


def main(files: Iterator[bytes], count: int) -> None:
    """Compare so many; print how often each answer was given."""
    seen: Counter[str] = Counter()
    slowest = 0.0
    for number, data in zip(range(count), files, strict=False):
        begin = time.process_time()
        found = assert_same(data)
        slowest = max(slowest, time.process_time() - begin)
        seen[found if isinstance(found, str) else "valid"] += 1
        if number % 50_000 == 0:
            print(f"{number} of {count}", file=sys.stderr)  # noqa: T201
    assert slowest < _SLOW_SECONDS, f"a file took {slowest:.2f} s in the two readers"
    print(f"{count} files, {len(seen)} answers, 0 disagreements, slowest {slowest * 1e3:.1f} ms")  # noqa: T201
    print(", ".join(f"{reason} {times}" for reason, times in seen.most_common()))  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1] == "--files":
        paths = sorted(Path(sys.argv[2]).iterdir())
        main((path.read_bytes() for path in paths), len(paths))
    else:
        main(mutants(int(sys.argv[2]) if len(sys.argv) > 2 else 0), int(sys.argv[1]))
