"""Encoders of every family through the exporter: each task is what PyTorch computes, at every length."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgept
from edgept import Prompt
from edgept.bundle import read_manifest
from edgept.errors import ExportError, IncompatibleError, UsageError
from tests.conftest import VOCABULARY, encoder_cases, tiny_model

pytest.importorskip("torch", reason="needs edgept[export]")

OTHER_TASKS = ("token-classification", "question-answering", "feature-extraction")
TWO_LAYERS = {"roberta", "xlm-roberta", "distilbert", "electra", "mpnet"}
NARROW = {"albert": 32, "electra": 32}


@pytest.fixture(params=encoder_cases(), ids=lambda case: "-".join(case))
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    kind, task = request.param
    return kind, task


def random_prompt(bundle: Path, count: int, classes: int = 2) -> Prompt:
    """Rows and a head of a bundle's sizes."""
    manifest = read_manifest(bundle)
    random = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {"prompt_embeds": (count, manifest.hidden_size)}
    if manifest.head_size is not None:
        shapes |= {"head.weight": (classes, manifest.head_size), "head.bias": (classes,)}
        if manifest.head_dense:
            shapes["head.dense.weight"] = (manifest.head_size, manifest.head_size)
            shapes["head.dense.bias"] = (manifest.head_size,)
    tensors = {name: random.normal(size=shape) * 0.2 for name, shape in shapes.items()}
    return Prompt(
        {name: tensor.astype(np.float32) for name, tensor in tensors.items()},
        "random",
        task=manifest.task,
    )


def test_fp32_is_pytorch(case: tuple[str, str], bundle_of: Callable[..., Path]) -> None:
    kind, task = case
    manifest = read_manifest(bundle_of(kind, "fp32", task))
    assert manifest.parity["max_rel"] <= 1e-4
    assert manifest.parity["top1_agreement"] == 1
    assert manifest.parity["positions"] >= (30 if task == "text-classification" else 500)
    assert (manifest.task, manifest.model_type) == (task, kind)
    assert manifest.vocab_size == VOCABULARY
    assert manifest.max_positions == 256
    assert manifest.hidden_size == NARROW.get(kind, 64)
    assert manifest.head_size == (None if task == "feature-extraction" else 64)
    assert manifest.head_dense == (kind in TWO_LAYERS and task == "text-classification")
    assert manifest.pooling == ("mean" if task == "feature-extraction" else None)
    assert not manifest.normalize


def test_the_longest_sequence_is_pytorch(
    case: tuple[str, str], bundle_of: Callable[..., Path], model_folder: Callable[[str], Path]
) -> None:
    """A position more than the table has would fail; relative ones are far apart here."""
    from edgept.export.forward_parity import reference_output
    from edgept.export.source import find_model, load_frozen

    kind, task = case
    bundle = bundle_of(kind, "fp32", task)
    model = edgept.load(bundle, threads=1)
    frozen = load_frozen(find_model(str(model_folder(kind)), task))
    random = np.random.default_rng(2)
    for count in (9, 200):
        prompt = model.load_prompt(random_prompt(bundle, count))
        ids = random.integers(3, VOCABULARY, 256 - count).tolist()
        found, expected = (
            model.outputs(ids, prompt=prompt),
            reference_output(frozen, task, ids, prompt),
        )
        assert found.shape == expected.shape
        assert len(found) == (2 if task == "text-classification" else 256)
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
        with pytest.raises(UsageError, match="takes 257 positions"):
            model.outputs([*ids, 3], prompt=prompt)


# Those whose transformers class takes keys and values in front of a text.
TAKE_PREFIXES = {"bert", "roberta", "xlm-roberta", "electra"}


def test_graph_takes_what_the_task_needs_and_nothing_else(
    case: tuple[str, str], bundle_of: Callable[..., Path]
) -> None:
    kind, task = case
    graph = onnx.load(bundle_of(kind, "fp32", task) / "model.onnx", load_external_data=False).graph
    inputs = {item.name for item in graph.input}
    text = {"input_ids", "attention_mask"}
    if kind in {"bert", "albert", "electra"}:
        text.add("token_type_ids")
    head = {"head.weight", "head.bias"}
    if kind in TWO_LAYERS and task == "text-classification":
        head |= {"head.dense.weight", "head.dense.bias"}
    optional = {"prompt_embeds", *(set() if task == "feature-extraction" else head)}
    if kind in TAKE_PREFIXES:
        optional.add("prompt_kv")
    assert inputs == text | optional
    assert optional <= {item.name for item in graph.initializer}
    (output,) = graph.output
    assert output.name == ("last_hidden_state" if task == "feature-extraction" else "logits")


# Those whose attention is one operator, which takes the heads side by side and a mask ready to be added.
JOINED = {"bert", "roberta", "xlm-roberta", "distilbert", "albert", "electra"}


