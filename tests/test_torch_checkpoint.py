import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgept.errors import EdgeptError, InvalidFileError, UsageError
from edgept.formats.torch_checkpoint import parse_torch_checkpoint, read_torch_checkpoint

REAL = Path(__file__).parents[2] / "shared/data/bloomz-560m-prompt-adapter/adapter_model.bin"
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def saved(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def entries_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def with_pickle(pickled: bytes) -> bytes:
    """A valid archive whose program is another; storage 0 holds 24 bytes, six float32."""
    entries = entries_of(saved(torch.arange(6.0).reshape(2, 3)))
    return archive_of({**entries, "archive/data.pkl": pickled})


def with_tensor(
    *, offset: int = 0, shape: tuple[int, ...] = (2, 3), strides: tuple[int, ...] = (3, 1)
) -> bytes:
    pickled = entries_of(saved(torch.arange(6.0).reshape(2, 3)))["archive/data.pkl"]

    def dump(value: object) -> bytes:
        return pickle.dumps(value, protocol=2)[2:-1]

    old = b"K\x00K\x02K\x03\x86q\x06K\x03K\x01\x86q\x07"
    assert pickled.count(old) == 1
    # A memo slot of its own for each tuple that pickle.dumps remembers would clash: drop them.
    new = b"".join(
        dump(value) if isinstance(value, int) else b"(" + b"".join(map(dump, value)) + b"t"
        for value in (offset, shape, strides)
    )
    return with_pickle(pickled.replace(old, new))


def refused(data: bytes) -> str:
    with pytest.raises(InvalidFileError) as caught:
        parse_torch_checkpoint(data)
    assert str(caught.value).endswith((".", "?"))
    return caught.value.reason


@pytest.mark.skipif(not REAL.exists(), reason="../shared/data is not here")
def test_a_real_adapter_equals_what_torch_loads() -> None:
    ours = read_torch_checkpoint(REAL, max_bytes=1 << 20)
    theirs = torch.load(REAL, weights_only=True)
    assert ours.keys() == theirs.keys() == {"prompt_embeddings"}
    np.testing.assert_array_equal(ours["prompt_embeddings"], theirs["prompt_embeddings"].numpy())
    assert ours["prompt_embeddings"].shape == (8, 1024)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_lone_tensor_has_the_empty_name(dtype: torch.dtype) -> None:
    tensor = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    ours = parse_torch_checkpoint(saved(tensor))
    assert list(ours) == [""]
    assert ours[""].dtype == np.float32
    assert not ours[""].flags.writeable
    np.testing.assert_array_equal(ours[""], tensor.float().numpy())


def test_views_parameters_and_nested_dictionaries() -> None:
    base = torch.arange(24.0).reshape(4, 6)
    checkpoint = {
        "rows": torch.nn.Parameter(base[1:3].clone()),
        "nested": OrderedDict(transposed=base.t().bfloat16(), slice=base.clone()[:, 2:4]),
        "scalar": torch.tensor(2.5),
        "epoch": 3,
        "lr": 0.5,
        "note": "trained on tweets",
        "done": True,
        "best": None,
        "betas": (0.9, 0.999),
    }
    ours = parse_torch_checkpoint(saved(checkpoint))
    assert list(ours) == ["rows", "nested.transposed", "nested.slice", "scalar"]
    np.testing.assert_array_equal(ours["rows"], base[1:3].numpy())
    np.testing.assert_array_equal(ours["nested.transposed"], base.t().numpy())
    np.testing.assert_array_equal(ours["nested.slice"], base[:, 2:4].numpy())
    assert ours["scalar"] == np.float32(2.5)


def test_a_modules_state_dict_is_read() -> None:
    module = torch.nn.Linear(3, 2)
    ours = parse_torch_checkpoint(saved(module.state_dict()))
    np.testing.assert_array_equal(ours["weight"], module.weight.detach().numpy())
    np.testing.assert_array_equal(ours["bias"], module.bias.detach().numpy())


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(3),
        torch.ones(2, dtype=torch.bool),
        torch.eye(2).to_sparse(),
        torch.zeros(2, device="meta"),
        torch.ones(2, dtype=torch.complex64),
        {1: torch.ones(2)},
        [torch.ones(2)],
        torch.nn.Linear(1, 1),
        {"a": {"set"}},
    ],
    ids=["int64", "bool", "sparse", "meta", "complex", "int-key", "list", "module", "set"],
)
def test_what_a_prompt_does_not_need_is_refused(value: object) -> None:
    assert refused(saved(value)) == "checkpoint-pickle"


