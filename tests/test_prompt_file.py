import dataclasses
import io
import json
import os
import random
import runpy
import socket
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import deserialize
from safetensors.numpy import load_file, save_file

from edgept.errors import InvalidFileError, UsageError
from edgept.formats.reason import Reason
from edgept.prompt import Prompt
from edgept.prompt_file import MAX_VALUE_BYTES, parse_prompt, read_prompt, write_prompt

malformed: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("malformed.py")))
CORPUS: dict[str, tuple[bytes, str]] = malformed["corpus"]()
FINGERPRINT = "0123456789abcdef" * 4

# The bytes that version 1 writes. If this changes, the format has changed.
PINNED = (
    b'\x30\x01\x00\x00\x00\x00\x00\x00{"__metadata__":{"format":"edgept-prompt","format_version":"1",'
    b'"fingerprint":"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",'
    b'"method":"prompt_tuning","task":"text-generation","name":"espa\xc3\xb1ol",'
    b'"created_by":"edgept 0"},'
    b'"prompt_embeds":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}'
    b"\x00\x00\x80\x3f\x00\x00\x00\xc0"
)


def make_prompt(**changes: Any) -> Prompt:
    rows = np.array([[1.0], [-2.0]], dtype=np.float32)  # (2, 1)
    prompt = Prompt(
        {"prompt_embeds": rows},
        name="español",
        method="prompt_tuning",
        fingerprint=FINGERPRINT,
        created_by="edgept 0",
    )
    return dataclasses.replace(prompt, **changes)


def full_prompt() -> Prompt:
    random_numbers = np.random.default_rng(0)

    def array(*shape: int) -> Any:
        return random_numbers.standard_normal(shape).astype(np.float32)

    return make_prompt(
        tensors={
            "prompt_kv": array(3, 2, 2, 5, 4),
            "prompt_embeds": array(3, 5, 8),
            "head.weight": array(2, 8),
            "head.bias": array(2),
            "head.dense.weight": array(8, 8),
            "head.dense.bias": array(8),
            "box.weight": array(4, 8),
            "box.bias": array(4),
        },
        labels=("ja, bitte", 'nein "danke"'),
        base_model="org/model",
    )


def reason_of(data: bytes) -> str:
    with pytest.raises(InvalidFileError) as caught:
        parse_prompt(data)
    assert str(caught.value).endswith((".", "?"))  # it says what to do next
    return caught.value.reason