def test_attention_takes_projections_as_they_are(
    case: tuple[str, str], bundle_of: Callable[..., Path]
) -> None:
    """Nothing is moved between projections and attention, and the mask is made once, of few operators."""
    kind, task = case
    if kind not in JOINED:
        pytest.skip(f"{kind} computes its attention in another way")
    graph = onnx.load(bundle_of(kind, "fp32", task) / "model.onnx", load_external_data=False).graph
    made = {name: node for node in graph.node for name in node.output}
    operators = [node.op_type for node in graph.node]
    attentions = [node for node in graph.node if node.op_type == "Attention"]
    layers = len(attentions)
    assert layers == 2
    # a head given as (classes, size) is turned round, nothing else
    moved = [
        item.ints for node in graph.node if node.op_type == "Transpose" for item in node.attribute
    ]
    assert all(len(order) == 2 for order in moved)
    assert {made[name].op_type for node in attentions for name in node.input[:3]} == {"Add"}
    (mask,) = {node.input[3] for node in attentions}
    assert made[mask].op_type == "Expand"
    for node in attentions:
        heads = {item.name: item.i for item in node.attribute}
        assert (heads["q_num_heads"], heads["kv_num_heads"]) == (4, 4)
    # a product for each matrix of a layer, and ELECTRA's and ALBERT's width; the head's
    assert operators.count("MatMul") <= 6 * layers + 3
    assert len(operators) <= 24 * layers + 36


