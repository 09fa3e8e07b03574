"""The bundle's manifest, edgept.json: what was exported, and the hash of every file beside it."""

# ruff: noqa: PTH112, PTH113  # unlike Path's, these answer False for a path that cannot be examined

import hashlib
import json
import os
import re
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgept.decoding import Decoding
from edgept.errors import InvalidFileError, UntrustedError, UsageError

__all__ = [
    "DECODER_NAME",
    "ENCODER_NAME",
    "GRAPH_NAME",
    "HASHES_NAME",
    "IMAGE_TASKS",
    "MANIFEST_NAME",
    "PREPROCESSOR_NAME",
    "SEQ2SEQ_TASK",
    "TABLE_NAME",
    "WEIGHTS_ENDING",
    "BundleFile",
    "ImageGeometry",
    "KVGeometry",
    "Manifest",
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
GRAPH_NAME = "model.onnx"
# The tokenizer as the C library reads it.
TABLE_NAME = "tokenizer.bin"
# An encoder-decoder's two graphs; each has weights of its own.
ENCODER_NAME, DECODER_NAME = "encoder.onnx", "decoder.onnx"
# A graph's weights are in the file of its name with this behind it.
WEIGHTS_ENDING = ".data"
SEQ2SEQ_TASK = "text2text-generation"
# What a prompt may make of an image model, whatever the model was exported for.
IMAGE_TASKS = ("image-classification", "image-segmentation", "object-detection")
# How a picture becomes numbers, as transformers writes it.
PREPROCESSOR_NAME = "preprocessor_config.json"
FORMAT_VERSION = 1
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_MAX_MANIFEST_BYTES = 1 << 20
# Read by a runtime where they are there, so a file of these names that nobody exported is refused.
_OPTIONAL_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    *(TABLE_NAME, PREPROCESSOR_NAME),
)


@dataclass(frozen=True)
class BundleFile:
    """A file of the bundle: its size in bytes and the SHA-256 of its contents in hex."""

    size: int
    sha256: str


