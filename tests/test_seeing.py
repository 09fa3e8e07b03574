"""Pictures on a bundle: every task against PyTorch, in batches, under prompts that are swapped."""

import dataclasses
import json
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import edgept
from edgept.errors import EdgeptError, IncompatibleError, InvalidFileError, UsageError
from edgept.manifest import ImageGeometry
from edgept.pictures import Preprocessor
from edgept.runtime import sights
from edgept.runtime.detector import Detections
from edgept.runtime.embedder import Embedding
from edgept.runtime.image_classifier import ImageClassification
from edgept.runtime.segmenter import Segmentation, to_segmentation, upsampled_argmax
from edgept.runtime.vision import Seen
from tests.image_models import HIDDEN, LAYERS, tiny_image_model

CLASSIFIES, SEGMENTS, DETECTS = "image-classification", "image-segmentation", "object-detection"


def photo(height: int = 40, width: int = 56, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Blocks of colour, which survive a resize: (height, width, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image)


def make_prompt(
    task: str = CLASSIFIES,
    *,
    tokens: int = 4,
    deep: bool = False,
    classes: int = 3,
    seed: int = 0,
    boxes_seed: int = 0,
    name: str = "",
    width: int = HIDDEN,
) -> edgept.Prompt:
    random = np.random.default_rng([seed, 1])

    def values(*shape: int, scale: float = 0.5) -> npt.NDArray[np.float32]:
        return (random.normal(size=shape) * scale).astype(np.float32)

    tensors = {"head.weight": values(classes, width), "head.bias": values(classes)}
    if tokens:
        tensors["prompt_embeds"] = values(LAYERS if deep else 1, tokens, HIDDEN, scale=2)
    if task == DETECTS:
        random = np.random.default_rng([boxes_seed, 2])
        tensors |= {"box.weight": values(4, HIDDEN), "box.bias": values(4)}
    labels = tuple(f"{task[0]}{seed}-{index}" for index in range(classes))
    return edgept.Prompt(tensors, name=name or f"{task}-{seed}", task=task, labels=labels)


@pytest.fixture(scope="module")
def bundle(image_bundle_of: Callable[..., Path]) -> Path:
    return image_bundle_of("vit")


@pytest.fixture(scope="module")
def model(bundle: Path) -> edgept.Model:
    return edgept.load(bundle, threads=1)


def in_pytorch(
    kind: str, prompt: edgept.Prompt | None, pixels: npt.NDArray[np.float32]
) -> dict[str, npt.NDArray[np.float32]]:
    """Logits, boxes and features of a picture (3, height, width), as they are before export."""
    import torch

    from edgept.export.prompted_vision import PromptedVision

    frozen = tiny_image_model(kind)
    prompted = PromptedVision(frozen)
    tensors = {} if prompt is None else prompt.tensors
    width = prompted.head_size

    def tensor(key: str, *default: int) -> torch.Tensor:
        return torch.from_numpy(np.array(tensors.get(key, np.zeros(default, np.float32))))

    with torch.no_grad():
        outputs = prompted(
            torch.from_numpy(pixels)[None],
            tensor("prompt_embeds", 1, 0, HIDDEN)[:, None],
            tensor("head.weight", 1, width),
            tensor("head.bias", 1),
            tensor("box.weight", 4, width),
            tensor("box.bias", 4),
        )
    return dict(zip(("logits", "boxes", "features"), (o[0].numpy() for o in outputs), strict=True))


def close(found: Any, expected: Any) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * max(np.abs(expected).max(), 1)


@pytest.mark.parametrize(("deep", "tokens"), [(False, 0), (False, 1), (False, 5), (True, 5)])
def test_classes_are_those_of_pytorch(
    model: edgept.Model, bundle: Path, deep: bool, tokens: int
) -> None:
    prompt = make_prompt(tokens=tokens, deep=deep)
    loaded = model.load_prompt(prompt)
    pixels = Preprocessor.from_bundle(bundle)(Image.fromarray(photo()))
    expected = in_pytorch("vit", prompt, pixels)["logits"][0]
    found = model.classify_image(photo(), prompt=loaded)
    close(found.logits, expected)
    assert found.label == prompt.labels[int(expected.argmax())]
    assert found.probability == max(found.probabilities)
    assert sum(found.probabilities) == pytest.approx(1)
    assert (found.prompt, found.labels) == (prompt.name, prompt.labels)


@pytest.mark.parametrize("deep", [False, True])
def test_segments_are_those_of_pytorch(model: edgept.Model, bundle: Path, deep: bool) -> None:
    import torch

    prompt = make_prompt(SEGMENTS, deep=deep)
    pixels = Preprocessor.from_bundle(bundle)(Image.fromarray(photo()), whole=True)
    patches = in_pytorch("vit", prompt, pixels)["logits"][5:].reshape(4, 4, 3)
    found = model.segment(photo(), prompt=model.load_prompt(prompt))
    wide = torch.nn.functional.interpolate(
        torch.from_numpy(patches).permute(2, 0, 1)[None], (40, 56), mode="bilinear"
    )[0]
    top = wide.topk(2, 0).values
    clear = (top[0] - top[1] > 1e-3).numpy()
    assert clear.mean() > 0.99
    assert np.array_equal(found.classes[clear], wide.argmax(0).numpy()[clear])
    assert found.classes.shape == (40, 56)
    assert found.classes.dtype == np.uint16
    assert sum(found.shares) == pytest.approx(1)
    assert found.shares[0] == pytest.approx((found.classes == 0).mean())
    close(found.probabilities, torch.from_numpy(patches).softmax(-1))


def test_what_is_made_of_the_output_is_part_of_the_time(
    model: edgept.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgept.runtime import seeing

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.2)
        return to_segmentation(*arguments)

    monkeypatch.setattr(seeing, "to_segmentation", slowly)
    latency = model.segment(photo(), prompt=model.load_prompt(make_prompt(SEGMENTS))).latency
    assert latency.preprocess_ms is not None
    assert latency.total_ms >= latency.preprocess_ms + latency.prefill_ms + 200


@pytest.mark.parametrize("deep", [False, True])
def test_detections_are_those_of_pytorch(model: edgept.Model, bundle: Path, deep: bool) -> None:
    prompt = make_prompt(DETECTS, tokens=6, deep=deep)
    pixels = Preprocessor.from_bundle(bundle)(Image.fromarray(photo()), whole=True)
    outputs = in_pytorch("vit", prompt, pixels)
    logits, boxes = outputs["logits"][1:7], outputs["boxes"][1:7]
    scores = np.exp(logits) / (np.exp(logits).sum(1, keepdims=True) + 1)  # "no object" is e^0
    loaded = model.load_prompt(prompt)
    found = model.detect(photo(), prompt=loaded, threshold=0)
    for item, token in zip(found.found, np.argsort(-scores.max(1)), strict=True):
        assert item.label == prompt.labels[scores[token].argmax()]
        assert item.score == pytest.approx(scores[token].max(), abs=1e-4)
        x, y, width, height = boxes[token]
        corners = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        close(item.box, corners.clip(0, 1) * [56, 40, 56, 40])
    least = found.found[2].score
    assert len(model.detect(photo(), prompt=loaded, threshold=least).found) == 3
    assert model.detect(photo(), prompt=loaded, threshold=1).found == ()
    assert (found.size, found.labels) == ((56, 40), prompt.labels)


def test_patches_find_what_the_prompt_asks_for_as_in_transformers(
    image_bundle_of: Callable[..., Path],
) -> None:
    """In pixels of the picture, which OWLv2 pads to a square."""
    import torch
    from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
    from transformers.models.owlv2.modeling_owlv2 import Owlv2ObjectDetectionOutput

    bundle = image_bundle_of("owlv2")
    model, frozen = edgept.load(bundle, threads=1), tiny_image_model("owlv2")
    queries = np.random.default_rng(0).normal(size=(3, HIDDEN)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    head = np.concatenate([queries, np.ones((3, 1), np.float32)], axis=1)
    labels = ("cat", "dog", "emu")
    prompt = edgept.Prompt({"head.weight": head}, name="pets", task=DETECTS, labels=labels)
    loaded = model.load_prompt(prompt)
    processor: Any = Owlv2ImageProcessorPil
    processor = processor.from_pretrained(bundle)
    for height, width in ((40, 56), (90, 20)):
        picture = Image.fromarray(photo(height, width))
        pixels = processor(picture, return_tensors="pt")["pixel_values"].float()
        with torch.no_grad():
            maps = frozen.image_embedder(pixels)[0]  # (1, rows, columns, hidden)
            features = maps.flatten(1, 2)
            logits, _ = frozen.class_predictor(features, torch.from_numpy(queries)[None])
            boxes = frozen.box_predictor(features, maps)
            expected = processor.post_process_object_detection(
                Owlv2ObjectDetectionOutput(logits=logits, pred_boxes=boxes),
                threshold=0.0,
                target_sizes=[(height, width)],
            )[0]
        found = model.detect(picture, prompt=loaded, threshold=0).found
        order = expected["scores"].argsort(descending=True, stable=True)
        end = torch.tensor([float(width), height, width, height])
        inside = expected["boxes"].clip(min=0).minimum(end)
        # what transformers finds in the padding alone is nothing here
        order = order[(inside[order, 2:] > inside[order, :2]).all(dim=1)]
        assert 0 < len(found) == len(order) < 16
        close([item.score for item in found], expected["scores"][order])
        close([item.box for item in found], inside[order])
        names = [labels[index] for index in expected["labels"][order]]
        assert [item.label for item in found] == names
    assert isinstance(model.see(photo(), prompt=loaded), Detections)
    with pytest.raises(UsageError, match="no head of its own"):
        model.see(photo())


def test_vectors_are_those_of_pytorch(model: edgept.Model, bundle: Path) -> None:
    pixels = Preprocessor.from_bundle(bundle)(Image.fromarray(photo()))
    plain = model.embed_image(photo())
    close(plain, in_pytorch("vit", None, pixels)["features"][0])
    prompt = make_prompt(deep=True)
    under = model.embed_image(photo(), prompt=model.load_prompt(prompt))
    close(under, in_pytorch("vit", prompt, pixels)["features"][0])
    assert (plain.prompt, under.prompt, under.truncated) == (None, prompt.name, 0)


@pytest.mark.parametrize("kind", ["clip", "dinov2"])
def test_pictures_are_cropped_where_the_preprocessor_says_so_but_whole_for_boxes(
    image_bundle_of: Callable[..., Path], kind: str
) -> None:
    bundle = image_bundle_of(kind)
    model = edgept.load(bundle, threads=1)
    head_size = model.manifest.head_size
    assert head_size is not None
    wide = photo(30, 120)
    preprocess = Preprocessor.from_bundle(bundle)
    for task, whole in ((CLASSIFIES, False), (SEGMENTS, True)):
        prompt = make_prompt(task, width=head_size)
        loaded = model.load_prompt(prompt)
        expected = in_pytorch(kind, prompt, preprocess(Image.fromarray(wide), whole=whole))
        found = model.see(wide, prompt=loaded)
        if isinstance(found, ImageClassification):
            close(found.logits, expected["logits"][0])
        elif isinstance(found, Segmentation):
            logits = expected["logits"][5:].reshape(4, 4, 3)
            shifted = np.exp(logits - logits.max(-1, keepdims=True))
            close(found.probabilities, shifted / shifted.sum(-1, keepdims=True))


def flat(found: Any) -> npt.NDArray[np.float64]:
    """All numbers of a result in a row."""
    if isinstance(found, ImageClassification):
        return np.asarray(found.logits, np.float64)
    if isinstance(found, Segmentation):
        return np.asarray(found.probabilities, np.float64).ravel()
    if isinstance(found, Detections):
        return np.array([[item.score, *item.box] for item in found.found]).ravel()
    return np.asarray(found.vector, np.float64)


def test_a_batch_of_mixed_tasks_gives_what_each_gives_alone(model: edgept.Model) -> None:
    prompts: list[edgept.LoadedPrompt | None] = [
        model.load_prompt(prompt)
        for prompt in (
            make_prompt(CLASSIFIES),
            make_prompt(CLASSIFIES, classes=9, seed=1),
            make_prompt(SEGMENTS, seed=2),
            make_prompt(DETECTS, seed=3),
            make_prompt(DETECTS, seed=4, boxes_seed=1),
            make_prompt(DETECTS, seed=5),
            make_prompt(CLASSIFIES, tokens=0, seed=6),
            make_prompt(CLASSIFIES, tokens=0, classes=5, seed=7),
            make_prompt(SEGMENTS, tokens=4, deep=True, seed=8),
            make_prompt(CLASSIFIES, tokens=4, deep=True, seed=9),
            make_prompt(CLASSIFIES, tokens=2, seed=10),
        )
    ]
    prompts.append(None)
    requests: list[Any] = [
        (photo(30 + 3 * index, 50 - index, seed=index), prompts[index % len(prompts)])
        for index in range(40)
    ]
    together = model.see_batch(requests, threshold=0)
    kinds = {type(item) for item in together}
    assert kinds == {ImageClassification, Segmentation, Detections, Embedding}
    for found, (picture, prompt) in zip(together, requests, strict=True):
        alone = model.see(picture, prompt=prompt, threshold=0)
        assert type(found) is type(alone)
        assert found.prompt == alone.prompt
        assert np.abs(flat(found) - flat(alone)).max() < 1e-4
        if isinstance(found, Segmentation) and isinstance(alone, Segmentation):
            assert found.classes.shape == picture.shape[:2]
            assert (found.classes == alone.classes).mean() > 0.999


def test_pictures_under_prompts_of_one_shape_share_a_run(
    model: edgept.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[list[str]] = []
    run = model._graph.run

    def counted(feeds: Any, fetches: Any) -> None:
        runs.append([*fetches])
        run(feeds, fetches)

    monkeypatch.setattr(model._graph, "run", counted)
    one, two = (model.load_prompt(make_prompt(seed=seed, classes=seed + 2)) for seed in (0, 1))
    three = model.load_prompt(make_prompt(DETECTS, seed=2))
    runs.clear()
    model.classify_image_batch([(photo(), one), (photo(), two), (photo(), one)])
    assert runs == [["logits"]]
    runs.clear()
    model.see_batch([(photo(), one), (photo(), three), (photo(), two)])
    assert runs == [["boxes", "logits"]]
    runs.clear()
    model.embed_image_batch([(photo(), one), (photo(), three)])
    assert runs == [["features"]]
    runs.clear()
    assert len(model.classify_image_batch([(photo(), one)] * 33)) == 33
    assert len(runs) == 3


def test_prompts_whose_outputs_would_mix_are_refused(model: edgept.Model) -> None:
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    one = model.load_prompt(make_prompt(DETECTS))
    same = model.load_prompt(make_prompt(DETECTS, seed=1, classes=5))
    together = model.image_outputs(pixels, [one, same])
    assert together["logits"].shape[2] == 3 + 5
    for row, prompt in enumerate((one, same)):
        close(together["boxes"][[row]], model.image_outputs(pixels[[row]], [prompt])["boxes"])
    other = model.load_prompt(make_prompt(DETECTS, seed=2, boxes_seed=1))
    for mixed in ([one, other], [one, model.load_prompt(make_prompt())]):
        with pytest.raises(UsageError, match="different box layers"):
            model.image_outputs(pixels, mixed)
    with pytest.raises(UsageError, match="with a head and those that leave"):
        model.image_outputs(pixels, [None, model.load_prompt(make_prompt(tokens=0))])
    with pytest.raises(UsageError, match="virtual tokens"):
        model.image_outputs(pixels, [None, one])


def test_heads_with_many_classes_are_run_in_parts(
    model: edgept.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    run = model._graph.run

    def counted(feeds: Any, fetches: Any) -> None:
        shapes.append(tuple(fetches["logits"].shape()))
        run(feeds, fetches)

    prompts = [model.load_prompt(make_prompt(seed=seed, classes=60)) for seed in range(8)]
    requests: list[Any] = [(photo(seed=index), prompts[index // 2]) for index in range(16)]
    expected = [model.classify_image(picture, prompt=prompt) for picture, prompt in requests]
    monkeypatch.setattr(sights, "_MAX_LOGITS", 6 * 21 * 180)  # 1 + 4 + 16 positions
    monkeypatch.setattr(model._graph, "run", counted)
    found = model.classify_image_batch(requests)
    for one, alone in zip(found, expected, strict=True):
        assert one.labels == alone.labels
        close(one.logits, alone.logits)
    assert shapes == [(6, 21, 180), (6, 21, 180), (4, 21, 120)]
    monkeypatch.setattr(sights, "_MAX_LOGITS", 1)
    shapes.clear()
    model.classify_image_batch(requests[:3])
    assert shapes == [(1, 21, 60)] * 3


def test_swapping_back_gives_the_same_bits(model: edgept.Model) -> None:
    one, two = (model.load_prompt(make_prompt(seed=seed)) for seed in (0, 1))
    first = model.classify_image(photo(), prompt=one).logits
    assert not np.array_equal(model.classify_image(photo(), prompt=two).logits, first)
    assert np.array_equal(model.classify_image(photo(), prompt=one).logits, first)


def test_each_task_has_its_calls(model: edgept.Model) -> None:
    calls: dict[str, tuple[Any, Any, type]] = {
        CLASSIFIES: (model.classify_image, model.classify_image_batch, ImageClassification),
        SEGMENTS: (model.segment, model.segment_batch, Segmentation),
        DETECTS: (model.detect, model.detect_batch, Detections),
    }
    for task, (one, many, kind) in calls.items():
        prompt = model.load_prompt(make_prompt(task))
        assert type(one(photo(), prompt=prompt)) is kind
        assert [type(item) for item in many([(photo(), prompt)] * 2)] == [kind, kind]
        assert type(model.see(photo(), prompt=prompt)) is kind
        for other, (refused, _, _) in calls.items():
            if other != task:
                with pytest.raises(UsageError, match=f"is for {task}, so model.{refused.__name__}"):
                    refused(photo(), prompt=prompt)
        with pytest.raises(UsageError, match="no head of its own"):
            one(photo())
    assert type(model.see(photo())) is Embedding
    assert len(np.array(model.embed_image_batch([(photo(), None)] * 3)).shape) == 2
    assert model.see_batch([]) == []


def test_a_models_own_head_is_used_where_a_prompt_has_none(
    image_bundle_of: Callable[..., Path],
) -> None:
    import torch

    labels = ("cat", "dog", "emu")
    bundle = image_bundle_of("vit", labels)
    model = edgept.load(bundle, threads=1)
    assert model.manifest.task == CLASSIFIES
    found = model.classify_image(photo())
    pixels = Preprocessor.from_bundle(bundle)(Image.fromarray(photo()))
    with torch.no_grad():
        expected = tiny_image_model("vit", labels)(torch.from_numpy(pixels)[None]).logits[0]
    close(found.logits, expected)
    assert found.labels == labels
    assert isinstance(model.see(photo()), ImageClassification)
    full = make_prompt()
    rows = {"prompt_embeds": full.tensors["prompt_embeds"]}
    steered = model.load_prompt(
        dataclasses.replace(full, tensors=rows, labels=labels, name="steered")
    )
    own = model.load_prompt(full)
    together = model.classify_image_batch([(photo(), p) for p in (steered, own, None)])
    assert [item.labels for item in together] == [labels, full.labels, labels]
    for item, prompt in zip(together, (steered, own, None), strict=True):
        close(item.logits, model.classify_image(photo(), prompt=prompt).logits)


def test_latency_says_where_the_time_went(model: edgept.Model, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(photo()).save(path)
    prompt = model.load_prompt(make_prompt())
    latency = model.classify_image(path, prompt=prompt).latency
    assert latency.preprocess_ms is not None
    assert latency.decode_ms is not None
    assert 0 < latency.decode_ms < latency.preprocess_ms
    parts = latency.swap_ms + latency.preprocess_ms + latency.prefill_ms
    assert 0 < parts <= latency.total_ms
    assert (latency.virtual_tokens, latency.input_tokens, latency.new_tokens) == (4, 16, 0)
    assert (latency.load_ms, latency.prompt_ms) == (model.load_ms, prompt.load_ms)
    assert (latency.ttft_ms, latency.tpot_ms, latency.tokenize_ms) == (None, None, 0.0)
    assert " · preprocess " in str(latency)
    assert "(4 virtual tokens + 16 patches)" in str(latency)


def test_pictures_come_as_files_bytes_arrays_and_pillows_own(
    model: edgept.Model, tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(photo()).save(path)
    expected = np.asarray(model.embed_image(photo()))
    for source in (path, str(path), path.read_bytes(), Image.fromarray(photo())):
        assert np.array_equal(model.embed_image(source), expected)


def test_calls_for_texts_are_refused(model: edgept.Model) -> None:
    for call, arguments in (
        ("generate", ("hello",)),
        ("stream", ("hello",)),
        ("generate_batch", ([("hello", None)],)),
        ("logits", ("hello",)),
        ("perplexity", ("hello there",)),
        ("classify", ("hello",)),
        ("tag", ("hello",)),
        ("answer", ("who", "me")),
        ("embed", ("hello",)),
        ("outputs", ("hello",)),
        ("chat", ([{"role": "user", "content": "hello"}],)),
    ):
        with pytest.raises(
            UsageError, match=f"model.{call} on a bundle for image-.*classify_image"
        ):
            getattr(model, call)(*arguments)


def test_calls_for_pictures_are_refused_on_a_model_of_text(
    bundle_of: Callable[..., Path],
) -> None:
    model = edgept.load(bundle_of("llama"), threads=1)
    for call in ("see", "classify_image", "segment", "detect", "embed_image"):
        with pytest.raises(UsageError, match=f"model.{call} on a bundle for text-generation"):
            getattr(model, call)(photo())
        with pytest.raises(UsageError, match=f"model.{call}_batch on a bundle"):
            getattr(model, f"{call}_batch")([(photo(), None)])


def test_what_is_no_request_is_refused(model: edgept.Model, bundle: Path) -> None:
    prompt = model.load_prompt(make_prompt())
    with pytest.raises(UsageError, match="pairs of a picture and a prompt"):
        model.see_batch([photo()])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="prompt is a Prompt, expected a loaded prompt"):
        model.see(photo(), prompt=make_prompt())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="was loaded on another model"):
        edgept.load(bundle, threads=1).see(photo(), prompt=prompt)
    for threshold in (-0.1, 1.1, float("nan"), "high"):
        with pytest.raises(UsageError, match="threshold is"):
            model.see(photo(), prompt=prompt, threshold=threshold)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"cannot read absent\.png"):
        model.see("absent.png", prompt=prompt)
    with pytest.raises(InvalidFileError, match="the picture is no picture"):
        model.see(b"text", prompt=prompt)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "text-generation"}, "this bundle runs image-classification"),
        ({"prompt_embeds": (2, 4, HIDDEN)}, "prompt_embeds has shape"),
        ({"prompt_embeds": (1, 4, HIDDEN + 1)}, "prompt_embeds has shape"),
        ({"prompt_embeds": (4, HIDDEN)}, "prompt_embeds has shape"),
        ({"head.weight": (3, HIDDEN + 1)}, "head.weight has shape"),
        ({"box.weight": (4, HIDDEN)}, "carries box.weight"),
        ({"prompt_kv": (3, 2, 4, 4, 8)}, "carries prompt_kv"),
        ({"task": DETECTS}, "lacks box.weight, box.bias"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(
    model: edgept.Model, changes: dict[str, Any], says: str
) -> None:
    prompt = make_prompt()
    tensors = dict(prompt.tensors)
    for name, shape in changes.items():
        if name != "task":
            tensors[name] = np.ones(shape, np.float32)
    task = changes.get("task", prompt.task)
    with pytest.raises(IncompatibleError, match=says):
        model.load_prompt(dataclasses.replace(prompt, tensors=tensors, task=task))


def test_a_prompt_without_effect_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = edgept.load(bundle, threads=1)
    zeros = {"prompt_embeds": np.zeros((1, 3, HIDDEN), np.float32)}
    full = make_prompt()
    model.load_prompt(dataclasses.replace(full, tensors={**full.tensors, **zeros}))
    run = model._graph.run
    monkeypatch.setattr(
        model._graph,
        "run",
        lambda feeds, fetches: run(
            {
                name: model._graph.value(np.zeros(value.shape(), np.float32))
                if name == "prompt_embeds"
                else value
                for name, value in feeds.items()
            },
            fetches,
        ),
    )
    with pytest.raises(IncompatibleError, match="changes nothing"):
        model.load_prompt(full)


def test_values_that_overflow_are_an_error(model: edgept.Model) -> None:
    prompt = make_prompt(tokens=0)
    huge = {**prompt.tensors, "head.weight": np.full((3, HIDDEN), 3e38, np.float32)}
    loaded = model.load_prompt(dataclasses.replace(prompt, tensors=huge, name="huge"))
    with pytest.raises(EdgeptError, match="not finite under prompt 'huge'"):
        model.classify_image(photo(), prompt=loaded)


def test_a_preprocessor_that_does_not_fit_the_graph_is_refused(
    bundle: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    path = copied / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "size": {"height": 48, "width": 32}}))
    with pytest.raises(
        EdgeptError, match=r"preprocessor_config.json.*not the file that was exported"
    ):
        edgept.load(copied)
    with pytest.raises(
        InvalidFileError, match="makes pictures of 32 x 48 pixels, its graph takes 32 x 32"
    ):
        edgept.load(copied, check_hashes=False)
    path.unlink()
    with pytest.raises(UsageError, match=r"preprocessor_config\.json"):
        edgept.load(copied, check_hashes=False)


def test_max_length_is_for_texts(bundle: Path) -> None:
    with pytest.raises(UsageError, match="max_length is for texts"):
        edgept.load(bundle, max_length=10)


def test_threads_may_share_a_model(model: edgept.Model) -> None:
    from concurrent.futures import ThreadPoolExecutor

    prompts = [model.load_prompt(make_prompt(seed=seed)) for seed in range(3)]
    expected = [model.classify_image(photo(), prompt=prompt).logits for prompt in prompts]

    def ask(turn: int) -> bool:
        found = model.classify_image(photo(), prompt=prompts[turn % 3]).logits
        return np.array_equal(found, expected[turn % 3])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(60)))


def test_pixels_take_the_class_of_upsampled_logits() -> None:
    import torch

    random = np.random.default_rng(0)
    for rows, columns, height, width, classes in (
        (4, 4, 4, 4, 3),
        (4, 4, 33, 57, 5),
        (14, 14, 7, 300, 2),
        (1, 1, 5, 5, 4),
        (3, 5, 2000, 2101, 2),
        (2, 2, 1, 1, 300),
    ):
        logits = random.normal(size=(rows, columns, classes)).astype(np.float32)
        planes = torch.from_numpy(logits).permute(2, 0, 1)[None]
        wide = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear")[0]
        found = upsampled_argmax(logits, height, width)
        clear = (wide.topk(2, 0).values.diff(dim=0)[0].abs() > 1e-5).numpy()
        assert np.array_equal(found[clear], wide.argmax(0).numpy()[clear])
        assert clear.mean() > 0.99


@pytest.mark.parametrize(("height", "width"), [(1, 100_000), (100_000, 1), (1500, 1500)])
def test_segmenting_takes_bounded_memory_whatever_the_sides(height: int, width: int) -> None:
    logits = np.random.default_rng(0).normal(size=(16, 16, 20)).astype(np.float32)
    tracemalloc.start()
    try:
        found = upsampled_argmax(logits, height, width)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - found.nbytes < 32 << 20


def test_pixels_beyond_the_last_whole_patch_move_no_others() -> None:
    import torch

    image = ImageGeometry(num_layers=1, height=38, width=45, patch_size=8)  # 4 x 5 patches, 32 x 40
    logits = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    planes = torch.from_numpy(logits).permute(2, 0, 1)[None]
    covered = torch.nn.functional.interpolate(planes, (32, 40), mode="bilinear")
    expected = torch.nn.functional.pad(covered, (0, 5, 0, 6), mode="replicate")[0].argmax(0)
    values = {"logits": np.concatenate([logits[0, :1], logits.reshape(20, 3)])}
    for size in ((45, 38), (45, 20), (9, 38)):  # the last two at the top left of the square
        seen = Seen(values, size, (45, 38), ("a", "b", "c"), None, 0, latency=None)  # type: ignore[arg-type]
        found = to_segmentation(seen, image)
        part = expected[: size[1], : size[0]]
        assert np.array_equal(found.classes, part.numpy())
        for index, share in enumerate(found.shares):
            assert share == pytest.approx((part == index).float().mean().item())
