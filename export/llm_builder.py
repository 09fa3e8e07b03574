"""Decoder-only models that onnxruntime-genai's model builder knows.

The builder writes graphs with fused attention (GroupQueryAttention) that extend one KV buffer in
place. It runs as a process of its own: its messages stay off the screen, its memory is returned.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgept.errors import ExportError
from edgept.export.kept_modules import head_module, match_modules
from edgept.export.source import ModelSource
from edgept.export.weights import WeightFormat

__all__ = ["BuilderError", "build", "check_kept", "finish", "kept_nodes", "knows", "tie"]

# Architectures that the builder turns into one text decoder with the inputs of edgept's contract, each
# tried against PyTorch with builder 0.18. Not OLMo (its graph differs by 0.7 of the
# largest logit) nor Phi 1 and 2 (by 3e-4: another approximation of GELU).
_ARCHITECTURES = frozenset(
    {
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "GemmaForCausalLM",
        "GraniteForCausalLM",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "NemotronForCausalLM",
        "Phi3ForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "SmolLM3ForCausalLM",
    }
)
# How the builder names products: a layer's, and those that it takes a packed layer of the model apart into.
_LAYER = re.compile(r"model\.layers\.(\d+)\.(self_attn|mlp)\.(\w+)")
_PARTS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_HEAD, _EMBEDDING = "/lm_head/MatMul", "/model/embed_tokens/Gather"
_PROVIDERS = {"cpu": "cpu", "cuda": "cuda", "jetson": "cuda"}


class BuilderError(ExportError):
    """The builder does not get along with this model, or with this version of transformers."""


def knows(source: ModelSource) -> bool:
    """Whether the builder's graph of this model runs, and computes what the model does.

    onnxruntime's GroupQueryAttention rotates multiples of 16 dimensions only (seen with 1.31). The
    builder keeps to a sliding window only where the configuration lists the layers that have one;
    elsewhere (Mistral 0.1, Phi-3-mini) its graph looks back further than the model, which no short
    text shows. Such models take the general exporter.
    """
    if source.architecture not in _ARCHITECTURES:
        return False
    config = source.config.get_text_config()
    head_dim = getattr(config, "head_dim", None)
    if head_dim is None:
        head_dim = config.hidden_size // config.num_attention_heads
    rope = getattr(config, "rope_parameters", None) or {}
    window = getattr(config, "sliding_window", None)
    if window and window < config.max_position_embeddings and not hasattr(config, "layer_types"):
        return False
    rotated = head_dim * rope.get("partial_rotary_factor", 1.0)
    return bool(head_dim % 16 == 0 and rotated % 16 == 0)


def kept_nodes(model: Any, patterns: Sequence[str]) -> list[str]:
    """The builder's names of the products that are to keep float weights.

    Args:
        model: the PyTorch model.
        patterns: of its modules, see `match_modules`.

    Raises:
        UsageError: a pattern names no module.
        BuilderError: of a module the builder's name is not known.
    """
    nodes: list[str] = []
    head = head_module(model)
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for name in {name for names in match_modules(model, patterns).values() for name in names}:
        layer = _LAYER.fullmatch(name)
        if name == head:
            # the one matrix that both are stays one
            nodes += [_HEAD, _EMBEDDING] if is_tied else [_HEAD]
        elif layer is None:
            raise BuilderError(f"the builder's name of {name} is not known here.")
        else:
            number, block, last = layer.groups()
            block = block.replace("self_attn", "attn")
            nodes += [
                f"/model/layers.{number}/{block}/{part}/MatMul"
                for part in _PARTS.get(last, (last,))
            ]
    return sorted(nodes)


def check_kept(graph: ir.Graph, kept: Sequence[str]) -> None:
    """Make sure that the products to keep are float ones in the built graph.

    Raises:
        BuilderError: one is not there by its name, so it was quantised, or is called otherwise.
    """
    lost = sorted({*kept} - {node.name for node in graph})
    if lost:
        raise BuilderError(f"the builder's graph has no {lost[0]} with float weights.")


def tie(graph: ir.Graph) -> None:
    """Let an embedding that shares the head's integers read them by the names that they have.

    Of an 8-bit head, builder 0.18 gives the embedding names of another quantizer than the one that it uses.
    """
    for lookup in [node for node in graph if node.op_type == "GatherBlockQuantized"]:
        # (rows, width) of the weight, which is (rows, blocks, block) in the head; ids; scales
        reshape = lookup.inputs[0].producer() if lookup.inputs[0] is not None else None
        head = next((node for node in graph if (node.name or "").startswith(f"{_HEAD}_Q")), None)
        if reshape is None or head is None or reshape.op_type != "Reshape":
            continue
        for node, index, value in ((reshape, 0, head.inputs[1]), (lookup, 2, head.inputs[2])):
            node.replace_input_with(index, value)


def build(
    source: ModelSource,
    folder: Path,
    weights: WeightFormat,
    *,
    kept: Sequence[str] = (),
    cache: Path,
    log: Path,
) -> subprocess.Popen[bytes]:
    """Start the builder; it writes model.onnx, genai_config.json and the tokenizer into a folder.

    Args:
        source: a model that the builder knows.
        folder: where the files go.
        weights: how they are to be stored.
        kept: products whose weights stay float, as `kept_nodes` names them.
        cache: folder for the builder's temporary files.
        log: file that receives all that it says.
    """
    # Windowed caches would be rings of their own size; here every layer's cache is alike.
    options = ["--extra_options", "windowed_kv_cache=false"]
    if weights.bits is not None:
        options += [f"accuracy_level={weights.accuracy_level}", f"block_size={weights.block_size}"]
    if kept:
        options.append(f"nodes_to_exclude={','.join(kept)}")
        # layers that pack q, k and v break behind one that must not (builder 0.18)
        if any(f"/{part}/" in node for node in kept for part in _PARTS["qkv_proj"]):
            options.append("fuse_qkv=false")
    if weights.head_precision is not None:
        options.append(f"matmul_mixed_precision=last_matmul:{weights.head_precision}")
    command = [
        sys.executable,
        "-P",
        "-m",
        "onnxruntime_genai.models.builder",
        "-i",
        str(source.folder),
    ]
    command += ["-o", str(folder), "-p", weights.precision, "-e", _PROVIDERS[weights.target]]
    command += ["-c", str(cache)]
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
            [*command, *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def finish(process: subprocess.Popen[bytes], folder: Path, log: Path) -> Path:
    """Wait for the builder.

    Returns:
        The path of model.onnx.

    Raises:
        BuilderError: the builder failed; its messages are in the log.
    """
    status = process.wait()
    path = folder / "model.onnx"
    # It writes the tokenizer last, and fails there on a model that has none; we save that ourselves.
    if not (path.is_file() and (folder / "genai_config.json").is_file()):
        raise BuilderError(
            f"onnxruntime-genai's model builder ended with status {status}. {_last_line(log)}"
        )
    return path


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "It said nothing."
