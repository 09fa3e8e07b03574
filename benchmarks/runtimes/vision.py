"""A vision transformer of a real shape at 224 pixels, as edgept exports it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.files import Files
from benchmarks.runtimes import Answer

__all__ = ["SIDE", "VisionSide", "make_vision", "pictures", "prepare", "start"]

SIDE = 224
# hidden size and heads of 12 layers, by the folder's name
_SHAPES = {"vit-tiny": (192, 3), "vit-base": (768, 12)}
_PRECISIONS = ("fp32", "int8-dynamic")
_CLASSES = 5


def prepare(files: Files) -> None:
    """Model and bundles."""
    from edgept.export import export_model

    make_vision(files.model, files.shape)
    for precision in _PRECISIONS:
        bundle = files.folder / f"bundle-{precision}"
        if not bundle.is_dir():
            export_model(str(files.model), bundle, precision=precision, verify=False)


def start(files: Files, threads: int, kind: str) -> Any:
    return _Edgept(files, threads, kind)


def make_vision(folder: Path, shape: str) -> None:
    """Save a random ViT of a shape, once."""
    if (folder / "config.json").is_file():
        return
    import torch
    import transformers

    hidden, heads = _SHAPES[shape]
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=hidden, num_attention_heads=heads, intermediate_size=4 * hidden, image_size=SIDE
    )
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


def pictures(count: int, seed: int) -> npt.NDArray[np.float32]:
    """(count, 3, 224, 224) that nobody took."""
    return np.random.default_rng(seed).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)


class VisionSide:
    """What all kinds have."""

    def ask(self, ids: Sequence[int], task: int | None, new_tokens: int) -> Answer:
        """One picture, to see that the side lives."""
        del ids, task, new_tokens
        return Answer(0.0, self.run(1, 0, 0), 0.0, [])

    def run(self, count: int, virtual_tokens: int, seed: int) -> float:
        """Milliseconds for so many pictures, under a deep prompt of so many virtual tokens."""
        raise NotImplementedError


class _Edgept(VisionSide):
    """Pixel values to all that the graph gives of logits; a head of five classes, with rows or without."""

    def __init__(self, files: Files, threads: int, kind: str) -> None:
        import edgept

        begin = time.perf_counter()
        self._model = edgept.load(files.folder / f"bundle-{kind}", threads=threads)
        self.load_ms = (time.perf_counter() - begin) * 1e3
        self.weight_bytes = (files.folder / f"bundle-{kind}" / "model.onnx.data").stat().st_size
        self._prompts: dict[int, Any] = {}

    def run(self, count: int, virtual_tokens: int, seed: int) -> float:
        """Milliseconds; `virtual_tokens` are in every layer."""
        requests = [
            (pictures(1, seed + row)[0], self._prompt(virtual_tokens)) for row in range(count)
        ]
        pixels = np.stack([picture for picture, _ in requests])
        runner: Any = self._model._runner
        sights = [prompt for _, prompt in requests]
        begin = time.perf_counter()
        runner.outputs(pixels, sights, names=("logits",))
        return (time.perf_counter() - begin) * 1e3

    def see(self, seed: int) -> float:
        """Milliseconds of the public call on an RGB picture of 640 x 480 in memory: preprocessing included."""
        picture = np.random.default_rng(seed).integers(0, 256, (480, 640, 3), np.uint8)
        prompt = self._prompt(10)
        begin = time.perf_counter()
        self._model.classify_image(picture, prompt=prompt)
        return (time.perf_counter() - begin) * 1e3

    def _prompt(self, virtual_tokens: int) -> Any:
        from edgept import Prompt

        if virtual_tokens not in self._prompts:
            manifest = self._model.manifest
            image, random = manifest.image, np.random.default_rng(virtual_tokens)
            if image is None:
                raise AssertionError("a vision transformer's bundle")
            shapes: dict[str, tuple[int, ...]] = {"head.weight": (_CLASSES, manifest.hidden_size)}
            if virtual_tokens:
                shapes["prompt_embeds"] = (image.num_layers, virtual_tokens, manifest.hidden_size)
            tensors = {
                name: random.normal(0, 0.1, shape).astype(np.float32)
                for name, shape in shapes.items()
            }
            made = Prompt(tensors, "rows", task="image-classification")
            self._prompts[virtual_tokens] = self._model.load_prompt(made)
        return self._prompts[virtual_tokens]
