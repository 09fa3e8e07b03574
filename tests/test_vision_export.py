"""Image models: what the graph computes is what transformers does, with a prompt and without."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgept import Prompt
from edgept.bundle import PREPROCESSOR_NAME, read_manifest
from edgept.errors import IncompatibleError, UsageError
from edgept.export.exporter import export_model
from edgept.export.fingerprint import fingerprint
from edgept.export.prompted_vision import PromptedVision
from edgept.export.source import find_model, load_frozen
from edgept.export.verifier import verify_bundle
from edgept.export.vision_exporter import own_head
from edgept.prompt import check_fits
from edgept.prompt_file import write_prompt
from tests.conftest import matrix
from tests.image_models import HIDDEN, KINDS, LAYERS, MORE_KINDS, save_image_model, tiny_image_model

LABELS = ("cat", "dog", "owl")
# Those that are like no other here are exported in every run.
ALWAYS = ["vit", "vit-wide", "beit", "siglip-text", "owlvit", "dinov2-registers"]
CLASSIFIERS = ("vit", "deit", "dinov2", "beit")
RANDOM = np.random.default_rng(5)


def pixels(count: int = 2, width: int = 32) -> Any:
    return torch.from_numpy(RANDOM.normal(size=(count, 3, 32, width)).astype(np.float32))


def run_plain(model: Any, pictures: Any) -> tuple[Any, Any, Any]:
    """Logits, boxes and features without a prompt, under the model's own head."""
    module = PromptedVision(model)
    width = module.head_size
    head = [torch.from_numpy(array) for array in own_head(model, width).values()]
    none = torch.zeros(1, 1, 0, HIDDEN)
    with torch.no_grad():
        outputs: tuple[Any, Any, Any] = module(
            pictures, none, *head, torch.zeros(4, width), torch.zeros(4)
        )
    return outputs


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_without_a_prompt_it_is_the_classifier(kind: str) -> None:
    model, pictures = tiny_image_model(kind, LABELS), pixels()
    with torch.no_grad():
        expected = model(pixel_values=pictures).logits
    found = run_plain(model, pictures)[0][:, 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * expected.abs().max())


