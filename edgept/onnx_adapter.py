"""Write a prompt as onnxruntime's own adapter file, for programs that do not use edgept."""

import os
import tempfile
from pathlib import Path

import numpy as np

from edgept.atomic import write_bytes
from edgept.errors import IncompatibleError, MissingDependencyError
from edgept.manifest import Manifest
from edgept.prompt import Prompt, check_fits

__all__ = ["write_onnx_adapter"]


def write_onnx_adapter(
    prompt: Prompt,
    manifest: Manifest | None,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> None:
    """Write an .onnx_adapter file: each tensor under the name of the graph's optional input.

    The file carries no fingerprint: whoever loads it has to know which bundle it is for.

    Args:
        prompt: the prompt.
        manifest: of its bundle, whose float type the tensors get; None writes float32.
        path: the file to write.
        overwrite: whether an existing file may be replaced.

    Raises:
        IncompatibleError: a prefix, which is no graph input, or a prompt that does not fit.
        MissingDependencyError: onnxruntime is not installed.
        UsageError: the file exists.
    """
    is_input = manifest is not None and manifest.kv is not None and manifest.kv.prefix_only
    if "prompt_kv" in prompt.tensors and not is_input:
        raise IncompatibleError(
            f"prompt {prompt.name!r} is initial keys and values; an onnx adapter holds a graph's "
            "optional inputs, and past_key_values is none. Use 'edgept run', or the C library."
        )
    if manifest is not None:
        check_fits(prompt, manifest)
    try:
        from onnxruntime import AdapterFormat, OrtValue
    except ImportError as error:
        raise MissingDependencyError(
            "onnxruntime is not installed: pip install 'edgept[cpu]', or on a Jetson the onnxruntime "
            "wheel of your JetPack."
        ) from error
    tensors = dict(prompt.tensors)
    if "head.weight" in tensors and "head.bias" not in tensors:
        # the graph's default is the bias of another head
        tensors["head.bias"] = np.zeros(len(tensors["head.weight"]), np.float32)
    if "prompt_embeds" in tensors and tensors["prompt_embeds"].ndim == 3:
        # (layers or 1, 1, virtual tokens, hidden): an image graph takes a table for each picture, or one
        tensors["prompt_embeds"] = tensors["prompt_embeds"][:, None]
    float_type = np.dtype(manifest.float_type if manifest else "float32")
    adapter = AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    adapter.set_parameters(
        {
            name: OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor, dtype=float_type))
            for name, tensor in tensors.items()
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "prompt.onnx_adapter"
        adapter.export_adapter(str(draft))
        write_bytes(path, draft.read_bytes(), overwrite=overwrite)
