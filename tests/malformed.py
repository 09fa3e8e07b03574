"""Malformed prompt files: each made from one valid file by one change, with the reason it earns.

`python tests/malformed.py FOLDER` writes them there, with reasons.txt, for the C reader's tests.
"""

import json
import math
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgept.formats.reason import Reason

Fields = dict[str, Any]

ROWS = struct.pack("<8f", 0.5, -1.0, 2.0, 0.25, 1.5, -0.125, 3.0, 0.0)  # (2, 4) float32
METADATA = {
    "format": "edgept-prompt",
    "format_version": "1",
    "fingerprint": "0123456789abcdef" * 4,
    "method": "prompt_tuning",
    "task": "text-generation",
    "name": "spanish",
}


def valid_fields() -> Fields:
    """The header that every malformed one begins as."""
    return {
        "__metadata__": dict(METADATA),
        "prompt_embeds": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
    }


def encode(fields: Fields | str | bytes, data: bytes = ROWS, length: int | None = None) -> bytes:
    """A file of a header (as an object, text or bytes) and data; `length` overrides the true one."""
    if isinstance(fields, dict):
        fields = json.dumps(fields, separators=(",", ":"))
    header = fields.encode() if isinstance(fields, str) else fields
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def valid() -> bytes:
    """The valid file."""
    return encode(valid_fields())


def corpus() -> dict[str, tuple[bytes, str]]:
    """Every malformed file by name, with the reason that a reader must give."""
    files: dict[str, tuple[bytes, str]] = {}
    for part in (_file_and_length, _text, _tensors, _layout, _values, _metadata):
        part(lambda name, reason, data: files.update({name: (data, reason.value)}))
    return files


Add = Callable[[str, Reason, bytes], None]


def _file_and_length(add: Add) -> None:
    text = json.dumps(valid_fields(), separators=(",", ":"))
    add("empty", Reason.FILE_TOO_SMALL, b"")
    add("fifteen-bytes", Reason.FILE_TOO_SMALL, valid()[:15])
    add("length-65537", Reason.HEADER_TOO_LARGE, encode(text.ljust(65537)))
    add("length-all-ones", Reason.HEADER_TOO_LARGE, encode(text, length=2**64 - 1))
    add("length-sign-bit", Reason.HEADER_TOO_LARGE, encode(text, length=2**63))
    add("length-one-past-the-end", Reason.HEADER_TRUNCATED, encode(text, b"", len(text) + 1))
    add("cut-in-the-header", Reason.HEADER_TRUNCATED, valid()[:64])