@dataclass(frozen=True)
class KVGeometry:
    """Shape of the key/value cache: per layer (batch, num_kv_heads, sequence, head_dim).

    Attributes:
        num_layers: layers that have a cache.
        num_kv_heads: key/value heads of a layer (fewer than query heads under grouped-query attention).
        head_dim: width of a head.
        shared_buffer: whether past and present may be one buffer that the graph extends in place
            (onnxruntime's GroupQueryAttention); where not, present is a new and longer tensor.
        depends_on_length: whether a position's keys depend on the whole sequence's length (LongRoPE), so
            that a prompt's cannot be computed before its text is known.
        prefix_only: of encoders, which keep no cache: keys and values are taken in front of a text, as
            the prompt that they are (`prompt_kv`), and never given back.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    shared_buffer: bool
    depends_on_length: bool = False
    prefix_only: bool = False

    def names(self, side: str, attention: str | None = None) -> list[str]:
        """The graph's names of the cache: key and value of each layer in turn, `past_key_values.0.key`.

        Args:
            side: "past_key_values" for the inputs, "present" for the outputs.
            attention: of an encoder-decoder, "decoder" for self-attention and "encoder" for
                cross-attention: `past_key_values.0.decoder.key`, as optimum names them.
        """
        layers = range(self.num_layers)
        middle = "" if attention is None else f".{attention}"
        return [f"{side}.{layer}{middle}.{kind}" for layer in layers for kind in ("key", "value")]


@dataclass(frozen=True)
class ImageGeometry:
    """What an image model's graph takes.

    Attributes:
        num_layers: that may each have rows of their own (deep visual prompts).
        height: of the picture in pixels.
        width: of the picture in pixels.
        patch_size: side of a patch in pixels; each is a token.
        detects: what finds things where the task is object detection: "tokens", each virtual token of a
            prompt, one thing or none; "patches", with boxes of the model's own, of a model that was
            trained to find what a text names.
    """

    num_layers: int
    height: int
    width: int
    patch_size: int
    detects: str = "tokens"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.height // self.patch_size, self.width // self.patch_size

    @property
    def sides(self) -> tuple[float, float]:
        """Height and width in patches, with the part of one that may be left over and is in no patch."""
        return self.height / self.patch_size, self.width / self.patch_size

    def sides_of(self, size: tuple[int, int], frame: tuple[int, int]) -> tuple[float, float]:
        """Height and width in patches of a picture, as `sides`, which are those of its frame.

        Args:
            size: width and height of the picture in pixels.
            frame: of what was made the graph's input, see `Preprocessor.frame`.
        """
        return self.sides[0] * size[1] / frame[1], self.sides[1] * size[0] / frame[0]

    @property
    def num_patches(self) -> int:
        """Patches of a picture, row by row."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class Manifest:
    """What `edgept export` says of a bundle. The field names are the keys of edgept.json.

    Attributes:
        format_version: of the bundle format; a reader refuses one that it does not know.
        created_by: program and version.
        source: base name of the folder or hub id that was exported; a hint for people only.
        architecture: class of the transformers model, "LlamaForCausalLM".
        model_type: transformers' model type, "llama".
        task: the task as transformers names it, "text-generation".
        vocab_size: rows of the input embedding; ids from here on are virtual tokens. 0 of an image model.
        hidden_size: width of the input embedding, so of a prompt's rows.
        max_positions: longest sequence that the model was made for, virtual tokens included. Of an image
            model, its own vector, the most virtual tokens and the patches.
        max_virtual_tokens: longest prompt that this bundle takes.
        kv: the key/value cache's geometry, of an encoder that of the keys and values which it takes as
            a prompt; None for a model without one.
        head_size: width that a prompt's head.weight takes; None where the task has no head.
        head_dense: whether the head has a layer in front of its last one, a matrix of this width and an
            activation: head.dense.weight and head.dense.bias of a prompt.
        labels: class names of the model's own trained head, in order; empty without one.
        pad_token_id: which a decoder that classifies does not pool at a text's end; None where it has
            none, or generates.
        pooling: how a text's vector is made of its tokens' where the task is feature-extraction: "mean"
            or "cls", the first position; None elsewhere.
        normalize: whether that vector is scaled to length one.
        bos_token_id: beginning-of-sequence id, None where the model has none.
        eos_token_ids: ids that end a generation.
        precision: of the weights: fp32, fp16, int8, int8-dynamic or int4.
        block_size: weights that share a scale; None where they are floats, or nobody wrote it down.
        exclude_modules: globs of the modules that kept float weights where others are integers.
        head_precision: of a language model's head where it is another one, "int8"; else None.
        image: what an image model takes; None of models of text.
        decoding: how an encoder-decoder generates; None of other models, whose requests say it all.
        float_type: numpy name of the graph's float inputs and outputs, "float32" or "float16".
        target: cpu, cuda or jetson.
        providers: onnxruntime execution providers that the graph was made for, best first.
        opset: operator set version by domain.
        min_onnxruntime: lowest onnxruntime version that runs the graph.
        fingerprint: SHA-256 of the frozen model's identity, see edgept.export.fingerprint.
        files: every other file of the bundle by name.
        parity: what the export's parity check measured; empty when it was skipped.
    """

    source: str
    architecture: str
    model_type: str
    task: str
    vocab_size: int
    hidden_size: int
    max_positions: int
    max_virtual_tokens: int
    kv: KVGeometry | None
    bos_token_id: int | None
    eos_token_ids: list[int]
    precision: str
    float_type: str
    target: str
    providers: list[str]
    opset: dict[str, int]
    min_onnxruntime: str
    fingerprint: str
    created_by: str
    head_size: int | None = None
    labels: list[str] = field(default_factory=list)
    pad_token_id: int | None = None
    head_dense: bool = False
    pooling: str | None = None
    normalize: bool = False
    block_size: int | None = None
    exclude_modules: list[str] = field(default_factory=list)
    head_precision: str | None = None
    decoding: Decoding | None = None
    image: ImageGeometry | None = None
    files: dict[str, BundleFile] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the bundle's graphs; the first takes the prompt."""
        return (ENCODER_NAME, DECODER_NAME) if self.task == SEQ2SEQ_TASK else (GRAPH_NAME,)

    @property
    def prompt_tasks(self) -> tuple[str, ...]:
        """What prompts may be for: on an image model, whichever of its tasks they say."""
        if self.image is None:
            return (self.task,)
        return IMAGE_TASKS if self.image.detects == "tokens" else ("object-detection",)

    def to_json(self) -> str:
        """The text of edgept.json."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def to_metadata(self) -> dict[str, str]:
        """What model.onnx repeats of it in its own metadata, for programs without a JSON parser."""
        entries: dict[str, object] = {
            "format_version": self.format_version,
            "task": self.task,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "max_positions": self.max_positions,
            "max_virtual_tokens": self.max_virtual_tokens,
            "float_type": self.float_type,
            "eos_token_ids": ",".join(str(token) for token in self.eos_token_ids),
            "fingerprint": self.fingerprint,
        }
        if self.kv is not None:
            entries |= {
                "kv.num_layers": self.kv.num_layers,
                "kv.num_kv_heads": self.kv.num_kv_heads,
                "kv.head_dim": self.kv.head_dim,
                "kv.shared_buffer": int(self.kv.shared_buffer),
                "kv.depends_on_length": int(self.kv.depends_on_length),
                "kv.prefix_only": int(self.kv.prefix_only),
            }
        if self.image is not None:
            entries |= {
                "image.num_layers": self.image.num_layers,
                "image.height": self.image.height,
                "image.width": self.image.width,
                "image.patch_size": self.image.patch_size,
                "image.detects": self.image.detects,
            }
        if self.head_size is not None:
            entries |= {
                "head_size": self.head_size,
                "labels": json.dumps(self.labels, ensure_ascii=False),
            }
        if self.head_dense:
            entries["head_dense"] = 1
        if self.pad_token_id is not None:
            entries["pad_token_id"] = self.pad_token_id
        if self.decoding is not None:
            entries |= {f"decoding.{name}": text for name, text in self.decoding.to_texts().items()}
        if self.pooling is not None:
            entries |= {"pooling": self.pooling, "normalize": int(self.normalize)}
        return {f"edgept.{name}": str(entry) for name, entry in entries.items()}


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
