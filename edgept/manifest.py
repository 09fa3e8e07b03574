"""The bundle's manifest, edgept.json: what was exported, and the hash of every file beside it."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from edgept.decoding import Decoding

__all__ = [
    "DECODER_NAME",
    "ENCODER_NAME",
    "FORMAT_VERSION",
    "GRAPH_NAME",
    "IMAGE_TASKS",
    "SEQ2SEQ_TASK",
    "BundleFile",
    "ImageGeometry",
    "KVGeometry",
    "Manifest",
]

FORMAT_VERSION = 1
GRAPH_NAME = "model.onnx"
# An encoder-decoder's two graphs; each has weights of its own.
ENCODER_NAME, DECODER_NAME = "encoder.onnx", "decoder.onnx"
SEQ2SEQ_TASK = "text2text-generation"
# What a prompt may make of an image model, whatever the model was exported for.
IMAGE_TASKS = ("image-classification", "image-segmentation", "object-detection")


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