def _text(add: Add) -> None:
    text = json.dumps(valid_fields(), separators=(",", ":"))

    def change(name: str, reason: Reason, old: str, new: str | bytes) -> None:
        assert text.count(old) == 1, old
        raw = new.encode() if isinstance(new, str) else new
        add(name, reason, encode(text.encode().replace(old.encode(), raw)))

    add("header-of-no-bytes", Reason.HEADER_START, encode(b"", ROWS))
    add("leading-space", Reason.HEADER_START, encode(" " + text))
    add("byte-order-mark", Reason.HEADER_START, encode("\ufeff" + text))
    add("header-is-an-array", Reason.HEADER_START, encode(f"[{text}]"))
    change("latin-1", Reason.HEADER_UTF8, "spanish", b"espa\xf1ol")
    change("overlong-utf-8", Reason.HEADER_UTF8, "spanish", b"\xc0\xaf")
    change("surrogate-in-utf-8", Reason.HEADER_UTF8, "spanish", b"\xed\xa0\x80")
    change("beyond-unicode", Reason.HEADER_UTF8, "spanish", b"\xf4\x90\x80\x80")
    add("open-object", Reason.HEADER_JSON, encode(text[:-1]))
    add("text-after-the-object", Reason.HEADER_JSON, encode(text + "{}"))
    add("nul-after-the-object", Reason.HEADER_JSON, encode(text + "\0"))
    change("trailing-comma", Reason.HEADER_JSON, "[2,4]", "[2,4,]")
    change("single-quotes", Reason.HEADER_JSON, '"F32"', "'F32'")
    change("comment", Reason.HEADER_JSON, '"F32"', '"F32"/**/')
    change("key-without-quotes", Reason.HEADER_JSON, '"dtype"', "dtype")
    change("raw-newline-in-a-string", Reason.HEADER_JSON, "spanish", "spa\nnish")
    change("raw-nul-in-a-string", Reason.HEADER_JSON, "spanish", "spa\0nish")
    change("unknown-escape", Reason.HEADER_JSON, "spanish", "\\x41")
    change("short-unicode-escape", Reason.HEADER_JSON, "spanish", "\\u00e")
    change("null-for-a-shape", Reason.HEADER_JSON, "[2,4]", "null")
    change("true-in-a-shape", Reason.HEADER_JSON, "[2,4]", "[true,4]")
    change("nan-in-a-shape", Reason.HEADER_JSON, "[2,4]", "[NaN,4]")
    change("shape-in-a-shape", Reason.HEADER_DEPTH, "[2,4]", "[[2],4]")
    change("nested-30000-deep", Reason.HEADER_DEPTH, "[2,4]", "[" * 30000)
    change("metadata-nested", Reason.HEADER_DEPTH, '"spanish"', '{"a":[]}')
    change("same-tensor-twice", Reason.HEADER_DUPLICATE_KEY, '},"prompt_embeds"',
           '},"prompt_embeds":{},"prompt_embeds"')  # fmt: skip
    change("same-metadata-twice", Reason.HEADER_DUPLICATE_KEY, '"name"', '"name":"a","name"')
    change("same-key-escaped", Reason.HEADER_DUPLICATE_KEY, '"name"', '"n\\u0061me":"a","name"')
    change("same-dtype-twice", Reason.HEADER_DUPLICATE_KEY, '"dtype"', '"dtype":"F16","dtype"')
    change("negative-dimension", Reason.HEADER_NUMBER, "[2,4]", "[-2,4]")
    change("negative-zero", Reason.HEADER_NUMBER, "[0,32]", "[-0,32]")
    change("plus-sign", Reason.HEADER_NUMBER, "[2,4]", "[+2,4]")
    change("fraction", Reason.HEADER_NUMBER, "[2,4]", "[2.0,4]")
    change("exponent", Reason.HEADER_NUMBER, "[2,4]", "[2e0,4]")
    change("leading-zero", Reason.HEADER_NUMBER, "[2,4]", "[02,4]")
    change("sixteen-digits", Reason.HEADER_NUMBER, "[2,4]", "[1000000000000002,4]")
    change("five-thousand-digits", Reason.HEADER_NUMBER, "[2,4]", "[" + "9" * 5000 + ",4]")
    change("lone-high-surrogate", Reason.HEADER_SURROGATE, "spanish", "\\ud83d!")
    change("lone-low-surrogate", Reason.HEADER_SURROGATE, "spanish", "\\ude00")
    change("two-high-surrogates", Reason.HEADER_SURROGATE, "spanish", "\\ud83d\\ud83d")
    change("escaped-nul", Reason.HEADER_NUL, "spanish", "spanish\\u0000.txt")


