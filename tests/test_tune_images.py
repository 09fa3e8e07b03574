"""Tuning visual prompts: every task and method, the same file again, and what is refused."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw

import edgept
from edgept.errors import EdgeptError, IncompatibleError, InvalidFileError, UsageError

pytest.importorskip("torch", reason="needs the workstation's extra")

import torch

from edgept.cli import main
from edgept.pictures import read_picture
from edgept.tune import Backbone, Columns, Settings, load_backbone, tune, tune_tasks

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("blue", "green", "red")
COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (30, 30, 230)}
QUICK: dict[str, Any] = {
    "steps": 12,
    "batch_size": 4,
    "virtual_tokens": 3,
    "eval_every": 4,
    "learning_rate": 0.02,
    "head_learning_rate": 0.02,
}
# (data, task, method): all that is trained
TRAINED = [
    *[("folder", "image-classification", method) for method in ("head", "vpt-shallow", "vpt-deep")],
    *[("coco", "image-segmentation", method) for method in ("head", "vpt-shallow", "vpt-deep")],
    *[("coco", "object-detection", method) for method in ("vpt-shallow", "vpt-deep")],
    ("masks", "image-segmentation", "vpt-deep"),
]
KILLED = """
import os, signal, sys
from edgept.tune import Settings, tune

def report(update):
    if update.step == 7 and update.loss is not None:
        os.kill(os.getpid(), signal.SIGKILL)

tune(*sys.argv[1:4], Settings(**eval(sys.argv[5])), evaluation=sys.argv[4], checkpoint_seconds=0, report=report)
"""


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ViT of two layers that reads pictures of 32 x 32 pixels."""
    import transformers as t

    folder = tmp_path_factory.mktemp("models") / "vit"
    torch.manual_seed(0)
    config = t.ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
        initializer_range=0.15,
    )
    t.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 32, "width": 32},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="module")
def backbone(vit: Path) -> Backbone:
    return load_backbone(str(vit))


def draw(label: str, seed: int) -> tuple[Image.Image, list[int]]:
    """A rectangle of a class's colour somewhere on a dark picture, and its x, y, width, height."""
    random = np.random.default_rng(seed)
    width, height, side = 36 + seed % 9, 40, int(random.integers(12, 20))
    x, y = int(random.integers(0, width - side)), int(random.integers(0, height - side))
    picture = Image.new("RGB", (width, height), tuple(random.integers(0, 60, 3).tolist()))
    ImageDraw.Draw(picture).rectangle((x, y, x + side - 1, y + side - 1), fill=COLOURS[label])
    return picture, [x, y, side, side]


def write_folder(root: Path, rows: int = 18, first: int = 0) -> Path:
    for i in range(rows):
        label = CLASSES[i % 3]
        (root / label).mkdir(parents=True, exist_ok=True)
        draw(label, first + i)[0].save(root / label / f"{i}.png")
    return root


def write_coco(root: Path, rows: int = 18, first: int = 0) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for i in range(rows):
        picture, (x, y, width, height) = draw(CLASSES[i % 3], first + i)
        picture.save(root / "images" / f"{i}.png")
        images.append(
            {"id": i, "file_name": f"{i}.png", "width": picture.width, "height": picture.height}
        )
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        annotations.append(
            {
                "id": 100 + i,
                "image_id": i,
                "category_id": 1 + i % 3,
                "bbox": [x, y, width, height],
                "segmentation": [corners],
                "iscrowd": 0,
            }
        )
    categories = [{"id": 1 + at, "name": name} for at, name in enumerate(CLASSES)]
    path = root / "instances.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return path


def write_masks(root: Path, rows: int = 18, first: int = 0) -> Path:
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for i in range(rows):
        picture, (x, y, width, height) = draw(CLASSES[i % 3], first + i)
        mask = np.zeros((picture.height, picture.width), np.uint8)
        mask[y : y + height, x : x + width] = 1 + i % 3
        mask[0] = 255  # nothing is learnt there
        picture.save(root / "images" / f"{i}.jpg")
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
    (root / "labels.txt").write_text("background\nblue\ngreen\nred\n")
    return root


WRITERS: dict[str, Callable[..., Path]] = {
    "folder": write_folder,
    "coco": write_coco,
    "masks": write_masks,
}


def quick(**options: Any) -> Settings:
    chosen = {**QUICK, **options}
    if chosen.get("method") == "head":
        del chosen["learning_rate"]
    return Settings(**chosen)


