"""A bundle on the disk: find it, read its manifest, and compare its files with that."""

# ruff: noqa: PTH112, PTH113  # unlike Path's, these answer False for a path that cannot be examined

import hashlib
import json
import os
import re
import stat
from pathlib import Path

from edgept.decoding import Decoding
from edgept.errors import InvalidFileError, UntrustedError, UsageError
from edgept.manifest import FORMAT_VERSION, BundleFile, ImageGeometry, KVGeometry, Manifest

__all__ = [
    "HASHES_NAME",
    "MANIFEST_NAME",
    "PREPROCESSOR_NAME",
    "TABLE_NAME",
    "WEIGHTS_ENDING",
    "check_files",
    "check_weights",
    "find_bundle",
    "hash_file",
    "read_manifest",
    "to_hashes",
]

MANIFEST_NAME = "edgept.json"
# The hash of every other file, the manifest's too, as sha256sum writes and checks them: for the C library.
HASHES_NAME = "edgept.sha256"
# The tokenizer as the C library reads it.
TABLE_NAME = "tokenizer.bin"
# A graph's weights are in the file of its name with this behind it.
WEIGHTS_ENDING = ".data"
# How a picture becomes numbers, as transformers writes it.
PREPROCESSOR_NAME = "preprocessor_config.json"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_MAX_MANIFEST_BYTES = 1 << 20
# Read by a runtime where they are there, so a file of these names that nobody exported is refused.
_OPTIONAL_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    *(TABLE_NAME, PREPROCESSOR_NAME),
)


def find_bundle(bundle: str | os.PathLike[str] | None = None) -> Path:
    """Resolve a command's bundle: the one given, else $EDGEPT_BUNDLE, else ./bundle.

    Raises:
        UsageError: there is no bundle there.
    """
    path = Path(bundle or os.environ.get("EDGEPT_BUNDLE") or "bundle")
    if not os.path.isfile(path / MANIFEST_NAME):
        found = "a folder without edgept.json" if os.path.isdir(path) else "nothing there"
        raise UsageError(
            f"no bundle at {path} ({found}). Make one with 'edgept export MODEL -o {path}', or name "
            "one with --bundle or $EDGEPT_BUNDLE."
        )
    return path