def _tensors(add: Add) -> None:
    def change(name: str, reason: Reason, **changes: object) -> None:
        fields = valid_fields()
        fields["prompt_embeds"].update(changes)
        add(name, reason, encode(fields))

    def rename(name: str, reason: Reason, tensor: str, **changes: object) -> None:
        fields = valid_fields()
        fields[tensor] = {**fields.pop("prompt_embeds"), **changes}
        add(name, reason, encode(fields))

    rename("unknown-tensor", Reason.TENSOR_NAME, "lora_A")
    rename("peft-key", Reason.TENSOR_NAME, "prompt_embeddings")
    rename("empty-tensor-name", Reason.TENSOR_NAME, "")
    fields = valid_fields()
    fields["prompt_embeds"] = [2, 4]
    add("entry-is-an-array", Reason.TENSOR_ENTRY, encode(fields))
    fields = valid_fields()
    del fields["prompt_embeds"]["dtype"]
    add("no-dtype", Reason.TENSOR_ENTRY, encode(fields))
    change("extra-key", Reason.TENSOR_ENTRY, strides=[4, 1])
    change("dtype-is-a-number", Reason.TENSOR_ENTRY, dtype=32)
    change("shape-is-a-number", Reason.TENSOR_ENTRY, shape=8)
    change("shape-holds-a-string", Reason.TENSOR_ENTRY, shape=["2", 4])
    change("one-offset", Reason.TENSOR_ENTRY, data_offsets=[32])
    change("three-offsets", Reason.TENSOR_ENTRY, data_offsets=[0, 32, 32])
    change("float64", Reason.TENSOR_DTYPE, dtype="F64")
    change("int32", Reason.TENSOR_DTYPE, dtype="I32")
    change("lower-case-dtype", Reason.TENSOR_DTYPE, dtype="f32")
    change("no-dimensions", Reason.TENSOR_RANK, shape=[])
    change("one-dimension", Reason.TENSOR_RANK, shape=[8])
    change("four-dimensions", Reason.TENSOR_RANK, shape=[1, 1, 2, 4])
    change("thousand-dimensions", Reason.TENSOR_RANK, shape=[1] * 1000)
    rename("prompt-kv-of-four-dimensions", Reason.TENSOR_RANK, "prompt_kv", shape=[1, 2, 1, 4])
    rename("bias-of-two-dimensions", Reason.TENSOR_RANK, "head.bias")
    change("no-virtual-tokens", Reason.TENSOR_ZERO_DIM, shape=[0, 4], data_offsets=[0, 0])
    change("zero-hidden", Reason.TENSOR_ZERO_DIM, shape=[2, 0])
    rename("three-of-keys-and-values", Reason.TENSOR_SHAPE, "prompt_kv", shape=[1, 4, 1, 1, 2])
    change("product-wraps-to-zero", Reason.TENSOR_OVERFLOW, shape=[2**31, 2**31])
    change("product-wraps-to-32", Reason.TENSOR_OVERFLOW, shape=[27, 422658465387, 159975159130056])
    change("reversed-offsets", Reason.TENSOR_OUT_OF_BOUNDS, data_offsets=[32, 0])
    change("end-past-the-file", Reason.TENSOR_OUT_OF_BOUNDS, data_offsets=[0, 33])
    change("offsets-far-away", Reason.TENSOR_OUT_OF_BOUNDS, data_offsets=[10**14, 10**14 + 32])
    change("shape-larger-than-its-bytes", Reason.TENSOR_SIZE, shape=[3, 4])
    change("shape-smaller-than-its-bytes", Reason.TENSOR_SIZE, shape=[1, 4])
    change("half-the-element-size", Reason.TENSOR_SIZE, dtype="F16")


