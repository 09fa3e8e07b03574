"""Read and write prompt files: one .safetensors file per task, specified in `prompt_file.md`."""

import io
import json
import os
import re

import numpy as np

from edgept import atomic
from edgept.errors import InvalidFileError, UsageError
from edgept.formats.reason import Reason
from edgept.formats.regular_file import open_regular
from edgept.formats.safetensors_strict import METADATA_KEY, Header, read_header, read_tensors
from edgept.formats.strict_json import Json, parse_json
from edgept.prompt import Prompt

__all__ = [
    "FORMAT",
    "MAX_BYTES",
    "finish_prompt",
    "format_prompt",
    "parse_prompt",
    "read_prompt",
    "write_prompt",
]

FORMAT = "edgept-prompt"
FORMAT_VERSION = "1"
MAX_BYTES = 16 << 20
MIN_BYTES = 16

# The closed set of tensors, with the numbers of dimensions that each may have.
TENSOR_RANKS = {
    "prompt_embeds": (2, 3),
    "prompt_kv": (5,),
    "head.weight": (2,),
    "head.bias": (1,),
    "head.dense.weight": (2,),
    "head.dense.bias": (1,),
    "box.weight": (2,),
    "box.bias": (1,),
}

# Longest value of each metadata key in bytes of UTF-8, in the order in which they are checked.
MAX_VALUE_BYTES = {
    "format": 64,
    "format_version": 64,
    "fingerprint": 64,
    "method": 64,
    "task": 64,
    "name": 256,
    "labels": 32768,
    "base_model": 1024,
    "created_by": 256,
}
REQUIRED_KEYS = ("format", "format_version", "fingerprint", "method", "task", "name")

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PACK_AGAIN = "Pack the prompt again with 'edgept prompt pack'."


