"""Image models: how near a bundle comes to transformers' own forward with the prompt's rows put in by hooks.

The reference shares no code with what is exported: hooks on the transformers model's layers put the rows
in, its own forward runs, and its own outputs are read.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from benchmarks.claim import table
from benchmarks.exactness import TOLERANCE
from edgept.manifest import IMAGE_TASKS
from edgept.prompt import Prompt
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model, load

__all__ = ["ImageCell", "image_section", "measure_images"]

Array: TypeAlias = npt.NDArray[np.float32]

# What tests/image_models.py calls them, and where the layers are in the transformers model.
_BACKBONES = {
    "ViT": ("vit", "layers"),
    "DeiT": ("deit", "layers"),
    "BEiT": ("beit", "layers"),
    "DINOv2": ("dinov2", "encoder.layer"),
    "DINOv2 with registers": ("dinov2-registers", "encoder.layer"),
    "CLIP": ("clip-text", "vision_model.encoder.layers"),
    "SigLIP": ("siglip-text", "vision_model.encoder.layers"),
    "OWL-ViT": ("owlvit", "owlvit.vision_model.encoder.layers"),
    "OWLv2": ("owlv2", "owlv2.vision_model.encoder.layers"),
}
_METHODS = {"Head alone": (0, 0), "VPT-shallow": (1, 7), "VPT-deep": (-1, 7)}
_CLASSES, _PICTURES, _SEED = 5, 3, 3


@dataclass(frozen=True)
class ImageCell:
    """What was found of one combination.

    Attributes:
        family: its title.
        task: of the prompt.
        method: a key of _METHODS.
        max_rel: largest difference of a logit or box to the reference, over the reference's largest;
            None where a task needs virtual tokens and the method has none.
        effect: as max_rel, to the bundle under a prompt of zeros; None without virtual tokens.
    """

    family: str
    task: str
    method: str
    max_rel: float | None
    effect: float | None = None


def measure_images(folder: Path) -> list[ImageCell]:
    """Every backbone, task and method; the folder is for models and bundles, and replaced."""
    from edgept.export import export_model
    from tests.image_models import save_image_model

    shutil.rmtree(folder, ignore_errors=True)
    cells = []
    for title, (kind, layers) in _BACKBONES.items():
        save_image_model(kind, folder / kind)
        export_model(str(folder / kind), folder / f"{kind}-bundle", precision="fp32", verify=False)
        runtime = load(folder / f"{kind}-bundle", threads=1)
        finds = _detects(runtime) == "patches"
        reference = (_Finder if finds else _Reference)(folder / kind, layers)
        cells += [
            _measure(title, task, method, reference, runtime)
            for task in (["object-detection"] if finds else IMAGE_TASKS)
            for method in _METHODS
        ]
    return cells


def image_section(cells: Sequence[ImageCell]) -> list[str]:
    """Lines of FIDELITY.md."""
    if not cells:
        return []
    measured = [cell.max_rel for cell in cells if cell.max_rel is not None]
    effects = [cell.effect for cell in cells if cell.effect is not None]
    exact = sum(found <= TOLERANCE for found in measured)
    about = (
        "peft has no visual prompts. The reference is the transformers model's own forward in float32: hooks "
        "on its layers put the rows behind the tokens that come first (VPT-shallow), and replace them in "
        "every layer (VPT-deep); the head and the box are PyTorch's linear layers on its own outputs. What "
        "each task reads is compared, of pictures alone and in a batch under a prompt each: the picture's "
        "logits, those of patches, those and the boxes of virtual tokens. CLIP's and SigLIP's vectors, "
        "those of patches and virtual tokens too, are of length one, as they are compared with texts; "
        "CLIP's go through its projection first. BEiT adds nothing to the attention of virtual tokens. "
        "OWL-ViT's and OWLv2's patches find things, so they are read to detect only: what is looked for, the "
        "head's rows, goes through the model's own predictors, and so do the tokens behind the last layer, "
        f"without the virtual ones. {len(measured)} combinations: {exact} are exact, "
        f"{len(measured) - exact} are not. Under a prompt of zeros the outputs differ by at least "
        f"{min(effects):.2g}."
    )
    lines = ["## Image models", "", about, ""]
    for task in IMAGE_TASKS:
        rows = []
        for title in _BACKBONES:
            found = {
                cell.method: cell for cell in cells if (cell.family, cell.task) == (title, task)
            }
            if found:
                rows.append([title, *(_say(found[method].max_rel) for method in _METHODS)])
        lines += [f"### {task}", "", table(("Family", *_METHODS), rows), ""]
    return lines


def _say(max_rel: float | None) -> str:
    if max_rel is None:
        return "needs virtual tokens"
    return f"{max_rel:.0e}" if max_rel <= TOLERANCE else f"**{max_rel:.0e}**"


class _Reference:
    """The transformers model, and its image tower's layers."""

    auto_class = "AutoModel"

    def __init__(self, folder: Path, layers: str) -> None:
        import transformers

        model: Any = getattr(transformers, self.auto_class)
        self.model = model.from_pretrained(folder).eval()
        self.layers: Any = reduce(getattr, layers.split("."), self.model)
        self.tower = getattr(self.model.base_model, "vision_model", self.model)
        self.image_size = int(self.tower.config.image_size)
        self.num_patches = (self.image_size // int(self.tower.config.patch_size)) ** 2

    def expect(self, pixels: Array, tensors: dict[str, Array], task: str) -> list[Array]:
        """What the task reads."""
        import torch

        picture, virtual, patches = self.read(pixels, tensors.get("prompt_embeds"))
        read = {"image-classification": picture, "image-segmentation": patches}.get(task, virtual)
        vectors = torch.from_numpy(np.ascontiguousarray(read))
        linear = torch.nn.functional.linear
        given = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
        outputs = [linear(vectors, given["head.weight"], given["head.bias"])]
        if task == "object-detection":
            outputs.append(torch.sigmoid(linear(vectors, given["box.weight"], given["box.bias"])))
        return [output.numpy() for output in outputs]

    def read(self, pixels: Array, rows: Array | None) -> tuple[Array, Array, Array]:
        """Vectors of pictures (pictures, width), of virtual tokens and of patches (pictures, …, width)."""
        import torch

        with torch.no_grad(), self._under(rows):
            outputs = self.tower(pixel_values=torch.from_numpy(pixels))
            tokens, picture = outputs.last_hidden_state, outputs.pooler_output
            first = tokens.shape[1] - self.num_patches - (0 if rows is None else rows.shape[1])
            kind = self.model.config.model_type
            if kind == "clip":
                picture = self.model.visual_projection(picture)
                tokens = self.model.visual_projection(self.tower.post_layernorm(tokens))
            elif kind == "beit":
                norm = self.tower.pooler.layernorm
                picture, tokens = norm(tokens[:, -self.num_patches :].mean(1)), norm(tokens)
            elif kind != "siglip":
                picture = tokens[:, 0]
            if kind in ("clip", "siglip"):
                picture, tokens = (
                    item / item.norm(dim=-1, keepdim=True) for item in (picture, tokens)
                )
            virtual, patches = tokens[:, first : -self.num_patches], tokens[:, -self.num_patches :]
        return picture.numpy(), virtual.numpy(), patches.numpy()

    @contextmanager
    def _under(self, rows: Array | None) -> Iterator[None]:
        """Layers that see virtual tokens; rows (layers or 1, virtual tokens, hidden)."""
        import torch

        if rows is None:
            yield
            return
        tables = torch.from_numpy(rows)
        hooks = [
            table.register_forward_hook(lambda _, __, bias: _spread(bias, tables.shape[1]))
            for table in self.model.modules()
            if type(table).__name__ == "BeitRelativePositionBias"
        ]
        for index, layer in enumerate(self.layers[: len(rows)]):

            def put(_: Any, given: tuple[Any, ...], index: int = index) -> tuple[Any, ...]:
                tokens = given[0]
                first = tokens.shape[1] - self.num_patches
                if index:
                    first -= tables.shape[1]
                table = tables[index].expand(len(tokens), -1, -1)
                patches = tokens[:, -self.num_patches :]
                return (torch.cat([tokens[:, :first], table, patches], 1), *given[1:])

            hooks.append(layer.register_forward_pre_hook(put))
        yield
        for hook in hooks:
            hook.remove()


class _Finder(_Reference):
    """One whose patches find what a query says."""

    auto_class = "AutoModelForZeroShotObjectDetection"

    def expect(self, pixels: Array, tensors: dict[str, Array], _: str) -> list[Array]:
        """Logits and boxes of patches, by the model's own predictors."""
        import torch

        def without_rows(_: Any, __: Any, tokens: torch.Tensor) -> torch.Tensor:
            return torch.cat([tokens[:, :1], tokens[:, -self.num_patches :]], 1)

        hook = self.layers[-1].register_forward_hook(without_rows)
        with torch.no_grad(), self._under(tensors.get("prompt_embeds")):
            maps = self.model.image_embedder(torch.from_numpy(pixels))[0]
        hook.remove()
        # long ones: the predictor divides by their length, and a little more
        queries = torch.from_numpy(tensors["head.weight"][:, :-1] * 1e3)
        with torch.no_grad():
            features = maps.flatten(1, 2)  # (pictures, patches, hidden)
            each = queries.expand(len(pixels), -1, -1)
            logits, _ = self.model.class_predictor(features, each)
            boxes = self.model.box_predictor(features, maps)
        return [logits.numpy(), boxes.numpy()]


def _spread(bias: Any, count: int) -> Any:
    """BEiT's bias (1, heads, 1 + patches, 1 + patches) with zeros for virtual tokens behind the first."""
    size = bias.shape[-1] + count
    places = np.delete(np.arange(size), range(1, 1 + count))
    spread = bias.new_zeros(*bias.shape[:2], size, size)
    spread[:, :, places[:, None], places] = bias
    return spread


def _detects(runtime: Model) -> str:
    image = runtime.manifest.image
    if image is None:
        raise AssertionError("a bundle of an image model says what finds things")
    return image.detects


def _measure(
    title: str, task: str, method: str, reference: _Reference, runtime: Model
) -> ImageCell:
    layers, count = _METHODS[method]
    if task == "object-detection" and not layers and _detects(runtime) == "tokens":
        return ImageCell(title, task, method, None)
    random = np.random.default_rng(_SEED)
    side = reference.image_size
    pixels = random.normal(size=(_PICTURES, 3, side, side)).astype(np.float32)
    tensors = _tensors(runtime, task, layers, count, random)
    prompt = runtime.load_prompt(Prompt(tensors, task=task))
    expected = reference.expect(pixels, tensors, task)
    batch = _read(runtime, pixels, prompt)
    alone = [_read(runtime, pixels[[row]], prompt) for row in range(_PICTURES)]
    found = [np.concatenate(parts) for parts in zip(*alone, strict=True)]
    worst = max(
        _relative(left, wanted)
        for given in (batch, found)
        for left, wanted in zip(given, expected, strict=True)
    )
    effect = None
    if "prompt_embeds" in tensors:
        zeros = {**tensors, "prompt_embeds": np.zeros_like(tensors["prompt_embeds"])}
        plain = _read(runtime, pixels, runtime.load_prompt(Prompt(zeros, task=task)))
        effect = _relative(plain[0], batch[0])
    return ImageCell(title, task, method, worst, effect)


def _tensors(
    runtime: Model, task: str, layers: int, count: int, random: np.random.Generator
) -> dict[str, Array]:
    manifest = runtime.manifest
    width, image = manifest.head_size or 0, manifest.image
    shapes: dict[str, tuple[int, ...]] = {
        "head.weight": (_CLASSES, width),
        "head.bias": (_CLASSES,),
    }
    if layers and image is not None:
        depth = image.num_layers if layers < 0 else 1
        shapes["prompt_embeds"] = (depth, count, manifest.hidden_size)
    finds = _detects(runtime) == "patches"
    if task == "object-detection" and not finds:
        shapes |= {"box.weight": (4, width), "box.bias": (4,)}
    tensors = {
        name: (random.normal(size=shape) * (shape[-1] ** -0.5)).astype(np.float32)
        for name, shape in shapes.items()
    }
    if finds:  # queries of length one, and the model's own shift, as texts have them
        queries = tensors["head.weight"][:, :-1]
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        tensors["head.weight"][:, -1], tensors["head.bias"][:] = 1, 0
    return tensors


def _read(runtime: Model, pixels: Array, prompt: LoadedPrompt) -> list[Array]:
    """What the prompt's task reads of the bundle's outputs."""
    outputs = runtime.image_outputs(pixels, [prompt] * len(pixels))
    first_patch = 1 + prompt.num_virtual_tokens
    task = prompt.prompt.task
    if task == "image-classification":
        return [outputs["logits"][:, 0]]
    if task == "image-segmentation":
        return [outputs["logits"][:, first_patch:]]
    finds = _detects(runtime) == "patches"
    places = slice(first_patch, None) if finds else slice(1, first_patch)
    return [outputs[name][:, places] for name in ("logits", "boxes")]


def _relative(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