def call(name: str, arguments: bytes) -> bytes:
    module, attribute = name.rsplit(".", 1)
    return f"c{module}\n{attribute}\n".encode() + arguments + b"R"


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


EXPLOITS: dict[str, bytes] = {
    "os.system": call("os.system", text("touch {marker}") + b"\x85"),
    "posix.system": call("posix.system", text("touch {marker}") + b"\x85"),
    "builtins.eval": call("builtins.eval", text("open('{marker}', 'w')") + b"\x85"),
    "__builtin__.exec": call("__builtin__.exec", text("open('{marker}', 'w')") + b"\x85"),
    "getattr": call("builtins.getattr", b"ctorch\nFloatStorage\n" + text("__init__") + b"\x86"),
    "numpy.load": call("numpy.load", text("{marker}") + b"\x85"),
    "torch.load": call("torch.load", text("{marker}") + b"\x85"),
    "_rebuild_sparse_tensor": call("torch._utils._rebuild_sparse_tensor", b")"),
    "_rebuild_qtensor": call("torch._utils._rebuild_qtensor", b")"),
    "_rebuild_meta_tensor_no_storage": call("torch._utils._rebuild_meta_tensor_no_storage", b")"),
    "dotted name": b"ccollections\nOrderedDict.__init__.__globals__\n",
    "storage called": call("torch.FloatStorage", b"K\x64\x85"),
    "ordered dict with arguments": call("collections.OrderedDict", b"]\x85"),
    "INST": b"(" + text("touch {marker}") + b"ios\nsystem\n",
    "OBJ": b"(cos\nsystem\n" + text("touch {marker}") + b"o",
    "NEWOBJ": b"cos\nsystem\n" + text("touch {marker}") + b"\x85\x81",
    "NEWOBJ_EX": b"cos\nsystem\n)}\x92",
    "STACK_GLOBAL": text("os") + text("system") + b"\x93",
    "EXT1": b"\x82\x01",
    "PERSID": b"Pstorage\n",
    "BUILD of an object": b"ctorch\nFloatStorage\n}" + text("__setstate__") + b"Nsb",
    "BUILD with slots": b"}N}\x86b",
    "APPEND": b"]Na",
    "DUP": b"}22",
    "FRAME": b"\x95" + struct.pack("<Q", 2**63),
    "BYTEARRAY8 of 2^62": b"\x96" + struct.pack("<Q", 2**62),
    "BINBYTES8 of 2^62": b"\x8e" + struct.pack("<Q", 2**62),
    "BINBYTES of 2^32": b"B" + struct.pack("<I", 2**32 - 1),
    "BINUNICODE of 2^32": b"X" + struct.pack("<I", 2**32 - 1),
    "LONG4 of 2^31": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "LONG4 negative": b"\x8b" + struct.pack("<i", -1),
    "LONG of many digits": b"L" + b"9" * 100_000 + b"L\n",
    "LONG_BINPUT of 2^32": b"}r" + struct.pack("<I", 2**32 - 1) + b"0",
    "unknown opcode": b"\xff",
    "empty stack": b"R",
    "mark popped": b"((tR",
    "items without a mark": b"}u",
    "odd items": b"}(" + text("a") + b"u",
    "memo of nothing": b"q\x00",
    "memo that was never made": b"h\x07",
    "two results": b"}}",
    "a long key": b"}" + text("k" * 257) + b"Ns",
}


