"""Another report, read back to be compared with."""

# ruff: noqa: PTH113  # unlike Path's, it answers False for a path that cannot be examined

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgept.bench.phases import TITLES, Samples
from edgept.bench.picture import PictureFile
from edgept.bench.question import Question
from edgept.errors import InvalidFileError, UsageError

__all__ = ["Earlier", "read_earlier", "request_of"]

_Asked = TypeVar("_Asked", Question, PictureFile)
_MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Earlier:
    """What a comparison needs of a report.

    Attributes:
        path: of the report.
        created: when it was made.
        bundle: folder of its bundle, which may be gone.
        manifest_sha256: of its bundle.
        prompts: name, path and hash of the tensors of each.
        random: whether its prompts are random ones, made from the seed.
        seed: of the random prompts.
        request: that it was of.
        threads: that it ran on.
        providers: that it ran on.
        batch: rows.
        resident: prompts that took turns.
        rate: requests a second, None for a closed loop.
        versions: of its packages.
        cpu: model of its processor.
        samples: milliseconds by phase.
    """

    path: str
    created: str
    bundle: Path
    manifest_sha256: str
    prompts: list[tuple[str, Path, str]]
    random: bool
    seed: int
    request: Question | PictureFile
    threads: int
    providers: list[str]
    batch: int
    resident: int
    rate: float | None
    versions: dict[str, str]
    cpu: str
    samples: Samples


def read_earlier(path: Path) -> Earlier:
    """Read a report that `edgept bench -o` or `--json` wrote.

    Raises:
        UsageError: there is no file.
        InvalidFileError: it is not a report, or not of a version that is known here.
    """
    if not os.path.isfile(path):
        raise UsageError(f"there is no report {path}. Write one with 'edgept bench -o {path}'.")
    if path.stat().st_size > _MAX_BYTES:
        raise _malformed(path, f"it is over {_MAX_BYTES >> 20} MiB")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["format"] != "edgept-bench" or fields["format_version"] != 1:
            raise ValueError(
                f"format {fields['format']!r}, version {fields['format_version']!r}; expected "
                "'edgept-bench', version 1"
            )
        return _from_fields(str(path), fields)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise _malformed(path, what) from error


def request_of(earlier: Earlier | None, kind: type[_Asked]) -> _Asked | None:
    """The request of another report, None without one.

    Raises:
        UsageError: it is of the other kind, so that nothing in the two can be compared.
    """
    if earlier is None:
        return None
    if isinstance(earlier.request, kind):
        return earlier.request
    raise UsageError(
        f"{earlier.path} is a report on {earlier.request.of}, and this is a bundle for {kind.of}: nothing "
        "in the two can be compared. Name another report, or leave out --compare."
    )


def _from_fields(path: str, fields: dict[str, Any]) -> Earlier:
    bundle, request, settings = fields["bundle"], fields["request"], fields["settings"]
    samples: Samples = {
        name: [_positive(value) for value in phase["samples"]]
        for name, phase in fields["phases"].items()
        if name in TITLES and phase["unit"] == "ms"
    }
    return Earlier(
        path=path,
        created=str(fields["created"]),
        bundle=_path(bundle["path"]),
        manifest_sha256=str(bundle["manifest_sha256"]),
        prompts=[
            (str(item["name"]), _path(item["path"]), str(item["tensors_sha256"]))
            for item in fields["prompts"]
        ],
        random=any(item["random"] for item in fields["prompts"]),
        seed=_whole(settings["seed"]),
        request=_picture(request) if "sha256" in request else _question(request),
        threads=_whole(settings["threads"]),
        providers=[str(name) for name in settings["providers"]],
        batch=_whole(settings["batch"]),
        resident=_whole(settings["resident"]),
        rate=None if settings["rate"] is None else _positive(settings["rate"]),
        versions={str(k): str(v) for k, v in fields["device"]["packages"].items()},
        cpu=str(fields["device"]["cpu"]["model"]),
        samples={name: values for name, values in samples.items() if values},
    )


def _question(fields: dict[str, Any]) -> Question:
    text = fields["text"]
    return Question(
        text=None if text is None else str(text),
        token_ids=[_whole(token) for token in fields["token_ids"]],
        new_tokens=_whole(fields["new_tokens"]),
        answered_tokens=_whole(fields["answered_tokens"]),
    )


def _picture(fields: dict[str, Any]) -> PictureFile:
    return PictureFile(
        name=str(fields["name"] and _path(fields["name"])),
        width=_whole(fields["width"]),
        height=_whole(fields["height"]),
        nbytes=_whole(fields["nbytes"]),
        sha256=str(fields["sha256"]),
    )


def _path(value: object) -> Path:
    """A path that the system can be asked for, whether there is such a file or not."""
    name = str(value)
    os.fsencode(name)  # UnicodeEncodeError, a ValueError, of half a surrogate pair
    if "\0" in name:
        raise ValueError(f"{name!r} is no path")
    return Path(name)


def _positive(value: object) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not (math.isfinite(value) and value >= 0)
    ):
        raise ValueError(f"{value!r} is no duration or rate")
    return float(value)


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no whole number")
    return value


def _malformed(path: Path, found: str) -> InvalidFileError:
    return InvalidFileError(
        "report-malformed",
        f"{path} is no report of edgept bench: {found}. Write one with 'edgept bench -o'.",
    )
