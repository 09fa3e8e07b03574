"""Image models in C against the Python runtime: the same bits, the same prompts refused."""

import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgept
from edgept.bundle import read_manifest
from edgept.errors import EdgeptError, InvalidFileError
from edgept.latency import Latency
from edgept.manifest import ImageGeometry, Manifest
from edgept.prompt import check_fits
from edgept.prompt_file import parse_prompt, write_prompt
from edgept.runtime.c_header import CClassification, CDetections, CSegmentation, CSight, CText
from edgept.runtime.detector import to_detections
from edgept.runtime.image_classifier import to_image_classification
from edgept.runtime.segmenter import to_segmentation
from edgept.runtime.vision import Seen
from tests.c_library import BUILD, CModel, CStatusError, make
from tests.image_models import HIDDEN, LAYERS, PATCH, SIDE, save_image_model
from tests.malformed import corpus, encode
from tests.test_c_runtime import set_metadata
from tests.test_seeing import CLASSIFIES, DETECTS, SEGMENTS, make_prompt

OWN = ("cat", "dog", "emu")
GEOMETRY = ImageGeometry(LAYERS, SIDE, SIDE, PATCH)
PATCHES = GEOMETRY.num_patches
PIXELS = np.random.default_rng(0).normal(size=(3, SIDE, SIDE)).astype(np.float32)
TASKS = {CLASSIFIES: 0, SEGMENTS: 1, DETECTS: 2}


def prompts_for(manifest: Manifest) -> list[edgept.Prompt]:
    """Shallow, deep and a head alone, of every task that the bundle has."""
    assert manifest.image is not None
    assert manifest.head_size is not None
    found = []
    for task, (tokens, deep) in itertools.product(
        manifest.prompt_tasks, [(1, False), (5, False), (4, True), (0, False)]
    ):
        finds_by_tokens = task == DETECTS and manifest.image.detects == "tokens"
        if finds_by_tokens and not tokens:
            continue
        prompt = make_prompt(task, tokens=tokens, deep=deep, width=manifest.head_size)
        tensors = dict(prompt.tensors)
        for name in ("box.weight", "box.bias"):
            tensors.pop(name, None)
        if finds_by_tokens:
            random = np.random.default_rng(tokens)
            for name, shape in (("box.weight", (4, manifest.head_size)), ("box.bias", (4,))):
                tensors[name] = random.normal(size=shape).astype(np.float32)
        found.append(
            edgept.Prompt(
                tensors,
                name=f"{task} {tokens} {deep}",
                task=task,
                fingerprint=manifest.fingerprint,
                labels=prompt.labels,
            )
        )
    return found


class Both:
    """A bundle in both engines, and prompts in both."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.python = edgept.load(bundle, threads=1, providers=["CPUExecutionProvider"])
        self.c = CModel(bundle)
        self.folder = folder

    def load(self, prompt: edgept.Prompt) -> tuple[edgept.LoadedPrompt, ctypes.c_void_p]:
        path = self.folder / "prompt.safetensors"
        write_prompt(prompt, path, overwrite=True)
        return self.python.load_prompt(path), self.c.load_prompt(path)

    def outputs(self, prompt: edgept.LoadedPrompt | None) -> dict[str, npt.NDArray[np.float32]]:
        found = self.python.image_outputs(PIXELS[None], [prompt])
        return {name: array[0] for name, array in found.items()}


def seen(values: dict[str, Any], labels: tuple[str, ...], tokens: int, side: int) -> Seen:
    """What Python's tasks read, of a picture that is `side` pixels high and wide."""
    latency = Latency(0, 0, 0, 0, 0, None, None, 0, tokens, 0, 0)
    return Seen(values, (side, side), (side, side), labels, None, tokens, latency)