def by_hand(backbone: Backbone, prompt: edgept.Prompt, path: Path) -> tuple[Any, Any]:
    """Logits and boxes of every position of a picture, from a prompt file."""
    tensors = {name: torch.tensor(array) for name, array in prompt.tensors.items()}
    hidden, width = backbone.vision.hidden_size, backbone.vision.head_size
    rows = tensors.get("prompt_embeds", torch.zeros(1, 0, hidden))
    whole = prompt.task != "image-classification"
    pixels = torch.from_numpy(backbone.preprocessor(read_picture(path), whole=whole))
    with torch.no_grad():
        logits, boxes, _ = backbone.vision(
            pixels[None],
            rows[:, None],
            tensors["head.weight"],
            tensors["head.bias"],
            tensors.get("box.weight", torch.zeros(4, width)),
            tensors.get("box.bias", torch.zeros(4)),
        )
    return logits[0], boxes[0]


@pytest.mark.parametrize(("form", "task", "method"), TRAINED)
def test_every_task_and_method_learns(
    form: str, task: str, method: str, tmp_path: Path, backbone: Backbone
) -> None:
    data = WRITERS[form](tmp_path / "train")
    held_out = WRITERS[form](tmp_path / "eval", rows=6, first=100)
    output = tmp_path / "p.safetensors"
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    record = tune(
        backbone, data, output, quick(task=task, method=method, steps=40), evaluation=held_out
    ).record
    assert record["best"]["loss"] < 0.9 * record["validations"][0]["loss"]
    assert np.mean(record["losses"][-8:]) < 0.9 * np.mean(record["losses"][:8])
    figures = {
        "image-classification": {"accuracy", "macro_f1", "auc"},
        "image-segmentation": {"mean_iou", "pixel_accuracy"},
        "object-detection": {"ap", "ap50"},
    }
    assert set(record["best"]["metric"]) == figures[task]
    assert record["pictures"] == 4 * record["step"]
    for name, value in backbone.model.state_dict().items():
        assert torch.equal(value, before[name]), name  # frozen, indeed
    prompt = edgept.read_prompt(output)
    assert prompt.task == task
    assert prompt.method == method.replace("-", "_")
    assert prompt.fingerprint == backbone.fingerprint
    background = ("background",) if task == "image-segmentation" else ()
    assert prompt.labels == (*background, *CLASSES)
    shape = None if method == "head" else (1 if method == "vpt-shallow" else 2, 3, 48)
    found = prompt.tensors.get("prompt_embeds")
    assert (None if found is None else found.shape) == shape
    assert ("box.weight" in prompt.tensors) == (task == "object-detection")
    assert output.with_suffix(".tune.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("form", "task", "method"),
    [
        ("folder", "image-classification", "vpt-deep"),
        ("folder", "image-classification", "head"),
        ("coco", "image-segmentation", "vpt-shallow"),
        ("coco", "object-detection", "vpt-deep"),
    ],
)
def test_the_file_gives_the_logits_that_were_validated(
    form: str, task: str, method: str, tmp_path: Path, backbone: Backbone
) -> None:
    """The last validation's loss, of one batch, is that of the file's tensors on PromptedVision."""
    from edgept.tune.vision.losses import detection_loss, segmentation_loss
    from edgept.tune.vision.store import Target

    data = WRITERS[form](tmp_path / "train", rows=6)
    output = tmp_path / "p.safetensors"
    settings = quick(
        task=task, method=method, batch_size=6, projection=None if method == "head" else 5
    )
    record = tune(backbone, data, output, settings, evaluation=data).record
    prompt = edgept.read_prompt(output)
    count = prompt.num_virtual_tokens
    if form == "folder":
        paths = sorted(data.rglob("*.png"))
        logits = torch.stack([by_hand(backbone, prompt, path)[0][0] for path in paths])
        right = torch.tensor([CLASSES.index(path.parent.name) for path in paths])
        loss = torch.nn.functional.cross_entropy(logits, right)
    else:
        paths = [data.parent / "images" / f"{i}.png" for i in range(6)]
        found = [by_hand(backbone, prompt, path) for path in paths]
        drawn = [draw(CLASSES[i % 3], i) for i in range(6)]
        if task == "object-detection":
            targets = []
            for i, (picture, (x, y, width, height)) in enumerate(drawn):
                sides = np.array([picture.width, picture.height] * 2)
                box = np.array([x + width / 2, y + height / 2, width, height]) / sides
                boxes = torch.from_numpy(box[None].astype(np.float32))
                targets.append(Target(0, torch.tensor([i % 3]), boxes, None))
            tokens = slice(1, 1 + count)
            loss = detection_loss(
                torch.stack([logits[tokens] for logits, _ in found]),
                torch.stack([boxes[tokens] for _, boxes in found]),
                targets,
            )
        else:
            masks = []
            for i, (picture, (x, y, width, height)) in enumerate(drawn):
                mask = np.zeros((picture.height, picture.width), np.uint8)
                mask[y : y + height, x : x + width] = 1 + i % 3
                small = Image.fromarray(mask).resize((32, 32), Image.Resampling.NEAREST)
                masks.append(torch.from_numpy(np.array(small)).long())
            patches = torch.stack([logits[1 + count :] for logits, _ in found])
            loss = segmentation_loss(patches, (4, 4), torch.stack(masks))
    assert float(loss) == pytest.approx(record["best"]["loss"], rel=1e-5)