def _layout(add: Add) -> None:
    def with_head(
        weight: tuple[int, int], bias: tuple[int, int], data: bytes, classes: int = 2
    ) -> bytes:
        fields = valid_fields()
        fields["head.weight"] = {"dtype": "F32", "shape": [2, 4], "data_offsets": list(weight)}
        fields["head.bias"] = {"dtype": "F32", "shape": [classes], "data_offsets": list(bias)}
        return encode(fields, data)

    zeros = bytes(40)
    fields = valid_fields()
    del fields["prompt_embeds"]
    add("no-tensor", Reason.TENSOR_MISSING, encode(fields, b""))
    add("empty-object", Reason.TENSOR_MISSING, encode("{}      ", b""))
    fields = valid_fields()
    fields["prompt_embeds"]["data_offsets"] = [4, 36]
    add("hole-at-the-start", Reason.DATA_HOLE, encode(fields, bytes(4) + ROWS))
    add("hole-between-tensors", Reason.DATA_HOLE,
        with_head((36, 68), (68, 76), ROWS + bytes(4) + zeros))  # fmt: skip
    add("same-bytes-twice", Reason.DATA_OVERLAP, with_head((0, 32), (32, 40), ROWS + zeros[:8]))
    add("overlap-by-four-bytes", Reason.DATA_OVERLAP, with_head((28, 60), (60, 68), ROWS + zeros))
    add("one-byte-appended", Reason.DATA_TRAILING, valid() + b"\n")
    add("zip-appended", Reason.DATA_TRAILING, valid() + b"PK\x05\x06" + bytes(18))
    add("cut-in-the-data", Reason.TENSOR_OUT_OF_BOUNDS, valid()[:-1])
    add("three-biases-for-two-classes", Reason.HEAD_MISMATCH,
        with_head((32, 64), (64, 76), ROWS + zeros + bytes(4), classes=3))  # fmt: skip
    fields = valid_fields()
    fields["head.bias"] = {"dtype": "F32", "shape": [2], "data_offsets": [32, 40]}
    add("bias-without-weight", Reason.HEAD_MISMATCH, encode(fields, ROWS + bytes(8)))
    _dense_head(add)
    _box(add)


def _box(add: Add) -> None:
    """What reads a box, beside a head of (2, 2)."""

    def with_box(name: str, **shapes: list[int]) -> None:
        fields = valid_fields()
        end = 32
        for part, shape in shapes.items():
            begin, end = end, end + 4 * math.prod(shape)
            tensor = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
            fields[part.replace("_", ".")] = tensor
        add(name, Reason.BOX_MISMATCH, encode(fields, ROWS + bytes(end - 32)))

    with_box("box-without-its-bias", head_weight=[2, 2], box_weight=[4, 2])
    with_box("box-bias-alone", head_weight=[2, 2], box_bias=[4])
    with_box("box-without-a-head", box_weight=[4, 2], box_bias=[4])
    with_box("box-of-three-numbers", head_weight=[2, 2], box_weight=[3, 2], box_bias=[3])
    with_box("box-of-another-width", head_weight=[2, 2], box_weight=[4, 3], box_bias=[4])


def _dense_head(add: Add) -> None:
    """The layer in front of a head of (2, 2)."""

    def with_dense(name: str, **shapes: list[int]) -> None:
        fields = valid_fields()
        end = 32
        for part, shape in shapes.items():
            begin, end = end, end + 4 * math.prod(shape)
            tensor = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
            fields[f"head.{part.replace('_', '.')}"] = tensor
        add(name, Reason.HEAD_MISMATCH, encode(fields, ROWS + bytes(end - 32)))

    with_dense("dense-without-its-bias", weight=[2, 2], dense_weight=[2, 2])
    with_dense("dense-bias-alone", weight=[2, 2], dense_bias=[2])
    with_dense("dense-without-a-last-layer", dense_weight=[2, 2], dense_bias=[2])
    with_dense("dense-of-three-rows", weight=[2, 2], dense_weight=[3, 2], dense_bias=[3])
    with_dense("dense-of-three-columns", weight=[2, 2], dense_weight=[2, 3], dense_bias=[2])
    with_dense("dense-with-three-biases", weight=[2, 2], dense_weight=[2, 2], dense_bias=[3])


def _values(add: Add) -> None:
    for name, bits in {
        "infinity": 0x7F800000,
        "minus-infinity": 0xFF800000,
        "quiet-nan": 0x7FC00000,
        "signalling-nan": 0x7F800001,
    }.items():
        values = ROWS[:28] + struct.pack("<I", bits)
        add(name, Reason.VALUE_NOT_FINITE, encode(valid_fields(), values))
    for dtype, bits in {"F16": 0x7C00, "BF16": 0x7F80}.items():
        fields = valid_fields()
        fields["prompt_embeds"].update(dtype=dtype, data_offsets=[0, 16])
        values = struct.pack("<8H", bits, *[0] * 7)
        add(f"infinity-in-{dtype.lower()}", Reason.VALUE_NOT_FINITE, encode(fields, values))