def read_manifest(bundle: Path) -> Manifest:
    """Read and check the manifest of a bundle.

    Raises:
        UsageError: the folder holds no manifest.
        InvalidFileError: the manifest is not one that this version reads.
    """
    path = find_bundle(bundle) / MANIFEST_NAME
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        raise InvalidFileError(
            "manifest-too-large",
            f"{path} is over {_MAX_MANIFEST_BYTES} bytes; a manifest is a few kilobytes. Export again.",
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise TypeError("not an object")
        version = raw.get("format_version")
        if type(version) is not int or version != FORMAT_VERSION:
            raise InvalidFileError(
                "manifest-version",
                f"{path}: bundle format {version!r}, this edgept reads {FORMAT_VERSION}. Update edgept "
                "on the device, or export again with the version that runs there.",
            )
        kv, decoding = raw.pop("kv"), raw.pop("decoding", None)
        image = raw.pop("image", None)
        files = {name: BundleFile(**entry) for name, entry in raw.pop("files").items()}
        manifest = Manifest(
            kv=None if kv is None else KVGeometry(**kv),
            decoding=None if decoding is None else Decoding(**decoding),
            image=None if image is None else ImageGeometry(**image),
            files=files,
            **raw,
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidFileError(
            "manifest-malformed",
            f"{path} is not a bundle manifest: {error}. Export the model again.",
        ) from error
    _check_fields(manifest, path)
    return manifest


def _check_fields(manifest: Manifest, path: Path) -> None:
    sizes = [
        manifest.hidden_size,
        manifest.max_positions,
        manifest.max_virtual_tokens,
    ]
    if manifest.kv is not None:
        sizes += [manifest.kv.num_layers, manifest.kv.num_kv_heads, manifest.kv.head_dim]
    if manifest.head_size is not None:
        sizes.append(manifest.head_size)
    if manifest.image is None:
        sizes.append(manifest.vocab_size)
    else:
        image = manifest.image
        sizes += [image.num_layers, image.height, image.width, image.patch_size]
    sizes_are_sane = all(type(size) is int and 0 < size < 1 << 31 for size in sizes)
    names_are_plain = all(_FILE_NAME.fullmatch(name) for name in manifest.files)
    texts = (
        *(manifest.source, manifest.architecture, manifest.model_type, manifest.task),
        *(manifest.target, manifest.min_onnxruntime, manifest.created_by),
    )
    types_are_right = (
        all(isinstance(text, str) for text in texts)
        and _is_list(manifest.providers, str)
        and bool(manifest.providers)
        and _is_list(manifest.eos_token_ids, int)
        and _is_list(manifest.labels, str)
        and _is_list(manifest.exclude_modules, str)
        and manifest.head_precision in (None, "int8")
        and {type(manifest.bos_token_id), type(manifest.pad_token_id), type(manifest.block_size)}
        <= {int, type(None)}
        and {type(manifest.head_dense), type(manifest.normalize)} == {bool}
        and manifest.pooling in (None, "mean", "cls")
        and isinstance(manifest.opset, dict)
        and _is_list(list(manifest.opset.values()), int)
        and isinstance(manifest.parity, dict)
        and (
            manifest.kv is None
            or {
                type(manifest.kv.shared_buffer),
                type(manifest.kv.depends_on_length),
                type(manifest.kv.prefix_only),
            }
            == {bool}
        )
        and (manifest.decoding is None or manifest.decoding.is_sane())
        and (
            manifest.image is None
            or (
                manifest.vocab_size == 0
                and manifest.image.num_patches > 0
                and manifest.image.detects in ("tokens", "patches")
            )
        )
        and _is_list([entry.size for entry in manifest.files.values()], int)
        and _is_list([entry.sha256 for entry in manifest.files.values()], str)
    )
    if not (
        sizes_are_sane
        and names_are_plain
        and types_are_right
        and manifest.precision in ("fp32", "fp16", "int8", "int8-dynamic", "int4")
        and manifest.float_type in ("float32", "float16")
        and isinstance(manifest.fingerprint, str)
        and _FINGERPRINT.fullmatch(manifest.fingerprint)
    ):
        raise InvalidFileError(
            "manifest-malformed",
            f"{path}: a size, a file name, the float type, the fingerprint or another field is not "
            "what a manifest may hold. Export the model again.",
        )


def _is_list(value: object, of: type) -> bool:
    return isinstance(value, list) and all(type(item) is of for item in value)


def check_files(bundle: Path, manifest: Manifest, *, weights: bool = True) -> None:
    """Compare every file of a bundle with its manifest: kind, size and SHA-256.

    Args:
        bundle: its folder.
        manifest: of the bundle.
        weights: False leaves the contents of the weights' files to `check_weights`.

    Raises:
        UntrustedError: a file is missing, is a link, is not the one that was exported, or would be
            read though nobody exported it.
    """
    for name in _OPTIONAL_FILES:
        if name not in manifest.files and os.path.lexists(bundle / name):
            raise UntrustedError(
                f"{bundle / name} is not listed in {MANIFEST_NAME}, so it did not come with the export. "
                "Remove it, or put it into the model's folder and export again."
            )
    for name, entry in manifest.files.items():
        path = bundle / name
        try:
            status = path.lstat()
        except FileNotFoundError:
            raise UntrustedError(
                f"{path} is listed in {MANIFEST_NAME} but missing. Copy the whole bundle again."
            ) from None
        if not stat.S_ISREG(status.st_mode):
            raise UntrustedError(
                f"{path} is not a regular file; a bundle holds no links. Copy its target there."
            )
        if status.st_size != entry.size:
            raise _not_as_exported(path, entry)
        if weights or name not in _weights(manifest):
            _check_contents(path, entry)


def to_hashes(manifest: Manifest) -> str:
    """The text of edgept.sha256, for a bundle whose manifest is written as `to_json` gives it."""
    hashes = {name: entry.sha256 for name, entry in manifest.files.items()}
    hashes[MANIFEST_NAME] = hashlib.sha256(manifest.to_json().encode()).hexdigest()
    return "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes))


def check_weights(bundle: Path, manifest: Manifest) -> None:
    """Compare the SHA-256 of the files that hold a bundle's weights, the largest, with its manifest.

    Raises:
        UntrustedError: one is not that which was exported.
    """
    for name in _weights(manifest):
        if name in manifest.files:
            _check_contents(bundle / name, manifest.files[name])


def _weights(manifest: Manifest) -> list[str]:
    return [f"{graph}{WEIGHTS_ENDING}" for graph in manifest.graphs]


def _check_contents(path: Path, entry: BundleFile) -> None:
    if hash_file(path) != entry.sha256:
        raise _not_as_exported(path, entry)


def _not_as_exported(path: Path, entry: BundleFile) -> UntrustedError:
    return UntrustedError(
        f"{path} ({path.stat().st_size} bytes) is not the file that was exported ({entry.size} "
        f"bytes, SHA-256 {entry.sha256[:12]}…). Copy the bundle again, or export again."
    )


def hash_file(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
