"""Tiny bundles with prompts for the C library's checks: `python -m tests.c_bundles FOLDER`, once.

Those that the tests have exported to $EDGEPT_TEST_BUNDLES are not exported again.

Each is a folder FOLDER/NAME with a bundle and the prompt files 0.safetensors, 1.safetensors, ...; of an image model
also with a picture, pixels.f32.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgept.bundle import MANIFEST_NAME, read_manifest
from edgept.manifest import Manifest
from edgept.prompt import Prompt
from edgept.prompt_file import write_prompt
from tests.conftest import tiny_model, tiny_tokenizer
from tests.image_models import HIDDEN, LAYERS, save_image_model
from tests.seq2seq_models import save_seq2seq

# One kind of graph each: a shared cache, one that grows, an encoder with a head, an encoder-decoder,
# an image model.
BUNDLES: dict[str, str | None] = {
    "llama": "text-generation",
    "gpt2": "text-generation",
    "bert": "text-classification",
    "t5": "text2text-generation",
    "vit": None,
}
# How the tests' own are named, where it is not None.
_ENDINGS = {"bert": "text-classification", "vit": "0"}


def image_prompts(manifest: Manifest) -> list[Prompt]:
    """A prompt for each task: shallow, deep, and one that detects."""
    random = np.random.default_rng(0)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "image-classification": {"prompt_embeds": (1, 3, HIDDEN)},
        "image-segmentation": {"prompt_embeds": (LAYERS, 2, HIDDEN)},
        "object-detection": {
            "prompt_embeds": (1, 5, HIDDEN),
            "box.weight": (4, HIDDEN),
            "box.bias": (4,),
        },
    }
    return [
        Prompt(
            {
                name: random.standard_normal(shape).astype(np.float32)
                for name, shape in {"head.weight": (3, HIDDEN), **tensors}.items()
            },
            fingerprint=manifest.fingerprint,
            task=task,
        )
        for task, tensors in shapes.items()
    ]


def prompts(manifest: Manifest) -> list[Prompt]:
    if manifest.image is not None:
        return image_prompts(manifest)
    chosen = np.random.default_rng(0)

    def array(*shape: int) -> Any:
        return chosen.standard_normal(shape).astype(np.float32) * 0.3

    found = [{"prompt_embeds": array(rows, manifest.hidden_size)} for rows in (3, 6)]
    if manifest.head_size is not None:
        for classes, tensors in zip((2, 5), found, strict=True):
            tensors |= {
                "head.weight": array(classes, manifest.head_size),
                "head.bias": array(classes),
            }
    elif manifest.kv is not None:
        kv = manifest.kv
        found.append({"prompt_kv": array(kv.num_layers, 2, kv.num_kv_heads, 4, kv.head_dim)})
    return [
        Prompt(tensors, fingerprint=manifest.fingerprint, task=manifest.task) for tensors in found
    ]


def write_prompts(place: Path) -> None:
    """Write them beside a bundle, which is whole then."""
    manifest = read_manifest(place / "bundle")
    for number, prompt in enumerate(prompts(manifest)):
        write_prompt(prompt, place / f"{number}.safetensors", overwrite=True)
    if manifest.image is not None:
        shape = 3, manifest.image.height, manifest.image.width
        np.random.default_rng(0).standard_normal(shape, np.float32).tofile(place / "pixels.f32")
    (place / "done").touch()


def main(folder: Path) -> None:
    """Make those that are not there."""
    for name, task in BUNDLES.items():
        place = folder / name
        if (place / "done").is_file():
            continue
        kept = Path(os.environ.get("EDGEPT_TEST_BUNDLES", "nowhere"))
        kept /= f"{name}-fp32-{_ENDINGS.get(name)}"
        if (kept / MANIFEST_NAME).is_file():
            shutil.copytree(kept, place / "bundle", dirs_exist_ok=True)
            write_prompts(place)
            continue
        from edgept.export import export_model  # torch, which those that are kept do without

        model = place / "model"
        if name == "vit":
            save_image_model(name, model)
        elif name == "t5":
            save_seq2seq(name, model)
        else:
            tiny_model(name).save_pretrained(model)
            tiny_tokenizer().save_pretrained(model)
        export_model(
            str(model), place / "bundle", precision="fp32", task=task, verify=False, force=True
        )
        write_prompts(place)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