@pytest.mark.parametrize("kind", ["clip-text", "siglip-text"])
def test_vectors_are_those_of_the_model_with_texts(kind: str) -> None:
    model, pictures = tiny_image_model(kind), pixels()
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model.get_image_features(pictures).pooler_output)
    np.testing.assert_allclose(run_plain(model, pictures)[2][:, 0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["vit", "deit", "dinov2", "dinov2-registers", "vit-wide"])
def test_features_are_the_last_hidden_states(kind: str) -> None:
    model, pictures = tiny_image_model(kind), pixels(width=48 if kind == "vit-wide" else 32)
    with torch.no_grad():
        states = model(pixel_values=pictures).last_hidden_state
    first = states.shape[1] - pictures.shape[3] // 8 * 4  # patches
    expected = torch.cat([states[:, :1], states[:, first:]], 1)
    np.testing.assert_allclose(run_plain(model, pictures)[2], expected, rtol=0, atol=1e-6)


def test_a_deep_prompt_replaces_and_a_shallow_one_flows_on() -> None:
    """The layers one by one, as the paper has them."""
    model, pictures = tiny_image_model("vit"), pixels(1)
    module = PromptedVision(model)
    rows = torch.from_numpy(RANDOM.normal(size=(LAYERS, 1, 4, HIDDEN)).astype(np.float32))
    for tables in (rows, rows[:1]):
        with torch.no_grad():
            tokens = model.embeddings(pictures)
            for index, layer in enumerate(model.layers):
                if index < len(tables):
                    behind = 1 if index == 0 else 5
                    tokens = torch.cat([tokens[:, :1], tables[index], tokens[:, behind:]], 1)
                tokens = layer(tokens)
            np.testing.assert_array_equal(
                module.features(pictures, tables), model.layernorm(tokens)
            )


@pytest.mark.parametrize("kind", ["owlvit", "owlv2"])
def test_queries_of_texts_find_what_transformers_finds(kind: str) -> None:
    model, pictures = tiny_image_model(kind), pixels(1)
    ids = torch.tensor([[5, 6, 2], [7, 8, 2]])
    module = PromptedVision(model)
    with torch.no_grad():
        expected = model(input_ids=ids, pixel_values=pictures)
        queries = torch.nn.functional.normalize(expected.text_embeds[0], eps=1e-6)
        weight = torch.cat([queries, torch.ones(2, 1)], 1)
        width = module.head_size
        given = (torch.zeros(1, 1, 0, HIDDEN), weight, torch.zeros(2))
        logits, boxes, _ = module(pictures, *given, torch.zeros(4, width), torch.zeros(4))
    np.testing.assert_allclose(logits[:, 1:], expected.logits, rtol=0, atol=1e-5)
    np.testing.assert_allclose(boxes[:, 1:], expected.pred_boxes, rtol=0, atol=1e-6)


# test_seeing.py has CLIP's tower alone; what is left out has a sibling here
@pytest.mark.parametrize(
    "kind", matrix(ALWAYS, [kind for kind in (*KINDS, *MORE_KINDS) if kind not in ALWAYS])
)
def test_exported_bundle_is_exact(kind: str, tmp_path: Path) -> None:
    """Every task, shallow and deep, alone and in a batch; the export's own check is the measure."""
    labels = LABELS if kind in CLASSIFIERS else ()
    save_image_model(kind, tmp_path / "model", labels)
    made = export_model(str(tmp_path / "model"), tmp_path / "bundle")
    assert made.parity is not None
    assert made.parity.max_rel <= 1e-5
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.image is not None
    grid = (4, 6) if kind == "vit-wide" else (4, 4)
    assert (manifest.image.num_layers, manifest.image.grid) == (LAYERS, grid)
    assert manifest.labels == list(labels)
    graph = onnx.load(tmp_path / "bundle" / "model.onnx", load_external_data=False).graph
    attentions = [node for node in graph.node if node.op_type == "Attention"]
    assert len(attentions) >= LAYERS  # a pooling may have one
    for node in attentions[:LAYERS]:  # nothing is moved between projections and attention
        assert "q_num_heads" in {attribute.name for attribute in node.attribute}


def test_verify_compares_a_prompt(tmp_path: Path) -> None:
    save_image_model("vit", tmp_path / "model")
    export_model(str(tmp_path / "model"), tmp_path / "bundle", verify=False)
    manifest = read_manifest(tmp_path / "bundle")
    tensors = {
        name: RANDOM.normal(size=shape).astype(np.float32)
        for name, shape in {
            "prompt_embeds": (LAYERS, 5, HIDDEN),
            "head.weight": (3, HIDDEN),
            "box.weight": (4, HIDDEN),
            "box.bias": (4,),
        }.items()
    }
    prompt = Prompt(tensors, "finds", fingerprint=manifest.fingerprint, task="object-detection")
    write_prompt(prompt, tmp_path / "p.safetensors")
    model = str(tmp_path / "model")
    parity = verify_bundle(tmp_path / "bundle", model, prompt=tmp_path / "p.safetensors")
    assert parity.passed
    assert parity.positions == 2 * 4 * (1 + 5 + 16)  # pictures alone and together
    with pytest.raises(UsageError, match="leave --task out"):
        find_model(model, "object-detection")


@pytest.mark.parametrize(
    ("task", "tensors", "words"),
    [
        ("text-classification", {"head.weight": (2, HIDDEN)}, "this bundle runs image-classif"),
        ("image-classification", {"prompt_embeds": (2, 4, HIDDEN)}, "needs \\(3, virtual tokens"),
        ("image-classification", {"prompt_embeds": (4, HIDDEN)}, "needs \\(1, virtual tokens"),
        ("image-classification", {"prompt_embeds": (1, 4, HIDDEN)}, "has no head"),
        ("image-segmentation", {"prompt_embeds": (1, 4, HIDDEN)}, "has no head"),
        ("object-detection", {"head.weight": (1, HIDDEN)}, "lacks prompt_embeds, box.weight"),
        (
            "image-classification",
            {"head.weight": (2, HIDDEN), "box.weight": (4, HIDDEN), "box.bias": (4,)},
            "box.weight, which this bundle",
        ),
    ],
)
def test_prompts_that_do_not_fit(
    task: str, tensors: dict[str, tuple[int, ...]], words: str, vit_bundle: Path
) -> None:
    arrays = {name: np.ones(shape, np.float32) for name, shape in tensors.items()}
    with pytest.raises(IncompatibleError, match=words):
        check_fits(Prompt(arrays, task=task), read_manifest(vit_bundle))


@pytest.fixture(scope="module")
def vit_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    save_image_model("vit", folder / "model")
    export_model(str(folder / "model"), folder / "bundle", verify=False)
    return folder / "bundle"


@pytest.mark.parametrize(("kind", "same"), [("vit", True), ("deit", False), ("dinov2", False)])
def test_one_prompt_for_a_backbone_with_and_without_its_head(
    kind: str, same: bool, tmp_path: Path
) -> None:
    """What a checkpoint's own classes are does not count; how wide its features are does."""
    save_image_model(kind, tmp_path, LABELS)
    classifier = load_frozen(find_model(str(tmp_path)))
    bare = load_frozen(find_model(str(tmp_path), "image-feature-extraction"))
    assert (fingerprint(bare) == fingerprint(classifier)) is same


def test_positions_are_stretched_to_the_pictures_that_are_given(tmp_path: Path) -> None:
    """DINOv2 was trained at 518 pixels, its preprocessor makes 224."""
    save_image_model("dinov2-large", tmp_path)
    model, pictures = load_frozen(find_model(str(tmp_path))), pixels()
    assert PromptedVision(model).geometry.grid == (4, 4)
    with torch.no_grad():
        expected = tiny_image_model("dinov2-large")(pixel_values=pictures).last_hidden_state
    np.testing.assert_allclose(run_plain(model, pictures)[2], expected, rtol=0, atol=1e-6)


def test_what_is_made_of_a_picture_counts(tmp_path: Path) -> None:
    save_image_model("vit", tmp_path)
    before = fingerprint(load_frozen(find_model(str(tmp_path))))
    path = tmp_path / PREPROCESSOR_NAME
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "processor_class": "AnyProcessor"}))
    assert fingerprint(load_frozen(find_model(str(tmp_path)))) == before
    path.write_text(json.dumps({**settings, "image_mean": [0.4, 0.5, 0.5]}))
    assert fingerprint(load_frozen(find_model(str(tmp_path)))) != before


def test_text_tower_does_not_count() -> None:
    model = tiny_image_model("clip-text")
    before = fingerprint(model)
    with torch.no_grad():
        model.text_model.final_layer_norm.weight.add_(1)
        model.logit_scale.add_(1)
    assert fingerprint(model) == before
    with torch.no_grad():
        model.visual_projection.weight.add_(1)
    assert fingerprint(model) != before


def test_frozen_model_is_loaded_whole(tmp_path: Path) -> None:
    save_image_model("deit", tmp_path, LABELS)
    model = load_frozen(find_model(str(tmp_path)))
    assert type(model).__name__ == "DeiTForImageClassificationWithTeacher"
    pictures = pixels()
    np.testing.assert_array_equal(
        run_plain(model, pictures)[0], run_plain(tiny_image_model("deit", LABELS), pictures)[0]
    )
