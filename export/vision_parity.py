"""Parity of an image model's bundle: random pictures, random prompts and heads, alone and in batches.

The reference is `PromptedVision` over transformers' own layers, and, without a prompt, the transformers
model as it is.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from edgept.export.prompted_vision import PromptedVision
from edgept.export.tally import Tally
from edgept.prompt import Prompt
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model

__all__ = ["compare_pictures", "measure_vision", "plain_logits"]

Array: TypeAlias = npt.NDArray[np.float32]

_PICTURES = 4
# Layers with rows of their own (0 is a head alone, 1 shallow, 2 deep), virtual tokens, and classes.
_PROMPTS = ((0, 0, 2), (1, 1, 5), (1, 10, 77), (2, 4, 3), (2, 20, 5))


def measure_vision(reference: Any, model: Model, tally: Tally, random: np.random.Generator) -> None:
    """Compare under random prompts for every task that the bundle runs, into a tally."""
    prompts = [
        model.load_prompt(_random_prompt(model, task, *sizes, random))
        for task in model.manifest.prompt_tasks
        for sizes in _PROMPTS
        if task != "object-detection" or sizes[0] or _boxes_are_own(model)
    ]
    if model.manifest.labels:
        _compare_own_head(reference, model, tally, random)
    compare_pictures(reference, model, prompts, tally, random)


def compare_pictures(
    reference: Any,
    model: Model,
    prompts: Sequence[LoadedPrompt],
    tally: Tally,
    random: np.random.Generator,
) -> None:
    """Compare random pictures under each prompt: logits, boxes and features, alone and in a batch."""
    prompted = PromptedVision(reference)
    for prompt in prompts:
        pixels = _pictures(model, random)
        with torch.no_grad():
            arrays = prompted(torch.from_numpy(pixels), *_tensors(prompted, prompt))
        expected = dict(zip(("logits", "boxes", "features"), arrays, strict=True))
        if "boxes" not in _read(prompt, model):
            del expected["boxes"]
        batch = model.image_outputs(pixels, [prompt] * len(pixels))
        alone = [model.image_outputs(pixels[[row]], [prompt]) for row in range(len(pixels))]
        for name, wanted in expected.items():
            for row, picture in enumerate(wanted.numpy()):
                for found in (batch[name][row], alone[row][name][0]):
                    tally.add(found, picture, ranks=name == "logits")


def plain_logits(reference: Any, pixels: Array) -> Array:
    """Logits of transformers' own classifier, (pictures, classes)."""
    with torch.no_grad():
        logits: Array = reference(pixel_values=torch.from_numpy(pixels)).logits.numpy()
    return logits


def _compare_own_head(
    reference: Any, model: Model, tally: Tally, random: np.random.Generator
) -> None:
    pixels = _pictures(model, random)
    found = model.image_outputs(pixels, [None] * len(pixels))["logits"][:, 0]
    for row, wanted in zip(found, plain_logits(reference, pixels), strict=True):
        tally.add(row[None], wanted[None])


def _boxes_are_own(model: Model) -> bool:
    return model.manifest.image is not None and model.manifest.image.detects == "patches"


def _read(prompt: LoadedPrompt, model: Model) -> tuple[str, ...]:
    """Outputs that mean something under a prompt."""
    has_boxes = _boxes_are_own(model) or "box.weight" in prompt.prompt.tensors
    return ("logits", "features", "boxes") if has_boxes else ("logits", "features")


def _pictures(model: Model, random: np.random.Generator) -> Array:
    image = model.manifest.image
    if image is None:
        raise AssertionError("a bundle of an image model says what it takes")
    return random.normal(size=(_PICTURES, 3, image.height, image.width)).astype(np.float32)


def _tensors(prompted: PromptedVision, prompt: LoadedPrompt) -> list[torch.Tensor]:
    """What `PromptedVision` takes behind the picture."""
    tensors = prompt.prompt.tensors
    width = prompted.head_size
    rows = tensors.get("prompt_embeds", np.zeros((1, 0, prompted.hidden_size), np.float32))
    weight = tensors["head.weight"]
    given = (
        rows[:, None],  # (layers or 1, 1, virtual tokens, hidden)
        weight,
        tensors.get("head.bias", np.zeros(len(weight), np.float32)),
        tensors.get("box.weight", np.zeros((4, width), np.float32)),
        tensors.get("box.bias", np.zeros(4, np.float32)),
    )
    return [torch.from_numpy(np.array(array, np.float32)) for array in given]


def _random_prompt(
    model: Model, task: str, layers: int, count: int, classes: int, random: np.random.Generator
) -> Prompt:
    manifest = model.manifest
    image, width = manifest.image, manifest.head_size
    if image is None or width is None:
        raise AssertionError("a bundle of an image model has a geometry and a head")
    shapes: dict[str, tuple[int, ...]] = {"head.weight": (classes, width), "head.bias": (classes,)}
    if layers:
        depth = 1 if layers == 1 else image.num_layers
        shapes["prompt_embeds"] = (
            depth,
            min(count, manifest.max_virtual_tokens),
            manifest.hidden_size,
        )
    if task == "object-detection" and not _boxes_are_own(model):
        shapes |= {"box.weight": (4, width), "box.bias": (4,)}
    tensors = {
        # of the size of features' products, so that the sigmoid of a box is not 0 or 1 throughout
        name: (random.normal(size=shape) * (shape[-1] ** -0.5 if "weight" in name else 1)).astype(
            np.float32
        )
        for name, shape in shapes.items()
    }
    return Prompt(tensors=tensors, task=task, method="vpt_deep" if layers == 2 else "vpt_shallow")