@pytest.mark.parametrize("name", EXPLOITS)
def test_a_hostile_pickle_runs_nothing(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    program = EXPLOITS[name].replace(b"{marker}", str(marker).encode())
    if b"touch" in program or b"open(" in program:  # the strings' lengths
        short = b"touch {marker}" if b"touch" in program else b"open('{marker}', 'w')"
        full = short.replace(b"{marker}", str(marker).encode())
        program = program.replace(struct.pack("<I", len(short)), struct.pack("<I", len(full)))
    assert refused(with_pickle(b"\x80\x02" + program + b".")) == "checkpoint-pickle"
    assert not marker.exists()


def test_pickle_itself_would_have_run_it(tmp_path: Path) -> None:
    class Exploit:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    program = pickle.dumps({"prompt_embeddings": Exploit()}, protocol=2)
    assert refused(with_pickle(program)) == "checkpoint-pickle"
    assert not (tmp_path / "ran").exists()
    pickle.loads(program)
    assert (tmp_path / "ran").exists()


def test_bombs_stay_small() -> None:
    pickled = entries_of(saved({"a": torch.zeros(6)}))["archive/data.pkl"]
    assert pickled.startswith(b"\x80\x02}q\x00")
    tuples = b"\x80\x02" + b")" + b"q\x01h\x01\x86" * 30_000 + b"."  # doubles 30,000 times
    steps = b"\x80\x02" + b"}q\x01" + b"h\x01q\x02" * 200_000 + b"."
    # A dictionary of 1,000 times the next one, four deep: 10^12 names.
    wide = b"}q\x09" + b"".join(
        b"}q" + bytes([depth]) + b"("
        + b"".join(text(str(i)) + b"h\x09" for i in range(1000)) + b"uq\x09"
        for depth in (1, 2, 3)
    )  # fmt: skip
    loop = b"\x80\x02}q\x01" + text("a") + b"h\x01s."
    # (name, program, reason)
    bombs = [
        (tuples, "checkpoint-empty"),
        (steps, "checkpoint-pickle"),
        (b"\x80\x02" + wide + b".", "checkpoint-pickle"),
        (b"\x80\x02}q\x09}q\x01(" + wide[3:] + b"u.", "checkpoint-pickle"),
        (loop, "checkpoint-nesting"),
        (b"\x80\x02" + b"}" * 2 + b"." + bytes(1 << 20), "checkpoint-pickle-too-large"),
    ]
    tracemalloc.start()
    for program, reason in bombs:
        assert refused(with_pickle(program)) == reason
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20


def test_a_dictionary_in_two_places_is_refused() -> None:
    shared: dict[str, torch.Tensor] = {"t": torch.ones(2)}
    assert refused(saved({"a": shared, "b": shared})) == "checkpoint-nesting"
    deep: dict[str, Any] = {"a": {"a": {"a": {"a": {"a": torch.ones(1)}}}}}
    assert refused(saved(deep)) == "checkpoint-nesting"


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 1},
        {"offset": 2**40},
        {"shape": (3, 3)},
        {"shape": (2**31 - 1, 1), "strides": (1, 1)},
        {"strides": (4, 1)},
        {"strides": (3, 2**40)},
        {"shape": (0, 3)},
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(changes: dict[str, Any]) -> None:
    with_tensor()  # the helper itself is right:
    assert parse_torch_checkpoint(with_tensor())[""].shape == (2, 3)
    assert refused(with_tensor(**changes)) in ("checkpoint-shape", "checkpoint-expanded")


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": -1},
        {"strides": (-1, 1)},
        {"shape": (2, -3)},
        {"shape": (2, 3, 1)},
        {"shape": (1,) * 9, "strides": (1,) * 9},
        {"shape": (2**2000, 1)},
    ],
)
def test_sizes_that_are_no_sizes_are_refused(changes: dict[str, Any]) -> None:
    assert refused(with_tensor(**changes)) == "checkpoint-pickle"


def test_views_that_repeat_their_storage_are_refused() -> None:
    row = torch.zeros(4096)
    assert refused(saved({"a": row.expand(100_000, 4096)})) in (
        "checkpoint-shape",
        "checkpoint-expanded",
    )
    assert refused(saved({str(i): row for i in range(100)})) == "checkpoint-expanded"


def test_values_that_are_not_finite_are_refused() -> None:
    assert refused(saved(torch.tensor([1.0, float("nan")]))) == "value-not-finite"
    assert refused(saved(torch.tensor([1e300], dtype=torch.float64))) == "value-not-finite"


def test_the_legacy_format_is_refused_with_the_remedy() -> None:
    data = saved(torch.ones(2), _use_new_zipfile_serialization=False)
    with pytest.raises(InvalidFileError, match=r"before version 1\.6.*save it again") as caught:
        parse_torch_checkpoint(data)
    assert caught.value.reason == "checkpoint-not-zip"


def test_torchscript_is_refused(tmp_path: Path) -> None:
    entries = entries_of(saved(torch.ones(2)))
    del entries["archive/data.pkl"]
    assert refused(archive_of(entries)) == "checkpoint-layout"
    assert refused(archive_of({**entries, "other/data.pkl": b"."})) == "checkpoint-layout"