def test_sums_and_biases_stay_outside_on_the_cpu(
    bundle_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What onnxruntime would fuse them into is slower there."""
    import onnxruntime

    options, made = onnxruntime.SessionOptions, tmp_path / "optimized.onnx"

    def saving() -> Any:
        kept = options()
        kept.optimized_model_filepath = str(made)
        return kept

    monkeypatch.setattr(onnxruntime, "SessionOptions", saving)
    edgept.load(bundle_of("bert", "fp32", "feature-extraction"), threads=1)
    operators = {node.op_type for node in onnx.load(made, load_external_data=False).graph.node}
    assert {"LayerNormalization", "Gelu", "Add"} <= operators
    assert not operators & {"SkipLayerNormalization", "BiasGelu"}


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_tuned_model_keeps_its_own_head(
    kind: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Without a prompt a bundle is the fine-tuned model; a prompt without a head steers it."""
    import torch
    import transformers as t

    from edgept.export import export_model

    auto: Any = t.AutoModelForSequenceClassification
    if kind == "bert":
        auto = t.AutoModelForQuestionAnswering
    torch.manual_seed(4)
    tuned = auto.from_pretrained(model_folder(kind)).eval()
    tuned.save_pretrained(tmp_path / "model")
    made = export_model(str(tmp_path / "model"), tmp_path / "bundle").manifest
    assert made.labels == (["start", "end"] if kind == "bert" else ["LABEL_0", "LABEL_1"])
    model = edgept.load(tmp_path / "bundle", threads=1)
    ids = [5, 6, 7, 8]
    with torch.no_grad():
        output = tuned(input_ids=torch.tensor([ids]))
    if kind == "bert":
        expected = torch.stack([output.start_logits, output.end_logits], -1)[0].numpy()
    else:
        expected = output.logits[0].numpy()
    found = model.outputs(ids)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    rows = random_prompt(tmp_path / "bundle", 3).tensors["prompt_embeds"]
    steers = model.load_prompt(Prompt({"prompt_embeds": rows}, task=made.task))
    assert model.outputs(ids, prompt=steers).shape[-1] == 2
    np.testing.assert_array_equal(model.outputs(ids), found)


def test_pads_within_a_text_have_the_positions_that_transformers_gives_them(
    bundle_of: Callable[..., Path], model_folder: Callable[[str], Path]
) -> None:
    """RoBERTa skips them where it is given ids, and cannot see them behind a prompt's rows."""
    from edgept.export.forward_parity import reference_output
    from edgept.export.source import find_model, load_frozen

    bundle, task = bundle_of("roberta", "fp32", "feature-extraction"), "feature-extraction"
    model = edgept.load(bundle, threads=1)
    frozen = load_frozen(find_model(str(model_folder("roberta")), task))
    prompt = model.load_prompt(random_prompt(bundle, 4))
    texts = [[5, 1, 6, 7], [1, 8, 9], [5, 6, 7, 8, 9, 10]]
    requests = [(ids, under) for ids in texts for under in (None, prompt)]
    for (ids, under), found in zip(requests, model.outputs_batch(requests), strict=True):
        expected = reference_output(frozen, task, ids, under)
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("kind", "task", "change", "words"),
    [
        ("roberta", "text-classification", {"head.dense.weight": None}, "has a head of one layer"),
        ("roberta", "text-classification", {"head.dense.bias": None}, "has a head of one layer"),
        ("bert", "text-classification", {"head.dense.bias": (64,)}, "does not take"),
        ("roberta", "text-classification", {"head.dense.bias": (63,)}, r"needs \(64\)"),
        (
            "roberta",
            "text-classification",
            {"head.weight": None, "head.bias": None},
            "no head.weight",
        ),
        (
            "bert",
            "question-answering",
            {"head.weight": (3, 64), "head.bias": (3,)},
            "3 rows, expected 2",
        ),
        ("bert", "feature-extraction", {"head.weight": (2, 64)}, "does not take"),
        ("albert", "token-classification", {"prompt_embeds": (3, 64)}, "needs .*32"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(
    kind: str,
    task: str,
    change: dict[str, tuple[int, ...] | None],
    words: str,
    bundle_of: Callable[..., Path],
) -> None:
    bundle = bundle_of(kind, "fp32", task)
    tensors = dict(random_prompt(bundle, 3).tensors)
    for name, shape in change.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = np.ones(shape, np.float32)
    with pytest.raises(IncompatibleError, match=words):
        edgept.load(bundle, threads=1).load_prompt(Prompt(tensors, task=task))


def sentence_transformer(folder: Path, *modules: str, **pooling: bool | str) -> None:
    """What sentence-transformers writes beside a model."""
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    listed = [
        {
            "idx": index,
            "path": paths.get(kind, kind),
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))


@pytest.mark.parametrize(
    ("modules", "pooling", "expected"),
    [
        (("Transformer", "Pooling"), {"pooling_mode_mean_tokens": True}, ("mean", False)),
        (("Transformer", "Pooling", "Normalize"), {"pooling_mode_cls_token": True}, ("cls", True)),
        (("Transformer", "Pooling"), {"pooling_mode": "cls"}, ("cls", False)),
    ],
)
def test_pooling_is_that_of_sentence_transformers(
    modules: tuple[str, ...], pooling: dict[str, Any], expected: tuple[str, bool], tmp_path: Path
) -> None:
    from edgept.export.pooling import read_pooling

    assert read_pooling(tmp_path) == ("mean", False)
    sentence_transformer(tmp_path, *modules, **pooling)
    assert read_pooling(tmp_path) == expected


@pytest.mark.parametrize(
    ("modules", "pooling", "words"),
    [
        (("Transformer", "Pooling"), {"pooling_mode_max_tokens": True}, "pools by max"),
        (
            ("Transformer", "Pooling"),
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            "pools by mean and cls",
        ),
        (("Transformer", "Pooling"), {}, "pools by nothing"),
        (
            ("Transformer", "Pooling", "Dense"),
            {"pooling_mode_mean_tokens": True},
            "a module 'Dense'",
        ),
    ],
)
def test_pooling_that_is_not_run_is_refused(
    modules: tuple[str, ...], pooling: dict[str, Any], words: str, tmp_path: Path
) -> None:
    from edgept.export.pooling import read_pooling

    sentence_transformer(tmp_path, *modules, **pooling)
    with pytest.raises(ExportError, match=words):
        read_pooling(tmp_path)


def test_bundle_says_how_vectors_are_made(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """From the model's folder to the manifest, and to the graph's own metadata."""
    from edgept.export import export_model

    tiny_model("distilbert").save_pretrained(tmp_path / "model")
    sentence_transformer(
        tmp_path / "model", "Transformer", "Pooling", "Normalize", pooling_mode_cls_token=True
    )
    made = export_model(str(tmp_path / "model"), tmp_path / "bundle", verify=False).manifest
    assert (made.task, made.pooling, made.normalize) == ("feature-extraction", "cls", True)
    model = onnx.load(tmp_path / "bundle" / "model.onnx", load_external_data=False)
    metadata = {item.key: item.value for item in model.metadata_props}
    assert metadata["edgept.pooling"] == "cls"
    assert metadata["edgept.normalize"] == "1"


def test_tasks_of_encoders_are_refused_for_others(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    from edgept.export import export_model

    for task in OTHER_TASKS:
        with pytest.raises(UsageError, match=rf"llama\) is no encoder .*{task} is exported"):
            export_model(str(model_folder("llama")), tmp_path / "b", task=task)
    with pytest.raises(UsageError, match="is an encoder, which generates nothing"):
        export_model(str(model_folder("modernbert")), tmp_path / "b", task="text-generation")


@pytest.mark.parametrize("kind", ["deberta-v2", "modernbert"])
def test_a_checkpoint_without_what_the_head_reads_is_refused(kind: str, tmp_path: Path) -> None:
    """peft would leave these layers random, and not save them."""
    import transformers as t

    from edgept.export.source import find_model, load_frozen

    auto: Any = t.AutoModel
    auto.from_config(tiny_model(kind).config).save_pretrained(tmp_path / "m")
    with pytest.raises(ExportError, match=r"lacks \d weights \((pooler|head)\."):
        load_frozen(find_model(str(tmp_path / "m"), "text-classification"))
