"""A prompt from the names of classes alone: zero-shot, and what a tuned one is to be compared with."""

from collections.abc import Sequence

import numpy as np

from edgept import __version__
from edgept.errors import UsageError
from edgept.export.class_head import PLAIN_TEMPLATE, open_text_tower
from edgept.export.fingerprint import fingerprint
from edgept.export.source import find_model, load_frozen
from edgept.manifest import Manifest
from edgept.prompt import Prompt, check_fits

__all__ = ["class_prompt"]


def class_prompt(
    model: str,
    labels: Sequence[str],
    *,
    templates: Sequence[str] = (PLAIN_TEMPLATE,),
    name: str = "classes",
    manifest: Manifest | None = None,
) -> Prompt:
    """Make a prompt of classes by their names.

    Args:
        model: local transformers folder or hub id of a whole CLIP, SigLIP, OWL-ViT or OWLv2 model.
        labels: names of the classes.
        templates: texts with {} where a name belongs; of several, the mean of their vectors counts.
        name: of the prompt.
        manifest: of the bundle that is to run it; None checks nothing.

    Returns:
        A head alone: to classify pictures, or of OWL-ViT and OWLv2 to find things.

    Raises:
        UsageError: the model reads no texts, or a template has no {}.
        IncompatibleError: the bundle is another model's.
        ExportError: the weights cannot be loaded.
    """
    source = find_model(model)
    if not source.is_image:
        raise UsageError(
            f"{source.architecture} is no image model. Give a whole CLIP, SigLIP, OWL-ViT or OWLv2 model."
        )
    frozen = load_frozen(source)
    tower = open_text_tower(frozen, source.folder)
    weight, bias = tower.of_classes(labels, templates)
    prompt = Prompt(
        {
            "head.weight": np.array(weight.numpy(), dtype=np.float32),
            "head.bias": np.array(bias.numpy(), dtype=np.float32),
        },
        name=name,
        method="zero_shot",
        fingerprint=fingerprint(frozen),
        task="object-detection" if tower.finds_things else "image-classification",
        labels=tuple(labels),
        base_model=source.name,
        created_by=f"edgept {__version__}",
    )
    if manifest is not None:
        check_fits(prompt, manifest)
    return prompt