def test_damaged_archives_are_refused() -> None:
    data = saved(torch.arange(6.0))
    entries = entries_of(data)
    storage = struct.pack("<6f", *range(6))
    assert data.count(storage) == 1
    big = {**entries, "archive/byteorder": b"big"}
    short = {**entries, "archive/data/0": storage[:-4]}
    missing = {name: raw for name, raw in entries.items() if name != "archive/data/0"}
    many = {**entries, **{f"archive/x/{i}": b"" for i in range(1025)}}
    expected = {
        "checkpoint-byte-order": archive_of(big),
        "checkpoint-storage": archive_of(short),
        "checkpoint-compressed": archive_of(entries, zipfile.ZIP_DEFLATED),
        "checkpoint-too-many-entries": archive_of(many),
        "checkpoint-not-zip": b"",
        "checkpoint-damaged-zip": data.replace(storage, storage[::-1]),
    }
    assert {name: refused(raw) for name, raw in expected.items()} == {
        name: name for name in expected
    }
    assert refused(archive_of(missing)) == "checkpoint-storage"
    assert refused(data[:-1]) == "checkpoint-damaged-zip"
    assert refused(data + b"\0") == "checkpoint-damaged-zip"


@pytest.mark.parametrize(
    "name", ["/archive/x", "archive/../x", "archive//x", "archive/./x", "a\n/x"]
)
def test_entry_names_that_are_paths_are_refused(name: str) -> None:
    entries = entries_of(saved(torch.ones(2)))
    assert refused(archive_of({**entries, name: b""})) == "checkpoint-entry-name"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_and_overlapping_entries_are_refused() -> None:
    entries = entries_of(saved(torch.ones(2)))
    buffer = io.BytesIO(archive_of(entries))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/version", b"3\n")
    assert refused(buffer.getvalue()) == "checkpoint-entry-name"
    # One entry that contains another, headers and all.
    inner = bytearray(
        struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, 3, 0) + b"a/b"
    )
    outer_header = struct.pack(
        "<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 0, 0, 0, zlib.crc32(inner), len(inner), len(inner), 3, 0
    )
    body = outer_header + b"a/a" + inner
    directory = b""
    for name, raw, offset in ((b"a/a", bytes(inner), 0), (b"a/b", b"", len(outer_header) + 3)):
        directory += struct.pack(
            "<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, 0, 0, 0, 0, zlib.crc32(raw), len(raw), len(raw),
            3, 0, 0, 0, 0, 0, offset,
        ) + name  # fmt: skip
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 2, 2, len(directory), len(body), 0)
    with pytest.raises(InvalidFileError, match="overlap"):
        parse_torch_checkpoint(body + directory + end)


def test_the_file_itself_is_judged_first(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(saved(torch.ones(2)))
    (tmp_path / "b.pt").symlink_to("a.pt")
    assert list(read_torch_checkpoint(tmp_path / "b.pt", max_bytes=4096, follow_links=True)) == [""]
    for path, limit, reason in [("b.pt", 4096, "file-is-link"), ("a.pt", 99, "file-too-large")]:
        with pytest.raises(InvalidFileError) as caught:
            read_torch_checkpoint(tmp_path / path, max_bytes=limit)
        assert caught.value.reason == reason
    with pytest.raises(UsageError):
        read_torch_checkpoint(tmp_path / "nothing.pt", max_bytes=4096)


def test_mutants_are_read_or_refused_and_nothing_else() -> None:
    generator = random.Random(7)
    entries = entries_of(saved({"a": torch.ones(2, 2), "b": torch.nn.Parameter(torch.ones(3))}))
    data = archive_of(entries)
    outcomes = set()
    for turn in range(3000):
        if turn % 2:  # in the program, with a right checksum
            program = bytearray(entries["archive/data.pkl"])
            for _ in range(generator.randint(1, 3)):
                program[generator.randrange(len(program))] = generator.randrange(256)
            mutant = archive_of({**entries, "archive/data.pkl": bytes(program)})
        else:
            raw = bytearray(data)
            for _ in range(generator.randint(1, 3)):
                raw[generator.randrange(len(raw))] = generator.randrange(256)
            mutant = bytes(raw)
        try:
            parse_torch_checkpoint(mutant)
            outcomes.add("read")
        except EdgeptError as error:
            assert isinstance(error, InvalidFileError)  # noqa: PT017
            outcomes.add(error.reason)
    assert {"read", "checkpoint-pickle", "checkpoint-damaged-zip"} <= outcomes
