"""Decoder-only models that onnxruntime-genai's model builder knows.

The builder writes graphs with fused attention (GroupQueryAttention) that extend one KV buffer in
place. It runs as a process of its own: its messages stay off the screen, its memory is returned.
"""

import subprocess
import sys
from pathlib import Path

from edgept.errors import ExportError
from edgept.export.source import ModelSource

__all__ = ["BuilderError", "build", "finish", "knows"]

# Architectures that the builder turns into one text decoder with the inputs of edgept's contract.
_ARCHITECTURES = frozenset(
    {
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "GemmaForCausalLM",
        "GraniteForCausalLM",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "NemotronForCausalLM",
        "OlmoForCausalLM",
        "Phi3ForCausalLM",
        "PhiForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "SmolLM3ForCausalLM",
    }
)
_PROVIDERS = {"cpu": "cpu", "cuda": "cuda", "jetson": "cuda"}


class BuilderError(ExportError):
    """The builder does not get along with this model, or with this version of transformers."""


def knows(source: ModelSource) -> bool:
    """Whether the builder's graph of this model runs.

    onnxruntime's GroupQueryAttention rotates heads of a multiple of 16 only (seen with 1.31);
    smaller ones take the general exporter.
    """
    config = source.config.get_text_config()
    head_dim = getattr(config, "head_dim", None)
    if head_dim is None:
        head_dim = config.hidden_size // config.num_attention_heads
    return source.architecture in _ARCHITECTURES and head_dim % 16 == 0


def build(
    source: ModelSource, folder: Path, *, precision: str, target: str, cache: Path, log: Path
) -> subprocess.Popen[bytes]:
    """Start the builder; it writes model.onnx, genai_config.json and the tokenizer into a folder.

    Args:
        source: a model that the builder knows.
        folder: where the files go.
        precision: fp32, fp16, int8 or int4.
        target: cpu, cuda or jetson.
        cache: folder for the builder's temporary files.
        log: file that receives all that it says.
    """
    options = []
    if precision in ("int4", "int8"):
        accuracy_level = 4 if target == "cpu" else 0
        options = ["--extra_options", f"accuracy_level={accuracy_level}", "block_size=32"]
    where = ["-i", source.location] if Path(source.location).is_dir() else ["-m", source.location]
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", *where]
    command += ["-o", str(folder), "-p", precision, "-e", _PROVIDERS[target], "-c", str(cache)]
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
