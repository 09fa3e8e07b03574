"""Read a zip archive of stored (uncompressed) entries, the container that torch.save writes.

Python's zipfile is not used: it builds an object for each of an archive's entries before anybody
can count them, and it accepts compressed, overlapping and duplicate entries.

Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.7, 4.3.12, 4.3.16.
"""

import struct
import zlib
from itertools import pairwise

from edgept.errors import InvalidFileError

__all__ = ["read_stored_zip"]

_END = struct.Struct("<4sHHHHIIH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_MAX_ENTRIES = 1024
_MAX_NAME_BYTES = 256
_KNOWN_FLAGS = 0x0808  # a data descriptor follows; the name is UTF-8


def read_stored_zip(data: bytes) -> dict[str, memoryview]:
    """Map each entry's name to its bytes, a view of `data`.

    Raises:
        InvalidFileError: not a zip archive, damaged, or with entries that torch.save never writes.
    """
    if data[:4] != b"PK\x03\x04":
        raise InvalidFileError(
            "checkpoint-not-zip",
            f"the file begins with {data[:4]!r}, a torch.save file with b'PK\\x03\\x04'. If it is "
            "torch's format from before version 1.6, load it and save it again with a current "
            "torch, or better as .safetensors.",
        )
    view = memoryview(data)
    count, position, end = _find_directory(data)
    entries: dict[str, memoryview] = {}
    spans: list[tuple[int, int]] = []
    for _ in range(count):
        if position + _CENTRAL.size > end:
            raise _damaged("the directory is shorter than its entries")
        fields = _CENTRAL.unpack_from(data, position)
        signature, _, _, flags, method, _, _, crc, packed, size, *lengths, offset = fields
        name_bytes, extra_bytes, comment_bytes = lengths[:3]
        raw_name = data[position + _CENTRAL.size : position + _CENTRAL.size + name_bytes]
        position += _CENTRAL.size + name_bytes + extra_bytes + comment_bytes
        if signature != b"PK\x01\x02" or position > end:
            raise _damaged("an entry of the directory is malformed")
        name = _check_name(raw_name, entries)
        if flags & ~_KNOWN_FLAGS or method != 0 or packed != size:
            raise InvalidFileError(
                "checkpoint-compressed",
                f"archive entry {name!r} is compressed or encrypted; torch.save stores its entries "
                "as they are. Save the checkpoint again with torch.save.",
            )
        begin = _data_offset(data, offset, raw_name)
        if begin + size > len(data):
            raise _damaged(f"entry {name!r} reaches past the end")
        spans.append((offset, begin + size))
        entries[name] = view[begin : begin + size]
        if zlib.crc32(entries[name]) != crc:
            raise _damaged(f"the checksum of entry {name!r} is wrong")
    if position != end:
        raise _damaged("the directory is longer than its entries")
    spans.sort()
    if any(first[1] > second[0] for first, second in pairwise(spans)):
        raise _damaged("entries overlap")
    return entries


def _find_directory(data: bytes) -> tuple[int, int, int]:
    """Number of entries, first byte and end of the central directory."""
    at = len(data) - _END.size
    if at < 0 or data[at : at + 4] != b"PK\x05\x06":
        raise _damaged("the end record is not where it belongs")
    _, disk, first_disk, here, count, size, offset, comment = _END.unpack_from(data, at)
    if disk or first_disk or here != count or comment or offset + size > at:
        raise _damaged("the end record contradicts the file")
    if count > _MAX_ENTRIES:
        raise InvalidFileError(
            "checkpoint-too-many-entries",
            f"the archive has {count} entries, a prompt's has under {_MAX_ENTRIES}. Is it a whole "
            "model? Save the prompt's tensors alone.",
        )
    return count, offset, offset + size


def _check_name(raw: bytes, entries: dict[str, memoryview]) -> str:
    try:
        name = raw.decode("ascii")
    except UnicodeDecodeError as error:
        raise _damaged("an entry's name is not ASCII") from error
    parts = name.split("/")
    if len(raw) > _MAX_NAME_BYTES or not name.isprintable() or {"", ".", ".."} & {*parts}:
        raise InvalidFileError(
            "checkpoint-entry-name",
            f"archive entry {name[:80]!r} is no plain relative name. Save the checkpoint again with "
            "torch.save.",
        )
    if name in entries:
        raise InvalidFileError(
            "checkpoint-entry-name",
            f"archive entry {name!r} occurs twice. Save the checkpoint again with torch.save.",
        )
    return name


def _data_offset(data: bytes, offset: int, raw_name: bytes) -> int:
    """Where an entry's bytes begin: behind its local header, which must name the same entry."""
    if offset + _LOCAL.size > len(data):
        raise _damaged("an entry lies past the end")
    fields = _LOCAL.unpack_from(data, offset)
    signature, method, name_bytes, extra_bytes = fields[0], fields[3], fields[9], fields[10]
    name_at = offset + _LOCAL.size
    if signature != b"PK\x03\x04" or data[name_at : name_at + name_bytes] != raw_name or method:
        raise _damaged("an entry's two headers disagree")
    return int(name_at + name_bytes + extra_bytes)


def _damaged(found: str) -> InvalidFileError:
    return InvalidFileError(
        "checkpoint-damaged-zip",
        f"the archive is damaged: {found}. Copy the file again, or save it again with torch.save.",
    )