@pytest.mark.parametrize(
    ("kind", "labels"), [("vit", ()), ("vit", OWN), ("clip-text", ()), ("owlv2", ())]
)
def test_outputs_are_bit_identical_and_read_as_in_python(
    kind: str, labels: tuple[str, ...], image_bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    compare(Both(image_bundle_of(kind, labels), tmp_path))


def test_float16(tmp_path: Path) -> None:
    """A GPU's bundle, on the CPU: pixels and prompts are narrowed, outputs widened in place."""
    from edgept.export import export_model

    save_image_model("vit", tmp_path / "model")
    bundle = tmp_path / "bundle"
    export_model(str(tmp_path / "model"), bundle, precision="fp16", target="cuda", verify=False)
    compare(Both(bundle, tmp_path))


def compare(both: "Both") -> None:
    """Every prompt of a bundle in both."""
    for prompt in prompts_for(both.python.manifest):
        in_python, in_c = both.load(prompt)
        expected, tokens = both.outputs(in_python), prompt.num_virtual_tokens
        assert expected["logits"].shape == (1 + tokens + PATCHES, 3)
        sight, found = both.c.see(PIXELS, in_c, features=True)
        wanted = {"logits", "features"} | ({"boxes"} if prompt.task == DETECTS else set())
        assert {*found} == wanted
        for name, values in found.items():
            np.testing.assert_array_equal(values, expected[name], f"{prompt.name}: {name}")
        assert {*both.c.see(PIXELS, in_c)[1]} == wanted - {"features"}
        assert sight.task == TASKS[prompt.task]
        assert (sight.positions, sight.classes) == expected["logits"].shape
        latency = sight.latency
        assert (latency.virtual_tokens, latency.input_tokens) == (tokens, PATCHES)
        assert 0 < latency.prefill_ms <= latency.total_ms
        check_task(both.c, sight, prompt, expected)
    both.c.close()


def check_task(c: CModel, sight: CSight, prompt: edgept.Prompt, values: dict[str, Any]) -> None:
    """Classes, segments or detections are those that Python makes of the same outputs."""
    tokens = prompt.num_virtual_tokens
    if prompt.task == CLASSIFIES:
        found = CClassification()
        c.call("sight_classify", c.session, ctypes.byref(sight), found)
        expected = to_image_classification(seen(values, prompt.labels, tokens, SIDE))
        assert (sight.first, sight.count) == (0, 1)
        assert found.label.decode() == expected.label == prompt.labels[found.best]
        np.testing.assert_array_equal(found.logits[:3], expected.logits)
        np.testing.assert_allclose(found.probabilities[:3], expected.probabilities, rtol=1e-12)
    elif prompt.task == SEGMENTS:
        segments = CSegmentation()
        c.call("sight_segment", c.session, ctypes.byref(sight), segments)
        # upsampled to one pixel a patch, which changes nothing
        classes = to_segmentation(seen(values, prompt.labels, tokens, 4), GEOMETRY).classes
        assert (sight.first, sight.count) == (1 + tokens, PATCHES)
        assert (segments.rows, segments.columns) == classes.shape
        assert segments.classes[:PATCHES] == classes.ravel().tolist()
        assert len({*segments.classes[:PATCHES]}) > 1
    else:
        by = "patches" if c.image.patches_detect else "tokens"
        first, count = (1 + tokens, PATCHES) if by == "patches" else (1, tokens)
        assert (sight.first, sight.count) == (first, count)
        whole = to_detections(seen(values, prompt.labels, tokens, 1), 0, by).found
        for threshold in (0.0, whole[len(whole) // 2].score - 1e-9, 1.0):
            things = CDetections()
            c.call(
                "sight_detect", c.session, ctypes.byref(sight), ctypes.c_double(threshold), things
            )
            expected_things = [item for item in whole if item.score >= threshold]
            assert things.count == len(expected_things)
            for item, wanted in zip(things.found[: things.count], expected_things, strict=True):
                assert item.label.decode() == wanted.label == prompt.labels[item.index]
                assert item.score == pytest.approx(wanted.score, rel=1e-12)
                np.testing.assert_allclose(item.box, wanted.box, rtol=1e-12)


def test_the_plain_model(image_bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    """It classifies with a head of its own, and gives features without one."""
    for labels in ((), OWN):
        both = Both(image_bundle_of("vit", labels), tmp_path)
        expected = both.outputs(None)
        sight, found = both.c.see(PIXELS, features=bool(labels))
        assert (sight.task, sight.first, sight.count) == (0 if labels else 3, 0, 1)
        assert {*found} == ({"logits", "features"} if labels else {"features"})
        for name, values in found.items():
            np.testing.assert_array_equal(values, expected[name])
        if labels:
            classes = CClassification()
            both.c.call("sight_classify", both.c.session, ctypes.byref(sight), classes)
            assert classes.label.decode() == OWN[int(expected["logits"][0].argmax())]
            rows = np.random.default_rng(0).normal(size=(1, 4, HIDDEN)).astype(np.float32)
            manifest = both.python.manifest
            steered = edgept.Prompt(
                {"prompt_embeds": rows},
                task=CLASSIFIES,
                fingerprint=manifest.fingerprint,
                labels=OWN,
            )
            in_python, in_c = both.load(steered)
            _, under = both.c.see(PIXELS, in_c)
            np.testing.assert_array_equal(under["logits"], both.outputs(in_python)["logits"])
            assert (under["logits"][0] != found["logits"][0]).all()
        both.c.close()


def test_what_the_bundle_says(
    image_bundle_of: Callable[..., Path], bundle_of: Callable[..., Path]
) -> None:
    for kind in ("vit", "owlv2"):
        c = CModel(image_bundle_of(kind))
        image = c.image
        assert (image.height, image.width, image.patch_size) == (SIDE, SIDE, 8)
        assert (image.rows, image.columns, image.layers) == (4, 4, LAYERS)
        assert image.patches_detect == (kind == "owlv2")
        assert c.vocab_size == 0
        c.close()
    c = CModel(bundle_of("llama"))
    assert not c.library.edgept_bundle_image(c.bundle)
    c.close()


# ---- prompts ----

HEADS: list[dict[str, tuple[int, ...]]] = [
    {},
    {"head.weight": (3, 0), "head.bias": (3,)},
    {"head.weight": (1, 0)},
    {"head.weight": (3, 1)},
    {"head.bias": (3,)},
    {"head.weight": (3, 0), "head.dense.weight": (0, 0), "head.dense.bias": (0,)},
]
LABELS = (None, '["cat","dog","emu"]', '["a","b","c"]', '["one"]')
BOXES: list[dict[str, tuple[int, ...]]] = [
    {},
    {"box.weight": (4, 0), "box.bias": (4,)},
    {"box.weight": (4, 1), "box.bias": (4,)},
    {"box.weight": (4, 0)},
]


def tables(manifest: Manifest) -> list[tuple[int, ...] | None]:
    """Shapes of prompt_embeds: none, shallow, deep, the longest, and those that do not fit."""
    most = manifest.max_virtual_tokens
    fitting = [None, (1, 2, HIDDEN), (LAYERS, 2, HIDDEN), (1, most, HIDDEN)]
    wrong = [(2, 2, HIDDEN), (1, 2, HIDDEN + 1), (2, HIDDEN), (LAYERS, HIDDEN)]
    return [*fitting, *wrong, (1, most + 1, HIDDEN)]


def prompt_bytes(
    manifest: Manifest, task: str, shapes: dict[str, tuple[int, ...]], labels: str | None
) -> bytes:
    """A file of ones and twos, whatever its shapes; head sizes are counted from the bundle's."""
    head_size, end = manifest.head_size or 0, 0
    metadata = {
        "format": "edgept-prompt",
        "format_version": "1",
        "fingerprint": manifest.fingerprint,
        "method": "vpt_shallow",
        "task": task,
        "name": "p",
    }
    fields: dict[str, Any] = {"__metadata__": metadata}
    if labels is not None:
        metadata["labels"] = labels
    values = []
    for name, shape in shapes.items():
        if name.startswith(("head.", "box.")):
            free = 0 if name.startswith("head.dense.") else 1
            shape = (*shape[:free], *(head_size + size for size in shape[free:]))
        size = 4 * int(np.prod(shape))
        fields[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
        values.append((np.arange(size // 4) % 2 + 1).astype(np.float32).tobytes())
    return encode(fields, b"".join(values))


def outcome_in_python(data: bytes, manifest: Manifest) -> str:
    try:
        check_fits(parse_prompt(data), manifest)
    except InvalidFileError as error:
        return error.reason
    except EdgeptError as error:
        return f"status {error.exit_code}"
    return "fits"


def outcome_in_c(c: CModel, data: bytes) -> str:
    file, prompt = ctypes.c_void_p(), ctypes.c_void_p()
    try:
        c.call("prompt_file_parse", data, len(data), 0, file)
        c.call("prompt_bind", c.bundle, file, prompt)
    except CStatusError as error:
        return error.reason or f"status {error.status}"
    finally:
        c.library.edgept_prompt_free(prompt)
        c.library.edgept_prompt_file_free(file)
    return "fits"


@pytest.mark.parametrize(
    ("kind", "labels"), [("vit", ()), ("vit", OWN), ("clip-text", ()), ("owlv2", ())]
)
def test_the_same_prompts_fit(
    kind: str, labels: tuple[str, ...], image_bundle_of: Callable[..., Path]
) -> None:
    """Every combination of tensors, shapes, tasks and labels, and every malformed file."""
    bundle = image_bundle_of(kind, labels)
    manifest, c = read_manifest(bundle), CModel(bundle)
    outcomes = set()
    for task, table, head, box, names in itertools.product(
        (*TASKS, "text-classification", manifest.task), tables(manifest), HEADS, BOXES, LABELS
    ):
        shapes = {**({} if table is None else {"prompt_embeds": table}), **head, **box}
        data = prompt_bytes(manifest, task, shapes, names)
        outcome = outcome_in_python(data, manifest)
        assert outcome_in_c(c, data) == outcome, (task, shapes, names)
        outcomes.add((task, outcome))
    for task in manifest.prompt_tasks:
        assert {(task, "fits"), (task, "status 4")} <= outcomes
    with_kv = prompt_bytes(manifest, CLASSIFIES, {"prompt_kv": (LAYERS, 2, 4, 4, 8)}, None)
    assert outcome_in_c(c, with_kv) == outcome_in_python(with_kv, manifest) == "status 4"
    for name, (data, reason) in corpus().items():
        assert outcome_in_c(c, data) == reason == outcome_in_python(data, manifest), name
    c.close()


def test_why_a_prompt_does_not_fit(image_bundle_of: Callable[..., Path]) -> None:
    bundle = image_bundle_of("vit")
    manifest, c = read_manifest(bundle), CModel(bundle)
    head: dict[str, tuple[int, ...]] = {"head.weight": (3, 0)}
    rows: dict[str, tuple[int, ...]] = {"prompt_embeds": (1, 2, HIDDEN)}
    cases: list[tuple[str, dict[str, tuple[int, ...]], str]] = [
        ("text-generation", head, "is for the task text-generation, this bundle was exported for"),
        (CLASSIFIES, rows, "has no head"),
        (SEGMENTS, {**head, "prompt_embeds": (2, 2, HIDDEN)}, "no prompt_embeds of this shape"),
        (CLASSIFIES, {**head, "box.weight": (4, 0), "box.bias": (4,)}, "takes no box.weight"),
        (DETECTS, {**head, **rows}, "to detect it needs prompt_embeds, head.weight and box"),
    ]
    for task, shapes, says in cases:
        with pytest.raises(CStatusError, match=says):
            bind(c, prompt_bytes(manifest, task, shapes, None))
    c.close()


def bind(c: CModel, data: bytes) -> None:
    file, prompt = ctypes.c_void_p(), ctypes.c_void_p()
    c.call("prompt_file_parse", data, len(data), 0, file)
    try:
        c.call("prompt_bind", c.bundle, file, prompt)
    finally:
        c.library.edgept_prompt_file_free(file)
    c.prompts.append(prompt)


def test_a_prompt_that_the_graph_ignores_is_refused(
    image_bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    import onnx

    bundle = Path(shutil.copytree(image_bundle_of("vit"), tmp_path / "bundle"))
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == "prompt_embeds":
                node.input[index] = "silenced"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    silent = onnx.helper.make_node("Mul", ["prompt_embeds", "nothing"], ["silenced"])
    model.graph.node.insert(0, silent)
    onnx.save(model, bundle / "model.onnx")
    manifest, c = read_manifest(bundle), CModel(bundle)
    for table in ((1, 2, HIDDEN), (LAYERS, 2, HIDDEN)):
        shapes = {"prompt_embeds": table, "head.weight": (3, 0)}
        with pytest.raises(CStatusError, match="changes nothing") as caught:
            bind(c, prompt_bytes(manifest, CLASSIFIES, shapes, None))
        assert caught.value.status == 4
    bind(c, prompt_bytes(manifest, CLASSIFIES, {"head.weight": (3, 0)}, None))  # has no rows
    c.close()


# ---- what is refused ----


def test_text_on_an_image_bundle_and_the_other_way_round(
    image_bundle_of: Callable[..., Path], bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    c = CModel(image_bundle_of("vit"))
    calls: list[Callable[[], Any]] = [
        lambda: c.generate([5]),
        lambda: c.prefill([5]),
        lambda: c.outputs([5]),
        lambda: c.classify([5]),
        lambda: c.embed([5]),
    ]
    for call in calls:
        with pytest.raises(
            CStatusError, match=r"image-feature-extraction.*no text|on a bundle for"
        ) as caught:
            call()
        assert caught.value.status == 2
    with pytest.raises(CStatusError, match="no sequence to go on with"):
        c.step(5)
    with pytest.raises(CStatusError, match="takes pictures and no text"):
        c.call("session_encode", c.session, b"a text", None, 1, CText())
    c.close()
    with pytest.raises(CStatusError, match="max_length is for texts"):
        CModel(image_bundle_of("vit"), max_length=10)
    model = edgept.load(image_bundle_of("vit"), engine="c")
    for name in ("classify", "embed", "outputs", "generate"):
        with pytest.raises(edgept.UsageError, match="on a bundle for image-feature-extraction"):
            getattr(model, name)("a text")
    for kind, task in (("llama", None), ("bert", "text-classification")):
        c = CModel(bundle_of(kind, "fp32", task))
        with pytest.raises(CStatusError, match="takes text and no picture") as caught:
            c.see(PIXELS)
        assert caught.value.status == 2
        c.close()


def test_what_cannot_be_seen(image_bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    both, other = Both(image_bundle_of("vit"), tmp_path), Both(image_bundle_of("owlv2"), tmp_path)
    prompts = {prompt.task: both.load(prompt)[1] for prompt in prompts_for(both.python.manifest)}
    with pytest.raises(CStatusError, match="another bundle"):
        other.c.see(PIXELS, prompts[CLASSIFIES])
    with pytest.raises(CStatusError, match="no head of its own"):
        other.c.see(PIXELS)
    for task, prompt in [*prompts.items(), ("features alone", None)]:
        sight, _ = both.c.see(PIXELS, prompt)
        calls: dict[str, tuple[str, tuple[Any, ...]]] = {
            CLASSIFIES: ("sight_classify", (CClassification(),)),
            SEGMENTS: ("sight_segment", (CSegmentation(),)),
            DETECTS: ("sight_detect", (ctypes.c_double(0.5), CDetections())),
        }
        for right, (name, arguments) in calls.items():
            if right != task:
                with pytest.raises(CStatusError, match=f"is for {task}.*, so edgept_{name} has"):
                    both.c.call(name, both.c.session, ctypes.byref(sight), *arguments)
    sight, _ = both.c.see(PIXELS, prompts[DETECTS])
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(CStatusError, match="threshold is"):
            both.c.call(
                *("sight_detect", both.c.session, ctypes.byref(sight)),
                *(ctypes.c_double(threshold), CDetections()),
            )
    with pytest.raises(CStatusError, match="not finite"):
        both.c.see(np.full_like(PIXELS, np.nan), prompts[CLASSIFIES])
    little = CModel(image_bundle_of("vit"), session_bytes=1000)
    with pytest.raises(CStatusError, match="limit of 1000 bytes") as caught:
        little.see(PIXELS)
    assert caught.value.status == 6
    for model in (both.c, other.c, little):
        model.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image.detects", "eyes"),
        ("image.patch_size", "33"),
        ("image.patch_size", "0"),
        ("image.height", "2147483647"),
        ("image.num_layers", "many"),
        ("vocab_size", "-1"),
        ("head_size", "0"),
    ],
)
def test_what_a_graph_may_not_say_of_itself(
    name: str, value: str, image_bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(image_bundle_of("vit"), tmp_path / "bundle"))
    set_metadata(bundle / "model.onnx", {f"edgept.{name}": value})
    with pytest.raises(CStatusError, match=f"edgept.{name} is") as caught:
        CModel(bundle)
    assert caught.value.reason == "manifest-malformed"


def test_sizes_that_are_not_the_graphs(
    image_bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(image_bundle_of("vit"), tmp_path / "bundle"))
    set_metadata(bundle / "model.onnx", {"edgept.image.patch_size": "4"})
    c = CModel(bundle)
    with pytest.raises(CStatusError, match="onnxruntime"):
        c.see(PIXELS)
    c.close()


# ---- memory, threads, the command line ----


def test_memory_and_threads(image_bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    """No allocation a picture; each one failed in turn, nothing lost; four threads, no mixed output.

    `make -C runtime/c test sanitize` does it on a ViT, with sanitizers too.
    """
    bundle = image_bundle_of("owlv2")
    paths = []
    for number, prompt in enumerate(prompts_for(read_manifest(bundle))):
        paths.append(str(tmp_path / f"{number}.safetensors"))
        write_prompt(prompt, paths[-1])
    make("build/check")
    for what, says in (
        ("allocations", "0 allocations in 3 requests after warm-up"),
        ("threads", "0 mixed outputs"),
    ):
        done = subprocess.run(
            [BUILD / "check", what, str(bundle), *paths],
            capture_output=True,
            text=True,
            env={**os.environ, "SWAPS": "40"},
        )
        assert done.returncode == 0, done.stderr
        assert says in done.stdout


def test_command_line(image_bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    make("all")
    both = Both(image_bundle_of("vit"), tmp_path)
    pixels = tmp_path / "pixels.f32"
    PIXELS.tofile(pixels)
    command: list[Any] = [BUILD / "edgept-run", "-b", both.python.bundle, "--threads", "1"]

    def run(*arguments: Any) -> tuple[int, str]:
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        return done.returncode, done.stdout or done.stderr

    for prompt in prompts_for(both.python.manifest):
        in_python, _ = both.load(prompt)
        code, shown = run("--prompt", tmp_path / "prompt.safetensors", "--pixels", pixels)
        assert code == 0, shown
        values, tokens = both.outputs(in_python), prompt.num_virtual_tokens
        lines = shown.splitlines()
        if prompt.task == CLASSIFIES:
            best = to_image_classification(seen(values, prompt.labels, tokens, SIDE))
            assert f"* {best.probability:.4f} {best.label}" in lines
        elif prompt.task == SEGMENTS:
            classes = to_segmentation(seen(values, prompt.labels, tokens, 4), GEOMETRY).classes
            expected = [" ".join(prompt.labels[index] for index in row) for row in classes]
            assert lines == expected
        else:
            things = to_detections(seen(values, prompt.labels, tokens, 1), 0.5, "tokens").found
            assert lines == [
                f"{item.score:.4f} {item.label} " + " ".join(f"{side:.4f}" for side in item.box)
                for item in things
            ]
    code, shown = run("--pixels", pixels)
    vector = np.array(shown.split(), np.float32)
    np.testing.assert_allclose(vector, both.outputs(None)["features"][0], rtol=1e-6)
    short = tmp_path / "short.f32"
    PIXELS[:2].tofile(short)
    for arguments, says in (
        (("a text",), "takes pictures and no text"),
        (("--ids", "5"), "takes pictures and no text"),
        (("--pixels", short), "3 x 32 x 32 float32"),
        (("--pixels", tmp_path / "absent"), "cannot read"),
        (("--pixels", pixels, "a text"), "both"),
        (
            ("--pixels", pixels, "--prompt", tmp_path / "prompt.safetensors", "--threshold", "2"),
            "threshold",
        ),
    ):
        code, shown = run(*arguments)
        assert code == 2, shown
        assert says in shown
    both.c.close()
