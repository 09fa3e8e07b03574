"""Classes by their names, and context vectors learnt in front of them, against transformers' own models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import edgept
from edgept.errors import UsageError

pytest.importorskip("torch", reason="needs the workstation's extra")

import torch

from edgept.cli import main
from edgept.export.class_head import open_text_tower
from edgept.export.class_prompt import class_prompt
from edgept.tune import Settings, load_backbone, tune
from edgept.tune.vision.context import ContextPrompt
from edgept.tune.vision.store import Target
from tests.test_tune_images import CLASSES, by_hand, draw, write_coco, write_folder

WORDS = ["a", "photo", "of", "the", "x", ".", "red", "green", "blue", "light", "dark", "in"]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def tokenizer(eos: int) -> Any:
    """A word a token; CLIP's has a token at each end, and its last one is the highest id."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    wrapper: Any = PreTrainedTokenizerFast
    words = ["<pad>", "<unk>", "<s>", *WORDS, "</s>"]
    backend: Any = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = "<s> $A </s>" if eos else "$A </s>"
    backend.post_processor = processors.TemplateProcessing(
        single=ends, special_tokens=[("<s>", 2), ("</s>", len(words) - 1)]
    )
    return wrapper(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a family to a saved random model for images and texts."""
    import transformers as t

    vocabulary = len(WORDS) + 4
    text = {**SIZES, "vocab_size": vocabulary, "max_position_embeddings": 16, "pad_token_id": 0}
    text |= {"eos_token_id": vocabulary - 1, "bos_token_id": 2, "initializer_range": 0.2}
    vision = {**SIZES, "image_size": 32, "patch_size": 8, "initializer_range": 0.2}
    folders: dict[str, Path] = {}

    def make(kind: str) -> Any:
        if kind == "clip":
            return t.CLIPModel(
                t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
            )
        if kind == "siglip":
            return t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=vision))
        if kind == "owlvit":
            return t.OwlViTForObjectDetection(
                t.OwlViTConfig(text_config=text, vision_config=vision, projection_dim=32)
            )
        return t.Owlv2ForObjectDetection(
            t.Owlv2Config(text_config=text, vision_config=vision, projection_dim=32)
        )

    def folder(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("models") / kind
            torch.manual_seed(0)
            model = make(kind)
            if kind == "siglip":
                model.logit_scale.data.fill_(
                    3.0
                )  # as trained ones are, so that texts differ by much
            model.save_pretrained(folders[kind])
            tokenizer(kind != "siglip").save_pretrained(folders[kind])
            processor = {
                "image_processor_type": f"{'Owlv2' if kind == 'owlv2' else 'ViT'}ImageProcessor",
                "size": {"height": 32, "width": 32},
            }
            (folders[kind] / "preprocessor_config.json").write_text(json.dumps(processor))
        return folders[kind]

    return folder


def own_logits(kind: str, folder: Path, paths: list[Path], texts: list[str]) -> Any:
    """What the transformers model makes of pictures and texts: (pictures, texts)."""
    import transformers as t

    backbone = load_backbone(str(folder))
    pixels = np.stack([backbone.preprocessor(edgept_picture(path)) for path in paths])
    padding: dict[str, Any] = {"padding": True}
    if kind == "siglip":
        padding = {"padding": "max_length", "max_length": 16}
    ids = tokenizer(kind != "siglip")(texts, return_tensors="pt", **padding).input_ids
    auto: Any = t.AutoModel
    model = auto.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=torch.from_numpy(pixels)).logits_per_image


def edgept_picture(path: Path) -> Any:
    from edgept.pictures import read_picture

    return read_picture(path)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_logits_are_transformers_own(
    kind: str, tmp_path: Path, folder_of: Callable[[str], Path]
) -> None:
    data = write_folder(tmp_path / "train", rows=6)
    paths = sorted(data.rglob("*.png"))
    folder = folder_of(kind)
    prompt = class_prompt(str(folder), CLASSES, templates=["a photo of the {} ."])
    backbone = load_backbone(str(folder))
    found = torch.stack([by_hand(backbone, prompt, path)[0][0] for path in paths])
    texts = [f"a photo of the {name} ." for name in CLASSES]
    expected = own_logits(kind, folder, paths, texts)
    assert float(expected.std()) > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert prompt.fingerprint == backbone.fingerprint
    assert prompt.method == "zero_shot"


def test_several_templates_are_a_mean(folder_of: Callable[[str], Path]) -> None:
    folder = str(folder_of("clip"))
    rows = [
        class_prompt(folder, CLASSES, templates=[template]).tensors["head.weight"]
        for template in ("a {} .", "the dark {}")
    ]
    both = class_prompt(folder, CLASSES, templates=["a {} .", "the dark {}"]).tensors
    scale = np.linalg.norm(rows[0][0])
    mean = (rows[0] + rows[1]) / 2
    mean *= scale / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(both["head.weight"], mean, rtol=1e-5, atol=1e-5)


def test_an_underscore_is_a_space(folder_of: Callable[[str], Path]) -> None:
    names = [["dark_red", "blue"], ["dark red", "blue"]]
    marked, plain = (class_prompt(str(folder_of("clip")), labels) for labels in names)
    np.testing.assert_array_equal(marked.tensors["head.weight"], plain.tensors["head.weight"])
    assert marked.labels == ("dark_red", "blue")


@pytest.mark.parametrize("kind", ["owlvit", "owlv2"])
def test_what_is_looked_for_by_its_name(
    kind: str, tmp_path: Path, folder_of: Callable[[str], Path]
) -> None:
    import transformers as t

    folder = folder_of(kind)
    prompt = class_prompt(str(folder), CLASSES[:2], templates=["a photo of the {} ."])
    assert prompt.task == "object-detection"
    path = min(write_folder(tmp_path / "train", rows=3).rglob("*.png"))
    backbone = load_backbone(str(folder))
    logits, _ = by_hand(backbone, prompt, path)
    pixels = backbone.preprocessor(edgept_picture(path), whole=True)
    auto: Any = t.AutoModelForZeroShotObjectDetection
    model = auto.from_pretrained(folder).eval()
    texts = [f"a photo of the {name} ." for name in CLASSES[:2]]
    ids = tokenizer(True)(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = model(**ids, pixel_values=torch.from_numpy(pixels)[None]).logits[0]
    np.testing.assert_allclose(logits[1:], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_vectors_begin_as_words(kind: str, folder_of: Callable[[str], Path]) -> None:
    """Before any step, the head is that of the template's own words."""
    backbone = load_backbone(str(folder_of(kind)))
    tower = open_text_tower(backbone.model, folder_of(kind))
    module = ContextPrompt(tower, CLASSES, "a photo of the {} .", 16)
    assert module.context.shape == (4, 32)
    found = module.tensors()
    weight, bias = tower.of_classes(CLASSES, ["a photo of the {} ."])
    np.testing.assert_allclose(found["head.weight"], weight, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["head.bias"], bias)
    torch.manual_seed(0)
    assert ContextPrompt(tower, CLASSES, None, 7).context.shape == (7, 32)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_vectors_are_learnt(kind: str, tmp_path: Path, folder_of: Callable[[str], Path]) -> None:
    data = write_folder(tmp_path / "train")
    output = tmp_path / "p.safetensors"
    backbone = load_backbone(str(folder_of(kind)))
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    settings = Settings(
        method="coop",
        template="a photo of the {} .",
        steps=30,
        eval_every=5,
        batch_size=6,
        learning_rate=0.05,
    )
    record = tune(backbone, data, output, settings, evaluation=data).record
    plain = record["without_prompt"]
    assert record["validations"][0]["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert record["best"]["loss"] < 0.97 * plain["loss"]
    for name, value in backbone.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    prompt = edgept.read_prompt(output)
    assert set(prompt.tensors) == {"head.weight", "head.bias"}
    assert prompt.method == "coop"
    paths = sorted(data.rglob("*.png"))
    logits = torch.stack([by_hand(backbone, prompt, path)[0][0] for path in paths])
    right = torch.tensor([CLASSES.index(path.parent.name) for path in paths])
    loss = float(torch.nn.functional.cross_entropy(logits, right))
    assert loss == pytest.approx(record["best"]["loss"], rel=1e-5)


def test_visual_prompts_under_clip(tmp_path: Path, folder_of: Callable[[str], Path]) -> None:
    data = write_folder(tmp_path / "train")
    settings = Settings(steps=20, batch_size=6, virtual_tokens=2, patience=0)
    record = tune(
        str(folder_of("clip")), data, tmp_path / "p.safetensors", settings, evaluation=data
    ).record
    assert record["best"]["loss"] < 0.98 * record["validations"][0]["loss"]


@pytest.mark.parametrize(("kind", "method"), [("owlvit", "head"), ("owlv2", "vpt-deep")])
def test_what_is_looked_for_is_learnt(
    kind: str, method: str, tmp_path: Path, folder_of: Callable[[str], Path]
) -> None:
    """Patches with their own boxes, OWLv2's in the picture padded to a square; from texts, or from nothing."""
    from edgept.tune.vision.losses import patch_detection_loss

    data = write_coco(tmp_path / "train", rows=6)
    output = tmp_path / "p.safetensors"
    backbone = load_backbone(str(folder_of(kind)))
    settings = Settings(
        method=method, steps=30, batch_size=6, virtual_tokens=2, eval_every=5, patience=0
    )
    record = tune(backbone, data, output, settings, evaluation=data).record
    assert record["best"]["loss"] < 0.95 * record["validations"][0]["loss"]
    assert set(record["best"]["metric"]) == {"ap", "ap50"}
    prompt = edgept.read_prompt(output)
    assert ("prompt_embeds" in prompt.tensors) == (method == "vpt-deep")
    found = [by_hand(backbone, prompt, data.parent / "images" / f"{i}.png") for i in range(6)]
    first = 1 + prompt.num_virtual_tokens
    targets = []
    for i in range(6):
        picture, (x, y, width, height) = draw(CLASSES[i % 3], i)
        frame = [max(picture.size)] * 2 if kind == "owlv2" else [picture.width, picture.height]
        sides = np.array(frame * 2)
        box = np.array([[x + width / 2, y + height / 2, width, height]]) / sides
        boxes = torch.from_numpy(box.astype(np.float32))
        targets.append(Target(0, torch.tensor([i % 3]), boxes, None))
    loss = patch_detection_loss(
        torch.stack([logits[first:] for logits, _ in found]),
        torch.stack([boxes[first:] for _, boxes in found]),
        targets,
    )
    assert float(loss) == pytest.approx(record["best"]["loss"], rel=1e-4)
    if method == "head":
        texts = class_prompt(str(folder_of(kind)), CLASSES)
        begin = tmp_path / "texts.safetensors"
        edgept.write_prompt(texts, begin)
        settings = Settings(method="head", steps=2, batch_size=6, init=f"prompt:{begin}")
        again = tune(backbone, data, tmp_path / "q.safetensors", settings, evaluation=data)
        assert again.record["labels"] == list(CLASSES)


def test_the_command(tmp_path: Path, folder_of: Callable[[str], Path]) -> None:
    output = tmp_path / "colours.safetensors"
    given = ["prompt", "classes", str(folder_of("clip")), "-o", str(output)]
    made = CliRunner().invoke(main, [*given, "--labels", "red, green"])
    assert made.exit_code == 0, made.output
    assert "image-classification of 2 classes by their names" in made.output
    assert edgept.read_prompt(output).labels == ("red", "green")
    wrong = CliRunner().invoke(main, [*given, "--labels", "a,b", "--template", "x", "--force"])
    assert wrong.exit_code == 2
    assert "has 0 places for a class's name" in wrong.output


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"template": "{} ."}, "no word before the class's name"),
        ({"template": "a photo"}, "0 places"),
        ({"virtual_tokens": 20}, "the model reads 16"),
    ],
)
def test_wrong_templates(
    options: dict[str, Any], expected: str, tmp_path: Path, folder_of: Callable[[str], Path]
) -> None:
    data = write_folder(tmp_path / "train", rows=3)
    with pytest.raises(UsageError, match=expected):
        tune(
            str(folder_of("clip")),
            data,
            tmp_path / "p.safetensors",
            Settings(method="coop", **options),
        )


def test_what_coop_is_not_for(tmp_path: Path, folder_of: Callable[[str], Path]) -> None:
    settings = Settings(method="coop")
    boxes = write_coco(tmp_path / "boxes", rows=3)
    with pytest.raises(UsageError, match="coop learns what classes of pictures are called"):
        tune(str(folder_of("clip")), boxes, tmp_path / "p.safetensors", settings)
    pictures = write_folder(tmp_path / "pictures", rows=3)
    with pytest.raises(UsageError, match=r"finds things, and .* has classes"):
        tune(str(folder_of("owlvit")), pictures, tmp_path / "p.safetensors", Settings())
    with pytest.raises(UsageError, match="--template is for --method coop"):
        Settings(template="a {}")
