import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime import AdapterFormat

from edgept.errors import IncompatibleError, MissingDependencyError, UsageError
from edgept.manifest import KVGeometry, Manifest
from edgept.onnx_adapter import write_onnx_adapter
from edgept.prompt import Prompt

ROWS = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)  # (P, hidden)


def make_manifest(float_type: str = "float32") -> Manifest:
    return Manifest(
        source="tiny-llama",
        architecture="LlamaForCausalLM",
        model_type="llama",
        task="text-generation",
        vocab_size=512,
        hidden_size=64,
        max_positions=512,
        max_virtual_tokens=256,
        kv=KVGeometry(num_layers=5, num_kv_heads=2, head_dim=8, shared_buffer=True),
        bos_token_id=1,
        eos_token_ids=[2],
        precision="fp32",
        float_type=float_type,
        target="cpu",
        providers=["CPUExecutionProvider"],
        opset={"": 21},
        min_onnxruntime="1.23",
        fingerprint="ab" * 32,
        created_by="edgept test",
    )


@pytest.mark.parametrize("float_type", ["float32", "float16"])
def test_onnxruntime_reads_the_rows_in_the_bundles_type(float_type: str, tmp_path: Path) -> None:
    path = tmp_path / "p.onnx_adapter"
    write_onnx_adapter(Prompt({"prompt_embeds": ROWS}), make_manifest(float_type), path)
    adapter = AdapterFormat.read_adapter(str(path))  # owns the memory of its parameters
    parameters = adapter.get_parameters()
    assert list(parameters) == ["prompt_embeds"]
    stored = parameters["prompt_embeds"].numpy()
    assert stored.dtype == float_type
    np.testing.assert_array_equal(stored, ROWS.astype(float_type))


def test_without_a_bundle_it_is_float32_and_heads_come_along(tmp_path: Path) -> None:
    path = tmp_path / "p.onnx_adapter"
    head = np.ones((2, 64), np.float32)
    write_onnx_adapter(Prompt({"prompt_embeds": ROWS, "head.weight": head}), None, path)
    adapter = AdapterFormat.read_adapter(str(path))  # owns the memory of its parameters
    parameters = adapter.get_parameters()
    # with a bias of its own: the graph's default is that of another head
    assert parameters.keys() == {"prompt_embeds", "head.weight", "head.bias"}
    assert parameters["head.weight"].numpy().dtype == np.float32
    np.testing.assert_array_equal(parameters["head.bias"].numpy(), np.zeros(2, np.float32))


def test_prefixes_and_prompts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    prefix = Prompt({"prompt_kv": np.zeros((5, 2, 2, 3, 8), np.float32)})
    with pytest.raises(IncompatibleError, match="past_key_values"):
        write_onnx_adapter(prefix, make_manifest(), tmp_path / "p")
    large = Prompt({"prompt_embeds": np.full((1, 64), 1e6, np.float32)})
    with pytest.raises(IncompatibleError, match="float16"):
        write_onnx_adapter(large, make_manifest("float16"), tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "p.onnx_adapter"
    path.write_bytes(b"kept")
    prompt = Prompt({"prompt_embeds": ROWS})
    with pytest.raises(UsageError, match="exists already"):
        write_onnx_adapter(prompt, None, path)
    assert path.read_bytes() == b"kept"
    write_onnx_adapter(prompt, None, path, overwrite=True)
    assert path.read_bytes() != b"kept"


def test_a_missing_onnxruntime_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_onnxruntime(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_onnxruntime)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    with pytest.raises(MissingDependencyError, match=r"edgept\[cpu\].*JetPack"):
        write_onnx_adapter(Prompt({"prompt_embeds": ROWS}), None, tmp_path / "p")