def test_written_bytes_are_pinned(tmp_path: Path) -> None:
    write_prompt(make_prompt(), tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == PINNED


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    prompt = full_prompt()
    write_prompt(prompt, tmp_path / "p.safetensors")
    back = read_prompt(tmp_path / "p.safetensors")
    for name, tensor in prompt.tensors.items():
        np.testing.assert_array_equal(back.tensors[name], tensor)
        assert back.tensors[name].dtype == np.float32
        assert not back.tensors[name].flags.writeable
    assert dataclasses.replace(back, tensors={}).__dict__ == (
        dataclasses.replace(prompt, tensors={}).__dict__
    )


def test_the_same_prompt_gives_the_same_bytes(tmp_path: Path) -> None:
    prompt = full_prompt()
    other_order = dataclasses.replace(
        prompt, tensors=dict(sorted(prompt.tensors.items(), reverse=True))
    )
    write_prompt(prompt, tmp_path / "a")
    write_prompt(other_order, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_safetensors_library_reads_our_files(tmp_path: Path) -> None:
    prompt = full_prompt()
    write_prompt(prompt, tmp_path / "p.safetensors")
    theirs = load_file(tmp_path / "p.safetensors")
    assert theirs.keys() == prompt.tensors.keys()
    for name, tensor in prompt.tensors.items():
        np.testing.assert_array_equal(theirs[name], tensor)


def test_files_of_the_safetensors_library_are_read(tmp_path: Path) -> None:
    prompt = full_prompt()
    metadata = {**malformed["METADATA"], "a key of another program": "is ignored"}
    save_file(dict(prompt.tensors), tmp_path / "p.safetensors", metadata)
    back = read_prompt(tmp_path / "p.safetensors")
    for name, tensor in prompt.tensors.items():
        np.testing.assert_array_equal(back.tensors[name], tensor)


@pytest.mark.parametrize("size", [1, 2, 3, 65535, 65536, 65537, 200_000])
@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_width_values_are_widened_exactly(dtype: str, size: int) -> None:
    bits = np.random.default_rng(size).integers(0, 1 << 16, size, dtype=np.uint16)  # (size,)
    exponent = {"F16": 0x7C00, "BF16": 0x7F80}[dtype]
    bits[bits & exponent == exponent] = 0x3C01  # no infinities and NaNs
    bits[0] = 0x0001  # the smallest subnormal
    if dtype == "F16":
        expected = bits.view(np.float16).astype(np.float32)
    else:
        expected = np.frombuffer(
            b"".join(b"\0\0" + pair.tobytes() for pair in bits), dtype=np.float32
        )
    fields = malformed["valid_fields"]()
    fields["prompt_embeds"] = {"dtype": dtype, "shape": [1, size], "data_offsets": [0, 2 * size]}
    prompt = parse_prompt(malformed["encode"](fields, bits.tobytes()))
    np.testing.assert_array_equal(prompt.tensors["prompt_embeds"], expected.reshape(1, size))


def test_unusual_but_valid_headers_are_read() -> None:
    text = json.dumps(malformed["valid_fields"](), indent=1).replace("spanish", "\\ud83d\\ude00\\/")
    assert parse_prompt(malformed["encode"](text + "\r\n\t ")).name == "\U0001f600/"


@pytest.mark.parametrize("name", CORPUS)
def test_malformed_files_are_refused_with_their_reason(name: str) -> None:
    data, reason = CORPUS[name]
    assert reason_of(data) == reason


@pytest.mark.parametrize("name", ["same-tensor-twice", "cut-in-the-data", "infinity", "version-2"])
def test_a_refusal_through_the_file_is_the_same(name: str, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(CORPUS[name][0])
    with pytest.raises(InvalidFileError) as caught:
        read_prompt(tmp_path / "p")
    assert caught.value.reason == CORPUS[name][1]


def test_every_reason_is_tested_and_documented() -> None:
    import edgept.formats.reason

    of_the_file_system = {"file-is-link", "file-not-regular", "file-too-large", "file-changed"}
    assert {reason for _, reason in CORPUS.values()} | of_the_file_system == set(Reason)
    page = (Path(edgept.prompt_file.__file__).parent / "prompt_file.md").read_text()
    documented = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert [reason for reason in documented if reason in set(Reason)] == list(Reason)
    limits = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    assert {row[1].strip(" `"): int(row[3]) for row in limits if len(row) == 6} == MAX_VALUE_BYTES


def test_links_pipes_folders_sockets_and_devices_are_refused(tmp_path: Path) -> None:
    write_prompt(make_prompt(), tmp_path / "p")
    (tmp_path / "link").symlink_to("p")
    (tmp_path / "dangling").symlink_to("nothing")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    expected = {
        tmp_path / "link": "file-is-link",
        tmp_path / "dangling": "file-is-link",
        tmp_path / "fifo": "file-not-regular",
        tmp_path / "folder": "file-not-regular",
        Path("/dev/zero"): "file-not-regular",
    }
    for path, reason in expected.items():
        with pytest.raises(InvalidFileError) as caught:
            read_prompt(path)
        assert caught.value.reason == reason, path
    with socket.socket(socket.AF_UNIX) as listener:
        # a relative name: a socket's path is short
        folder = os.open(tmp_path, os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{folder}/socket")
        finally:
            os.close(folder)
        with pytest.raises(InvalidFileError) as caught:
            read_prompt(tmp_path / "socket")
        assert caught.value.reason == "file-not-regular"


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_prompt(tmp_path / "nothing")
    with pytest.raises(UsageError, match="not a path"):
        read_prompt("a\0b")


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate((16 << 20) + 1)
    tracemalloc.start()
    with pytest.raises(InvalidFileError) as caught:
        read_prompt(tmp_path / "large")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.reason == "file-too-large"
    assert peak < 1 << 20
    data = malformed["valid"]()
    assert parse_prompt(data, max_bytes=len(data)).name == "spanish"
    with pytest.raises(InvalidFileError) as caught:
        parse_prompt(data, max_bytes=len(data) - 1)
    assert caught.value.reason == "file-too-large"


def test_a_file_that_changes_while_it_is_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgept.formats.safetensors_strict import read_header
    from edgept.prompt_file import finish_prompt

    data: bytes = malformed["valid"]()
    for found in (data[:4], data[:50], data[:-1], data + b"x"):
        stream = io.BytesIO(found)
        with pytest.raises(InvalidFileError) as caught:
            finish_prompt(stream, read_header(stream, len(data)))
        assert caught.value.reason == "file-changed"


@pytest.mark.parametrize(("dtype", "item_bytes"), [("F32", 4), ("F16", 2), ("BF16", 2)])
def test_reading_takes_at_most_twice_the_file(dtype: str, item_bytes: int, tmp_path: Path) -> None:
    shape = [1024, 4096 // item_bytes]  # 4 MiB
    fields = malformed["valid_fields"]()
    fields["prompt_embeds"] = {"dtype": dtype, "shape": shape, "data_offsets": [0, 4 << 20]}
    (tmp_path / "p").write_bytes(malformed["encode"](fields, bytes(4 << 20)))
    tracemalloc.start()
    read_prompt(tmp_path / "p")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (4 if dtype == "F32" else 8) * 2**20 + 2**20


def test_a_prompt_that_no_reader_would_take_is_not_written(tmp_path: Path) -> None:
    target = tmp_path / "p"
    not_finite = {"prompt_embeds": np.array([[np.inf]], dtype=np.float32)}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tensors": not_finite}, "value-not-finite"),
        ({"tensors": {}}, "tensor-missing"),
        ({"tensors": {"lora_A": np.zeros((1, 1), np.float32)}}, "tensor-name"),
        ({"fingerprint": "0" * 63}, "metadata-fingerprint"),
        ({"name": ""}, "metadata-missing"),
        ({"name": "\ud800"}, "header-surrogate"),
        ({"labels": ("a", "a")}, "metadata-labels"),
    ]
    for changes, reason in cases:
        with pytest.raises(InvalidFileError) as caught:
            write_prompt(make_prompt(**changes), target)
        assert caught.value.reason == reason
    with pytest.raises(UsageError, match="bound to no model"):
        write_prompt(make_prompt(fingerprint=None), target)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    write_prompt(make_prompt(), tmp_path / "p")
    with pytest.raises(UsageError, match="exists already"):
        write_prompt(make_prompt(name="other"), tmp_path / "p")
    assert read_prompt(tmp_path / "p").name == "español"
    write_prompt(make_prompt(name="other"), tmp_path / "p", overwrite=True)
    assert read_prompt(tmp_path / "p").name == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_mutants_are_read_or_refused_and_nothing_else() -> None:
    generator = random.Random(20240)
    seeds = [malformed["valid"](), *(data for data, _ in CORPUS.values() if 16 <= len(data) < 4096)]
    accepted, reasons = 0, set()
    tracemalloc.start()
    for _ in range(5000):
        seed = seeds[0] if generator.random() < 0.5 else generator.choice(seeds)
        data = mutate(generator, seed)
        try:
            parse_prompt(data)
        except InvalidFileError as error:
            reasons.add(error.reason)
        else:
            accepted += 1
            # The safetensors library is laxer, so it takes it too. (It has no types here.)
            deserialize(data)  # type: ignore[no-untyped-call]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert accepted > 50
    assert 20 < len(reasons & set(Reason)) == len(reasons)
    assert peak < 2 << 20


def mutate(generator: random.Random, seed: bytes) -> bytes:
    """One to three changes; the header's length is mended in three of four."""
    data = bytearray(seed)
    length = int.from_bytes(data[:8], "little")
    tokens = [b"{", b"}", b"[", b"]", b",", b'"', b"\\u", b"0", b"-", b"null", b"\xff", b'"a":']
    for _ in range(generator.randint(1, 3)):
        at = generator.randrange(8, len(data))
        in_header = at < 8 + length
        change = generator.randrange(4)
        if change == 0:
            data[at] = generator.randrange(256)
        elif change == 1:
            token = generator.choice(tokens)
            data[at:at] = token
            length += len(token) if in_header else 0
        elif change == 2:
            end = min(at + generator.randint(1, 8), len(data) - 9)
            length -= max(0, min(end, 8 + length) - at)
            del data[at:end]
        else:
            piece = data[at : at + generator.randint(1, 64)]
            data[at:at] = piece
            length += len(piece) if in_header else 0
    if generator.random() < 0.75 and length >= 0:
        data[:8] = min(length, 2**64 - 1).to_bytes(8, "little")
    return bytes(data)