def _metadata(add: Add) -> None:
    def change(name: str, reason: Reason, key: str, value: object) -> None:
        fields = valid_fields()
        fields["__metadata__"][key] = value
        add(name, reason, encode(fields))

    for key in METADATA:
        fields = valid_fields()
        del fields["__metadata__"][key]
        add(f"no-{key.replace('_', '-')}", Reason.METADATA_MISSING, encode(fields))
    fields = valid_fields()
    del fields["__metadata__"]
    add("no-metadata", Reason.METADATA_MISSING, encode(fields))
    fields = valid_fields()
    fields["__metadata__"] = "edgept-prompt"
    add("metadata-is-a-string", Reason.METADATA_TYPE, encode(fields))
    change("version-is-a-number", Reason.METADATA_TYPE, "format_version", 1)
    change("unknown-key-is-a-number", Reason.METADATA_TYPE, "epoch", 3)
    change("name-of-257-bytes", Reason.METADATA_TOO_LONG, "name", "n" * 257)
    change("name-of-258-bytes-in-129-letters", Reason.METADATA_TOO_LONG, "name", "ñ" * 129)
    change("fingerprint-of-65-digits", Reason.METADATA_TOO_LONG, "fingerprint", "0" * 65)
    change("labels-of-32769-bytes", Reason.METADATA_TOO_LONG, "labels", " " * 32769)
    change("terminal-escape-in-the-name", Reason.METADATA_CONTROL, "name", "\x1b[2J")
    change("newline-in-the-task", Reason.METADATA_CONTROL, "task", "text-generation\n")
    change("c1-control-in-the-base-model", Reason.METADATA_CONTROL, "base_model", "\x9b2J")
    change("another-format", Reason.METADATA_FORMAT, "format", "pt")
    change("version-2", Reason.METADATA_VERSION, "format_version", "2")
    change("version-01", Reason.METADATA_VERSION, "format_version", "01")
    change("short-fingerprint", Reason.METADATA_FINGERPRINT, "fingerprint", "0" * 63)
    change("upper-case-fingerprint", Reason.METADATA_FINGERPRINT, "fingerprint", "A" * 64)
    change("fingerprint-of-wide-digits", Reason.METADATA_FINGERPRINT, "fingerprint", "٠" * 32)
    change("labels-not-json", Reason.METADATA_LABELS, "labels", "yes,no")
    change("labels-empty", Reason.METADATA_LABELS, "labels", "[]")
    change("labels-nested", Reason.METADATA_LABELS, "labels", '[["yes"],"no"]')
    change("labels-of-numbers", Reason.METADATA_LABELS, "labels", "[0,1]")
    change("labels-repeated", Reason.METADATA_LABELS, "labels", '["yes","yes"]')
    change("label-empty", Reason.METADATA_LABELS, "labels", '["yes",""]')
    change("label-with-escaped-control", Reason.METADATA_LABELS, "labels", '["yes\\u001b"]')
    fields = valid_fields()
    fields["head.weight"] = {"dtype": "F32", "shape": [2, 4], "data_offsets": [32, 64]}
    fields["__metadata__"]["labels"] = '["yes","no","maybe"]'
    add("three-labels-for-two-classes", Reason.METADATA_LABELS, encode(fields, ROWS + ROWS))


def write_corpus(folder: Path) -> None:
    """Write each file as NAME.safetensors, and reasons.txt with lines of name, tab, reason."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (data, _) in corpus().items():
        (folder / f"{name}.safetensors").write_bytes(data)
    lines = "".join(f"{name}\t{reason}\n" for name, (_, reason) in corpus().items())
    (folder / "reasons.txt").write_text(lines)


if __name__ == "__main__":
    write_corpus(Path(sys.argv[1]))
