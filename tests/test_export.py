"""Every family through the real exporters, and what an export promises about files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import edgept
from edgept.bundle import TABLE_NAME, check_files, read_manifest
from edgept.errors import ExportError, UsageError
from edgept.export import export_model, verify_bundle
from edgept.export.tokenizer_table import compile_tokenizer
from edgept.runtime.text import Tokenizer
from tests.conftest import VOCABULARY, matrix, shared, tiny_model

BUILDER = matrix(["llama", "qwen2"], ["gemma2"])
FALLBACK = ["gemma3"]  # the builder knows it, but not with every version of transformers
GENERAL = matrix(["gpt2", "gpt_neo", "bloom"], ["gpt_neox", "opt"])


@pytest.mark.parametrize("kind", BUILDER + FALLBACK + GENERAL)
def test_fp32_is_pytorch_to_the_last_token(kind: str, bundle_of: Callable[..., Path]) -> None:
    manifest = read_manifest(bundle_of(kind))
    assert manifest.parity["max_rel"] <= 1e-4
    assert manifest.parity["top1_agreement"] == 1
    assert manifest.parity["greedy_equal"] == manifest.parity["greedy_total"] >= 300
    assert manifest.vocab_size == VOCABULARY
    assert manifest.kv is not None
    if kind not in FALLBACK:
        assert manifest.kv.shared_buffer == (kind in BUILDER)


@pytest.mark.parametrize(("kind", "precision"), [("llama", "int4"), ("gpt2", "int8")])
def test_quantised_weights_are_smaller_and_measured(
    kind: str, precision: str, bundle_of: Callable[..., Path]
) -> None:
    quantised, full = bundle_of(kind, precision), bundle_of(kind)
    graph = onnx.load(quantised / "model.onnx", load_external_data=False).graph
    products = [node for node in graph.node if node.op_type == "MatMulNBits"]
    weights = 2 * 4 + 1 if kind == "gpt2" else 3 * 5 + 1  # of a layer, and the head
    assert len(products) == weights
    for node in products:
        attributes = {item.name: item.i for item in node.attribute}
        assert attributes["bits"] == int(precision[3:])
        assert attributes["accuracy_level"] == 4
    sizes = [(folder / "model.onnx.data").stat().st_size for folder in (quantised, full)]
    assert sizes[0] < 0.75 * sizes[1]
    assert 0 < read_manifest(quantised).parity["max_rel"] < 1


# the builder's way and torch.onnx's
@pytest.mark.parametrize(("kind", "precision"), [("llama", "int4"), ("gpt2", "int8")])
def test_size_of_blocks(
    kind: str,
    precision: str,
    model_folder: Callable[[str], Path],
    bundle_of: Callable[..., Path],
    tmp_path: Path,
) -> None:
    export_model(
        str(model_folder(kind)), tmp_path / "b", precision=precision, block_size=64, verify=False
    )
    sizes = []
    for block_size, bundle in ((32, bundle_of(kind, precision)), (64, tmp_path / "b")):
        assert read_manifest(bundle).block_size == block_size
        graph = onnx.load(bundle / "model.onnx", load_external_data=False).graph
        blocks = {
            attribute.i
            for node in graph.node
            for attribute in node.attribute
            if attribute.name == "block_size"
        }
        assert blocks == {block_size}
        sizes.append((bundle / "model.onnx.data").stat().st_size)
        assert edgept.load(bundle, threads=1).generate([5], max_new_tokens=2).token_ids
    assert sizes[1] < sizes[0]


def test_blocks_that_do_not_divide_an_embedding(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"width, 64\. Choose --block-size 16 or 32 or 64"):
        export_model(str(model_folder("llama")), tmp_path / "b", block_size=128)
    assert list(tmp_path.iterdir()) == []


def test_perplexity_of_the_users_text(tmp_path: Path) -> None:
    text = (shared("tinystories-valid-1000") / "tinystories-valid.txt.1000").read_text()[:3000]
    result = export_model(
        str(shared("stories260K")), tmp_path / "b", precision="int8", verify_text=text
    )
    assert result.parity is not None
    assert result.parity.perplexity is not None
    assert 2 < result.parity.perplexity["reference"] < 10
    assert abs(result.parity.perplexity["change_percent"]) < 2


def test_bundle_says_what_c_needs(bundle_of: Callable[..., Path]) -> None:
    bundle = bundle_of("llama")
    manifest = read_manifest(bundle)
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    metadata = {item.key: item.value for item in model.metadata_props}
    assert metadata["edgept.fingerprint"] == manifest.fingerprint
    assert metadata["edgept.vocab_size"] == str(VOCABULARY)
    assert metadata["edgept.kv.num_layers"] == "3"
    assert metadata["edgept.eos_token_ids"] == "2"
    check_files(bundle, manifest)
    assert {path.name for path in bundle.iterdir()} == {
        *manifest.files,
        "edgept.json",
        "edgept.sha256",
    }


def test_fingerprint_is_of_the_weights_not_of_the_file(
    tmp_path: Path, model_folder: Callable[[str], Path], bundle_of: Callable[..., Path]
) -> None:
    from edgept.export.fingerprint import fingerprint
    from edgept.export.source import find_model, load_frozen

    model = tiny_model("gpt2")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    again = load_frozen(find_model(str(tmp_path / "sharded")))
    assert fingerprint(again) == read_manifest(bundle_of("gpt2")).fingerprint
    again.lm_head.weight.data[3, 5] += 1e-3
    assert fingerprint(again) != read_manifest(bundle_of("gpt2")).fingerprint


def test_fingerprint_of_a_classifier_is_that_of_what_stays_frozen(
    tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    """Whatever head it was loaded with, and however many classes that has."""
    import torch

    from edgept.export.fingerprint import fingerprint
    from edgept.export.source import find_model, load_frozen

    frozen = load_frozen(find_model(str(model_folder("bert")), "text-classification"))
    expected = fingerprint(frozen)
    frozen.classifier = torch.nn.Linear(64, 7)
    frozen.config.id2label = {index: f"class {index}" for index in range(7)}
    frozen.save_pretrained(tmp_path / "tuned")
    again = load_frozen(find_model(str(tmp_path / "tuned")))
    assert again.classifier.out_features == 7
    assert fingerprint(again) == expected
    again.bert.pooler.dense.weight.data[3, 5] += 1e-3
    assert fingerprint(again) != expected


def test_a_head_may_be_missing_and_nothing_else(
    tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    from transformers import BertForMaskedLM

    from edgept.export.heads import find_head, head_labels, head_name
    from edgept.export.source import find_model, load_frozen

    task = "text-classification"
    for kind, name in (("bert", "classifier"), ("llama", "score")):
        model = load_frozen(find_model(str(model_folder(kind)), task))
        assert (head_name(model), head_labels(model)) == (name, [])
        assert not any(parameter.any() for parameter in find_head(model).parameters())
    masked: Any = BertForMaskedLM
    masked(tiny_model("bert").config).save_pretrained(tmp_path / "masked")
    with pytest.raises(ExportError, match=r"lacks 2 weights \(bert\.pooler.*has no pooler"):
        load_frozen(find_model(str(tmp_path / "masked"), task))
    with pytest.raises(UsageError, match=r"fill-mask.*--task text-classification"):
        find_model(str(tmp_path / "masked"))


def test_a_head_of_another_kind_is_refused() -> None:
    import transformers as t

    from edgept.export.heads import find_head

    sizes: dict[str, Any] = {
        "vocab_size": 9,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    convbert: Any = t.ConvBertForSequenceClassification
    with pytest.raises(ExportError, match="is a ConvBertClassificationHead"):
        find_head(convbert(t.ConvBertConfig(**sizes, embedding_size=8)))
    xlnet: Any = t.XLNetForSequenceClassification
    with pytest.raises(ExportError, match="has no head called classifier or score"):
        find_head(xlnet(t.XLNetConfig(vocab_size=9, d_model=8, n_layer=1, n_head=1, d_inner=8)))
    bert: Any = t.BertModel
    with pytest.raises(ExportError, match="BertModel has no head: it is for no task"):
        find_head(bert(t.BertConfig(**sizes)))


def test_an_encoder_of_another_family_is_named_as_one(tmp_path: Path) -> None:
    import transformers as t

    sizes: dict[str, Any] = {
        "vocab_size": 9,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    megatron: Any = t.MegatronBertForSequenceClassification
    megatron(t.MegatronBertConfig(**sizes)).save_pretrained(tmp_path / "m")
    with pytest.raises(ExportError, match=r"no decoder-only model; the encoders .* are bert"):
        export_model(str(tmp_path / "m"), tmp_path / "b", precision="fp32")
    assert not (tmp_path / "b").exists()


def test_a_wrong_graph_leaves_nothing_behind(
    tmp_path: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgept.export import torch_exporter

    build = torch_exporter.export_decoder

    def bent(model: Any, kv: Any) -> ir.Model:
        graph = build(model, kv)
        for value in graph.graph.initializers.values():
            array = value.const_value.numpy() if value.const_value is not None else None
            if array is not None and array.dtype == np.float32 and array.ndim == 2:
                value.const_value = ir.tensor(array * 1.01, name=value.name)
        return graph

    monkeypatch.setattr("edgept.export.build.export_decoder", bent)
    with pytest.raises(ExportError, match="does not compute what the PyTorch model computes"):
        export_model(str(model_folder("gpt2")), tmp_path / "b", precision="fp32")
    assert list(tmp_path.iterdir()) == []


def test_never_replaces_what_it_did_not_make(
    tmp_path: Path, model_folder: Callable[[str], Path], bundle_of: Callable[..., Path]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(UsageError):
            export_model(str(model_folder("llama")), home, force=force)
    assert (home / "thesis.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="exists"):
        export_model(str(model_folder("llama")), bundle_of("llama"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"precision": "fp16"}, "not exported for the target cpu"),
        ({"target": "toaster"}, "unknown target"),
        ({"task": "fill-mask"}, "does not export"),
        ({"max_virtual_tokens": 256}, "expected 1 to 255"),
    ],
)
def test_arguments_that_cannot_be(
    arguments: dict[str, Any],
    words: str,
    tmp_path: Path,
    model_folder: Callable[[str], Path],
) -> None:
    with pytest.raises(UsageError, match=words):
        export_model(str(model_folder("gpt2")), tmp_path / "b", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_model(tmp_path: Path, model_folder: Callable[[str], Path]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no config"):
        export_model(str(tmp_path / "empty"), tmp_path / "b")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "no-such-thing"}')
    with pytest.raises(UsageError, match="no transformers model"):
        export_model(str(broken), tmp_path / "b")
    headless = tmp_path / "headless"
    headless.mkdir()
    (headless / "config.json").write_text((model_folder("llama") / "config.json").read_text())
    with pytest.raises(ExportError, match="could not be loaded"):
        export_model(str(headless), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_model_without_a_tokenizer_takes_ids(tmp_path: Path) -> None:
    tiny_model("gpt2").save_pretrained(tmp_path / "m")
    export_model(str(tmp_path / "m"), tmp_path / "b", precision="fp32", verify=False)
    model = edgept.load(tmp_path / "b")
    assert model.tokenizer is None
    assert len(model.generate([5, 6, 7], max_new_tokens=4).token_ids) == 4
    with pytest.raises(UsageError, match="token ids only"):
        model.generate("text")


def test_cuda_bundle_is_fp16_and_right_where_the_cpu_can_run_it(
    tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    """No GPU here: the graph for one is made, and checked on the CPU as far as that goes."""
    result = export_model(str(model_folder("gpt2")), tmp_path / "b", target="cuda")
    assert result.manifest.precision == "fp16"
    assert result.manifest.float_type == "float16"
    assert result.manifest.providers[0] == "CUDAExecutionProvider"
    assert result.manifest.parity["providers"] == ["CPUExecutionProvider"]
    assert result.manifest.parity["max_rel"] < 2e-2
    with pytest.raises(UsageError, match="no CUDAExecutionProvider"):
        edgept.load(tmp_path / "b")


def test_verify_refuses_another_model(
    model_folder: Callable[[str], Path], bundle_of: Callable[..., Path]
) -> None:
    with pytest.raises(edgept.IncompatibleError, match="fingerprint"):
        verify_bundle(bundle_of("gpt2"), str(model_folder("gpt_neo")))


def test_manifest_is_plain_json(bundle_of: Callable[..., Path]) -> None:
    raw = json.loads((bundle_of("llama") / "edgept.json").read_text())
    assert raw["format_version"] == 1
    assert raw["opset"][""] >= 20
    assert set(raw["opset"]) <= {"", "com.microsoft"}


def test_the_c_librarys_tokenizer_is_exported(bundle_of: Callable[..., Path]) -> None:
    tokenizer = Tokenizer.from_bundle(bundle_of("gpt2"))
    assert tokenizer is not None
    table = compile_tokenizer(tokenizer)
    assert (bundle_of("gpt2") / TABLE_NAME).read_bytes() == table
    assert read_manifest(bundle_of("gpt2")).files[TABLE_NAME].size == len(table)