def test_a_head_alone_is_logistic_regression(tmp_path: Path, backbone: Backbone) -> None:
    """Its first gradient is that of cross-entropy over fixed features: (softmax - one hot) x features."""
    from edgept.tune.vision.course import PictureCourse

    data = write_folder(tmp_path / "train", rows=6)
    course = PictureCourse(data, None, quick(method="head", batch_size=6), None)
    course.settle(backbone, None)
    learner = course.learner(course.make_job())
    batch = learner.make_batch([*range(6)], 0)
    loss: Any = learner.loss(batch)
    loss.backward()
    paths = sorted(data.rglob("*.png"))
    identity = edgept.Prompt(
        {"head.weight": np.eye(48, dtype=np.float32), "head.bias": np.zeros(48, np.float32)},
        task="image-classification",
    )
    features = torch.stack([by_hand(backbone, identity, path)[0][0] for path in paths])
    head = learner.module.head
    right = torch.tensor([CLASSES.index(path.parent.name) for path in paths])
    with torch.no_grad():
        wrong = head(features).softmax(dim=1) - torch.eye(3)[right]  # (pictures, classes)
    found: Any = head
    np.testing.assert_allclose(found.weight.grad, wrong.T @ features / 6, atol=1e-6)
    np.testing.assert_allclose(found.bias.grad, wrong.mean(dim=0), atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"method": "vpt-deep", "flip": True}, {"method": "head"}, {"projection": 4}]
)
def test_a_killed_run_goes_on_to_the_same_bytes(
    options: dict[str, Any], tmp_path: Path, vit: Path
) -> None:
    data = write_folder(tmp_path / "train")
    held_out = write_folder(tmp_path / "eval", rows=6, first=50)
    whole, halted = tmp_path / "whole.safetensors", tmp_path / "halted.safetensors"
    chosen = {**QUICK, "name": "p", **options}
    if options.get("method") == "head":
        del chosen["learning_rate"]
    tune(str(vit), data, whole, Settings(**chosen), evaluation=held_out)
    given = [str(vit), str(data), str(halted), str(held_out), repr(chosen)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *given], capture_output=True, cwd=ROOT, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not halted.exists()
    record = tune(
        str(vit), data, halted, Settings(**chosen), evaluation=held_out, resume=True
    ).record
    assert halted.read_bytes() == whole.read_bytes()
    kept = json.loads(whole.with_suffix(".tune.json").read_text())
    assert record["losses"] == kept["losses"]
    assert record["validations"] == kept["validations"]
    again = tune(str(vit), data, halted, Settings(**chosen), evaluation=held_out, resume=True)
    assert again.record == json.loads(halted.with_suffix(".tune.json").read_text())


def test_a_run_goes_on_from_a_prompt(tmp_path: Path, backbone: Backbone) -> None:
    data = write_coco(tmp_path / "train")
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    made = tune(backbone, data, first, quick(method="vpt-shallow"), evaluation=data).record
    settings = Settings(steps=2, eval_every=1, batch_size=4, init=f"prompt:{first}")
    record = tune(backbone, data, second, settings, evaluation=data).record
    assert record["validations"][0]["loss"] == pytest.approx(made["best"]["loss"], rel=1e-6)
    prompt = edgept.read_prompt(second)
    assert (prompt.num_virtual_tokens, prompt.method) == (3, "vpt_shallow")
    with pytest.raises(UsageError, match=r"which --method head .* Use --method vpt-deep"):
        tune(
            backbone,
            data,
            tmp_path / "c.safetensors",
            Settings(method="head", init=f"prompt:{first}"),
        )
    settings = Settings(task="image-segmentation", init=f"prompt:{first}")
    with pytest.raises(IncompatibleError, match="is for object-detection"):
        tune(backbone, data, tmp_path / "c.safetensors", settings)


