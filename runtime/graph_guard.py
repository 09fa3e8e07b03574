"""Checks a bundle's graph before onnxruntime sees it: whose operators it uses, which files it names.

onnxruntime follows what a graph says: it opens the files that tensors name as external data, and
takes the location ``*/_ORT_MEM_ADDR_/*`` for an address in its own memory. So the file is judged
first, by walking its protobuf wire format (https://protobuf.dev/programming-guides/encoding/); the
device has neither onnx nor protobuf. Only what names an operator or a file is looked at, and weights
are stepped over. Where a field is repeated that should not be, protobuf keeps the last or merges
them; here every occurrence is checked.

Field numbers are those of onnx.proto in onnx 1.23; a test compares them with the onnx package.
"""

import errno
import mmap
import os
import re
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgept.errors import InvalidFileError, UntrustedError

__all__ = ["check_graph"]

ALLOWED_DOMAINS = frozenset({b"", b"ai.onnx", b"com.microsoft"})
# Nested messages, three for each level of If, Loop or Scan. protobuf itself stops at 100.
MAX_DEPTH = 64
# Longer than any name that is accepted below, and than NAME_MAX; strings are cut here, not copied.
_MAX_NAME_BYTES = 256
_PLAIN_NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]*")

# Message to {field number: what is in it}: the name of another message to walk, or a leaf in <>.
MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {
        7: "GraphProto",
        8: "OperatorSetIdProto",
        20: "TrainingInfoProto",
        25: "FunctionProto",
    },
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {
        7: "NodeProto",
        9: "OperatorSetIdProto",
        10: "<domain>",
        11: "AttributeProto",
    },
    "OperatorSetIdProto": {1: "<domain>"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {4: "<op_type>", 5: "AttributeProto", 7: "<domain>"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},  # external_data
    "StringStringEntryProto": {1: "<key>", 2: "<value>"},
}


def check_graph(path: Path, allowed_files: Collection[str]) -> None:
    """Check that a graph uses known operators only and reads no file outside its bundle.

    Walks every node, function and tensor, those in subgraphs and attributes too. It does not check
    that the graph is a valid model; onnxruntime does.

    Args:
        path: the .onnx file; external data is looked for in its folder.
        allowed_files: names that external data may have, those in the bundle's manifest.

    Raises:
        UntrustedError: an operator domain other than "", "ai.onnx" and "com.microsoft", an EPContext
            node, external data that is not a regular file named in `allowed_files`, or a graph that
            is missing or is not a regular file itself.
        InvalidFileError: reason ``graph-malformed``: truncated, not protobuf, or without a graph.
    """
    try:
        # O_NONBLOCK so that a named pipe in the file's place does not hang us.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        found = "is a link" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        raise UntrustedError(
            f"{path} {found}; expected a regular file. Copy the whole bundle again."
        ) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UntrustedError(f"{path} is not a regular file. Copy the whole bundle again.")
        if status.st_size == 0:
            raise _malformed(path, 0, "the file is empty")
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
            walk = _Walk(path, data, frozenset(name.encode() for name in allowed_files))
            walk.message("ModelProto", 0, len(data), depth=0)
    finally:
        os.close(descriptor)
    if not walk.found_graph:
        raise _malformed(path, status.st_size, "it holds no graph")