def read_prompt(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Prompt:
    """Read a prompt file. Memory: at most twice the file's size, beside 64 KiB of header.

    Args:
        path: the file; links are not followed.
        max_bytes: the largest file to accept.

    Raises:
        UsageError: there is no such file.
        InvalidFileError: the file breaks a rule of `prompt_file.md`; `reason` says which.
    """
    with open_regular(path, min_bytes=MIN_BYTES, max_bytes=max_bytes) as (stream, size):
        return finish_prompt(stream, read_header(stream, size))


def parse_prompt(data: bytes, *, max_bytes: int = MAX_BYTES) -> Prompt:
    """Read a prompt from the bytes of a prompt file.

    Raises:
        InvalidFileError: the bytes break a rule of `prompt_file.md`; `reason` says which.
    """
    if len(data) < MIN_BYTES:
        raise InvalidFileError(
            Reason.FILE_TOO_SMALL,
            f"{len(data)} bytes, the smallest prompt has {MIN_BYTES}. It was cut short: send it again.",
        )
    if len(data) > max_bytes:
        raise InvalidFileError(
            Reason.FILE_TOO_LARGE, f"{len(data)} bytes, the limit is {max_bytes}. Is it a model?"
        )
    stream = io.BytesIO(data)
    return finish_prompt(stream, read_header(stream, len(data)))


def finish_prompt(stream: io.BufferedIOBase, header: Header) -> Prompt:
    """Read what follows the header of a prompt file: rules 4 to 6.

    Raises:
        InvalidFileError: as `read_prompt`.
    """
    tensors = read_tensors(stream, header, TENSOR_RANKS)
    metadata = _check_metadata(header.fields.get(METADATA_KEY))
    weight = tensors.get("head.weight")
    return Prompt(
        tensors=tensors,
        name=metadata["name"],
        method=metadata["method"],
        fingerprint=metadata["fingerprint"],
        task=metadata["task"],
        labels=_check_labels(metadata.get("labels"), None if weight is None else weight.shape[0]),
        base_model=metadata.get("base_model", ""),
        created_by=metadata.get("created_by", ""),
    )


def write_prompt(prompt: Prompt, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a prompt file, whole or not at all. The same prompt gives the same bytes.

    Raises:
        UsageError: the prompt has no fingerprint, or the file exists and may not be replaced.
        InvalidFileError: the prompt breaks a rule of the format, so that no reader would take it.
    """
    atomic.write_bytes(path, format_prompt(prompt), overwrite=overwrite)


def format_prompt(prompt: Prompt) -> bytes:
    """The bytes of a prompt's file: float32, tensors by name, metadata first.

    Raises:
        UsageError: the prompt has no fingerprint.
        InvalidFileError: the prompt breaks a rule of the format.
    """
    if prompt.fingerprint is None:
        raise UsageError(
            f"prompt {prompt.name!r} is bound to no model. Bind it to a bundle: 'edgept prompt pack "
            "SOURCE -b BUNDLE -o FILE', or edgept.prompt_source.bind."
        )
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "fingerprint": prompt.fingerprint,
        "method": prompt.method,
        "task": prompt.task,
        "name": prompt.name,
        "labels": json.dumps(list(prompt.labels), ensure_ascii=False) if prompt.labels else "",
        "base_model": prompt.base_model,
        "created_by": prompt.created_by,
    }
    fields: dict[str, object] = {
        METADATA_KEY: {key: value for key, value in metadata.items() if value}
    }
    chunks: list[bytes] = []
    position = 0
    for name in sorted(prompt.tensors):
        tensor = np.ascontiguousarray(prompt.tensors[name], dtype="<f4")
        end = position + tensor.nbytes
        fields[name] = {
            "dtype": "F32",
            "shape": list(prompt.tensors[name].shape),
            "data_offsets": [position, end],
        }
        chunks.append(tensor.tobytes())
        position = end
    try:
        text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidFileError(
            Reason.HEADER_SURROGATE, f"a name or label is not Unicode text: {error}. Change it."
        ) from error
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    data = b"".join([len(text).to_bytes(8, "little"), text, *chunks])
    parse_prompt(data)  # what no reader would take is not written
    return data


def _check_metadata(metadata: Json | None) -> dict[str, str]:
    if metadata is None:
        raise InvalidFileError(
            Reason.METADATA_MISSING, f"the file has no metadata, so it is no prompt. {_PACK_AGAIN}"
        )
    if not isinstance(metadata, dict):
        raise _not_strings()
    strings = {key: value for key, value in metadata.items() if isinstance(value, str)}
    if len(strings) != len(metadata):
        raise _not_strings()
    for key, limit in MAX_VALUE_BYTES.items():
        value = strings.get(key)
        if value is None:
            if key in REQUIRED_KEYS:
                raise InvalidFileError(
                    Reason.METADATA_MISSING, f"the metadata lacks {key}. {_PACK_AGAIN}"
                )
            continue
        _check_value(key, value, limit)
    return strings


def _check_value(key: str, value: str, limit: int) -> None:
    if len(value.encode("utf-8")) > limit:
        raise InvalidFileError(
            Reason.METADATA_TOO_LONG,
            f"metadata {key} has {len(value.encode('utf-8'))} bytes, the limit is {limit}. Shorten it.",
        )
    if _CONTROL.search(value):
        raise InvalidFileError(
            Reason.METADATA_CONTROL, f"metadata {key} holds a control character. Remove it."
        )
    if key == "format" and value != FORMAT:
        raise InvalidFileError(
            Reason.METADATA_FORMAT, f"format is {value!r}, a prompt's is {FORMAT!r}. {_PACK_AGAIN}"
        )
    if key == "format_version" and value != FORMAT_VERSION:
        raise InvalidFileError(
            Reason.METADATA_VERSION,
            f"prompt format version {value!r}, this edgept reads {FORMAT_VERSION}. Update edgept "
            "here, or pack the prompt with the version that runs here.",
        )
    if key == "fingerprint" and not _FINGERPRINT.fullmatch(value):
        raise InvalidFileError(
            Reason.METADATA_FINGERPRINT,
            f"fingerprint {value!r} is not 64 lowercase hexadecimal digits. {_PACK_AGAIN}",
        )


def _check_labels(text: str | None, num_classes: int | None) -> tuple[str, ...]:
    if text is None:
        return ()
    try:
        parsed = parse_json(text, max_depth=1)
    except InvalidFileError as error:
        raise _bad_labels(str(error)) from error
    labels = (
        [label for label in parsed if isinstance(label, str)] if isinstance(parsed, list) else []
    )
    if not labels or not isinstance(parsed, list) or len(labels) != len(parsed):
        raise _bad_labels("no array of strings, or an empty one")
    if len(set(labels)) != len(labels) or "" in labels or any(map(_CONTROL.search, labels)):
        raise _bad_labels("a label is empty, occurs twice or holds a control character")
    if num_classes is not None and len(labels) != num_classes:
        raise _bad_labels(f"{len(labels)} labels, but head.weight has {num_classes} rows")
    return tuple(labels)


def _bad_labels(found: str) -> InvalidFileError:
    return InvalidFileError(
        Reason.METADATA_LABELS,
        f"metadata labels: {found}. A JSON array of distinct class names is expected. {_PACK_AGAIN}",
    )


def _not_strings() -> InvalidFileError:
    return InvalidFileError(
        Reason.METADATA_TYPE, f"the metadata is not an object of strings. {_PACK_AGAIN}"
    )