def test_a_run_goes_on_from_a_prompt_with_masks_in_another_order(
    tmp_path: Path, backbone: Backbone
) -> None:
    data = write_masks(tmp_path / "train")
    other = Path(shutil.copytree(data, tmp_path / "other"))
    (other / "labels.txt").write_text("green\nred\nbackground\nblue\n")
    for path in (other / "masks").iterdir():
        mask = np.array(Image.open(path))
        Image.fromarray(np.where(mask < 4, (mask + 2) % 4, mask)).save(path)
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    made = tune(backbone, data, first, quick(method="head"), evaluation=data).record
    settings = Settings(method="head", steps=1, batch_size=4, init=f"prompt:{first}")
    record = tune(backbone, other, second, settings, evaluation=other).record
    assert record["validations"][0]["metric"] == pytest.approx(made["best"]["metric"])
    assert edgept.read_prompt(second).labels == ("background", "blue", "green", "red")


def test_a_projection_is_folded_into_the_file(tmp_path: Path, backbone: Backbone) -> None:
    data = write_folder(tmp_path / "train", rows=6)
    output = tmp_path / "p.safetensors"
    tune(backbone, data, output, quick(projection=2, virtual_tokens=6, method="vpt-deep"))
    rows = edgept.read_prompt(output).tensors["prompt_embeds"]  # (layers, virtual tokens, hidden)
    assert rows.shape == (2, 6, 48)
    flat = rows.reshape(12, 48)
    values = np.linalg.svd(flat - flat.mean(axis=0), compute_uv=False)
    assert values[1] > 1e-3 > 1e-4 > values[2]  # two dimensions, and a bias


def test_the_command(tmp_path: Path, vit: Path) -> None:
    images = [np.array(draw(CLASSES[i % 2], i)[0].resize((28, 28)).convert("L")) for i in range(12)]
    labels = np.array([[i % 2] for i in range(12)], dtype=np.uint8)
    archive = tmp_path / "med.npz"
    arrays: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        arrays |= {f"{split}_images": np.array(images), f"{split}_labels": labels}
    np.savez(archive, **arrays)
    output = tmp_path / "p.safetensors"
    options = ["--steps", "4", "--batch-size", "4", "--virtual-tokens", "2"]
    made = CliRunner().invoke(
        main,
        ["tune", str(vit), str(archive), "-o", str(output), "--labels", "ill, well", *options],
    )
    assert made.exit_code == 0, made.output
    assert "2 virtual tokens and a head of 2 classes" in made.output
    assert "vpt-deep for vit" in made.output
    assert "accuracy 50.0% of always saying 'ill'" in made.output
    assert f"next: edgept run --prompt {output} picture.png" in made.output
    assert edgept.read_prompt(output).labels == ("ill", "well")