@dataclass
class _Walk:
    """One pass over a graph's bytes."""

    path: Path
    data: mmap.mmap
    allowed_files: frozenset[bytes]
    found_graph: bool = False
    checked_files: set[bytes] = field(default_factory=set)

    def message(self, name: str, start: int, end: int, depth: int) -> None:
        """Check the message in data[start:end] and, through recursion, what it holds."""
        if depth > MAX_DEPTH:
            raise _malformed(self.path, start, f"messages are nested deeper than {MAX_DEPTH}")
        contents = MESSAGES[name]
        key = value = b""
        for number, first, last in self.fields(start, end):
            content = contents.get(number)
            if content is None:
                continue
            if content[0] != "<":
                self.message(content, first, last, depth + 1)
                continue
            text = self.data[first : min(last, first + _MAX_NAME_BYTES)]
            if content == "<domain>":
                self.check_domain(text)
            elif content == "<op_type>":
                self.check_op_type(text)
            elif content == "<key>":
                key = text
            else:
                value = text
        if name == "GraphProto":
            self.found_graph = True
        if key == b"location":
            self.check_location(value)

    def fields(self, position: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield (field number, start, end) of every length-delimited field in data[position:end].

        Numbers are stepped over: nothing that is checked here is one. A field whose wire type is not
        its declared one is stepped over as well, as protobuf does.
        """
        data = self.data
        while position < end:
            field_start = position
            tag = data[position]
            position += 1
            if tag > 0x7F:
                tag, position = self.varint(field_start, end)
            if not 8 <= tag < 1 << 32:
                raise _malformed(self.path, field_start, "a field number is out of range")
            wire_type = tag & 7
            if wire_type == 2:
                # Most lengths fit one byte: this shortcut saves a third of the time.
                if position < end and data[position] < 0x80:
                    length = data[position]
                    position += 1
                else:
                    length, position = self.varint(position, end)
                first = position
                position += length
                if position <= end:
                    yield tag >> 3, first, position
            elif wire_type == 0:
                _, position = self.varint(position, end)
            elif wire_type == 1:
                position += 8
            elif wire_type == 5:
                position += 4
            else:
                raise _malformed(self.path, field_start, f"wire type {wire_type} is not in use")
            if position > end:
                raise _malformed(self.path, field_start, "a field ends past what holds it")

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """Read a varint of at most 10 bytes: its value and the position after it."""
        value = 0
        for shift, at in enumerate(range(position, min(end, position + 10))):
            byte = self.data[at]
            value |= (byte & 0x7F) << (7 * shift)
            if byte < 0x80:
                return value, at + 1
        raise _malformed(self.path, position, "a number does not end")

    def check_domain(self, domain: bytes) -> None:
        """Refuse operators that are neither ONNX's nor onnxruntime's own."""
        if domain not in ALLOWED_DOMAINS:
            raise UntrustedError(
                f"{self.path}: operator domain {_show(domain)}, allowed are '' (ai.onnx) and "
                "'com.microsoft'. Export the model again with 'edgept export'."
            )

    def check_op_type(self, op_type: bytes) -> None:
        """Refuse EPContext: it holds, or names in a file, a provider's compiled program."""
        if op_type == b"EPContext":
            raise UntrustedError(
                f"{self.path}: an EPContext node, which is a compiled program and not a graph that "
                "can be checked. Export the model again with 'edgept export'."
            )

    def check_location(self, location: bytes) -> None:
        """Refuse external data that is not a regular file of the bundle."""
        if location in self.checked_files:
            return
        if not _PLAIN_NAME.fullmatch(location) or location not in self.allowed_files:
            raise UntrustedError(
                f"{self.path}: weights in {_show(location)}, expected a file that the bundle's "
                "manifest lists. Do not run this graph; export the model again."
            )
        target = self.path.parent / os.fsdecode(location)
        try:
            is_regular = stat.S_ISREG(target.lstat().st_mode)
        except OSError as error:
            raise UntrustedError(
                f"{target}, which holds weights of {self.path.name}, cannot be read: "
                f"{error.strerror}. Copy the whole bundle again."
            ) from error
        if not is_regular:
            raise UntrustedError(
                f"{target} is not a regular file; a bundle holds no links. Copy its target there."
            )
        self.checked_files.add(location)


def _show(text: bytes) -> str:
    return repr(text[:60].decode("utf-8", "backslashreplace")) + ("…" if len(text) > 60 else "")


def _malformed(path: Path, position: int, found: str) -> InvalidFileError:
    return InvalidFileError(
        "graph-malformed",
        f"{path} is not an ONNX graph: {found} (byte {position}). Copy the bundle again, or export "
        "the model again.",
    )