def test_tasks_in_one_file(tmp_path: Path, vit: Path) -> None:
    write_folder(tmp_path / "photos")
    write_coco(tmp_path / "scenes", rows=6)
    (tmp_path / "tasks.yaml").write_text(
        "defaults: {steps: 2, batch_size: 3, virtual_tokens: 2, eval_split: 0.34}\n"
        "tasks:\n"
        "  colour: {train: photos}\n"
        "  find: {train: scenes/instances.json}\n"
        "  segment: {train: scenes/instances.json, task: image-segmentation, method: head}\n"
        "  wrong: {train: scenes/instances.json, method: head}\n"
    )
    made = tune_tasks(str(vit), tmp_path / "tasks.yaml", tmp_path / "prompts")
    tasks = {
        path.stem: edgept.read_prompt(path).task
        for path in (tmp_path / "prompts").glob("*.safetensors")
    }
    assert tasks == {
        "colour": "image-classification",
        "find": "object-detection",
        "segment": "image-segmentation",
    }
    assert "a head alone has none" in str(made["wrong"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"description": "x"}, "--description is for text"),
        ({"max_length": 9}, "--max-length is for text"),
        ({"drop_long": True}, "--drop-long is for text"),
        ({"checkpoint_activations": True}, "--checkpoint-activations is for text"),
        ({"metric_rows": 5}, "--metric-rows is for text"),
        ({"method": "prefix-tuning"}, "--method prefix-tuning is for text"),
        ({"task": "text-generation"}, "--task text-generation is for text"),
        ({"init": "text:a dog", "method": "prompt-tuning"}, "is not for vpt-deep"),
        ({"task": "object-detection"}, "has classes, which image-classification learns from"),
        ({"labels": ("a", "b")}, "names its classes"),
    ],
)
def test_settings_for_text_are_refused(
    options: dict[str, Any], expected: str, tmp_path: Path, backbone: Backbone
) -> None:
    data = write_folder(tmp_path / "train", rows=3)
    with pytest.raises((UsageError, InvalidFileError), match=expected):
        tune(backbone, data, tmp_path / "p.safetensors", Settings(**options))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"method": "vpt-deep"}, "--method vpt-deep is for pictures"),
        ({"task": "object-detection"}, "--task object-detection is for pictures"),
        ({"projection": 4}, "--projection is for pictures"),
        ({"flip": True}, "--flip is for pictures"),
        ({"labels": ("a", "b")}, "--labels is for pictures"),
        ({"columns": Columns(image="file")}, "--image-column is for pictures"),
    ],
)
def test_settings_for_pictures_are_refused_of_text(
    options: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text('{"text": "x", "label": "y"}')
    with pytest.raises(UsageError, match=expected):
        tune("no/such-model", data, tmp_path / "p.safetensors", Settings(**options))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("nowhere", "there is no folder"),
        ("empty", "holds no config.json"),
        ("bundle", "is a bundle"),
        ("other", "no transformers model"),
    ],
)
@pytest.mark.parametrize("data", ["empty", "bad.jsonl", "tasks.yaml"])
def test_a_model_that_is_not_there_is_said_before_the_data_are_read(
    model: str, expected: str, data: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "edgept.json").write_text("{}")
    (tmp_path / "other" / "config.json").write_text("{}")
    (tmp_path / "bad.jsonl").write_text("no row")
    (tmp_path / "tasks.yaml").write_text("tasks: {a: {train: bad.jsonl}}")
    given = ["tune", str(tmp_path / model), str(tmp_path / data), "-o", str(tmp_path / "p")]
    if data != "tasks.yaml":
        given[-1] += ".safetensors"
    made = CliRunner().invoke(main, given)
    assert expected in made.stderr or expected in str(made.exception)
    assert not (tmp_path / "p").exists()


def test_more_objects_than_virtual_tokens_are_refused(tmp_path: Path, backbone: Backbone) -> None:
    path = write_coco(tmp_path / "train", rows=3)
    content = json.loads(path.read_text())
    content["annotations"] += [{**content["annotations"][0], "id": at} for at in range(4)]
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidFileError, match=r"--virtual-tokens 5.*\n  0.png has 5 objects"):
        tune(backbone, path, tmp_path / "p.safetensors", quick(virtual_tokens=4))


def test_detections_that_diverge_are_an_error(tmp_path: Path, backbone: Backbone) -> None:
    settings = quick(method="vpt-shallow", learning_rate=1e30, head_learning_rate=1e30)
    data = write_coco(tmp_path / "train", rows=6)
    with pytest.raises(EdgeptError, match="the training diverged"):
        tune(backbone, data, tmp_path / "a.safetensors", settings, evaluation=data)


def test_broken_pictures_are_named(tmp_path: Path, backbone: Backbone) -> None:
    data = write_folder(tmp_path / "train", rows=9)
    whole = (data / "red" / "2.png").read_bytes()
    (data / "red" / "2.png").write_bytes(whole[: len(whole) // 2])
    (data / "blue" / "0.png").write_bytes(b"")
    shutil.copy(ROOT / "README.md", data / "green" / "1.png")
    with pytest.raises(InvalidFileError) as caught:
        tune(backbone, data, tmp_path / "p.safetensors", quick())
    message = str(caught.value)
    assert "3 pictures cannot be learnt from" in message
    for name in ("red/2.png", "blue/0.png", "green/1.png"):
        assert f"\n  {name}: it is " in message
    assert not (tmp_path / "p.safetensors").exists()
