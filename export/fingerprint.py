"""What identifies a frozen model: not its name or file layout, but what it computes with."""

import hashlib
import json
import re
from typing import Any

import torch

from edgept.export.families import VISION
from edgept.export.heads import find_layers

__all__ = ["fingerprint"]

# Settings that say nothing about what the frozen model computes. All others count, so that a setting
# which nobody has thought of makes two models differ rather than agree.
_IGNORED = {
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "auto_map",
    "dtype",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "label2id",
    "num_labels",
    "pretraining_tp",
    "problem_type",
    "task_specific_params",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
# Of a model for images and texts, whose bundle reads images: what it computes a text's features with.
_TEXT_SIDE = re.compile(
    r"(^|^owlv[a-z0-9]+\.)(text_model\.|text_projection\.|logit_scale|logit_bias)"
)
_IGNORED_ENDINGS = ("_token_id", "dropout", "_pdrop")


def fingerprint(model: Any) -> str:
    """SHA-256 over a frozen model's configuration and float weights.

    It is the same for a checkpoint saved in float32, or in bfloat16 or float16 and loaded from
    there, for sharded and single files, and whatever an export quantises to. Weights count by
    their place in the model, shape and value and not by name, since transformers renames them
    between versions; a tensor that is tied counts once. Of the configuration, what differs from
    the architecture's defaults counts, without token ids, dropout and the like. The head of a
    task does not count, nor how many classes it has: prompts bring their own, so the
    fingerprint is that of what stays frozen. Two checkpoints of one backbone with heads of their own
    have one fingerprint, then. A prompt without a head is told from the other's by the class names
    that it was bound to; where these are the same (LABEL_0, LABEL_1), nothing tells. Of a model for
    images and texts (CLIP), what reads images counts; of every image model, also how a picture becomes
    its input, see `edgept.export.image_preprocessor`.

    Args:
        model: a transformers model with its weights as loaded.

    Returns:
        64 hex digits.
    """
    image = VISION.get(model.config.model_type)
    config = model.config.get_text_config() if image is None else image.tower(model).config
    identity = {
        name: value
        for name, value in config.to_diff_dict().items()
        if name not in _IGNORED and not name.endswith(_IGNORED_ENDINGS)
    }
    identity["model_type"] = config.model_type
    if image is not None and type(model).__name__ in image.readouts:
        identity["features"] = type(model).__name__  # read otherwise than those of the bare model
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), default=str)
    digest = hashlib.sha256(text.encode())
    for weight in _weight_digests(model):
        digest.update(weight)
    return digest.hexdigest()


def _weight_digests(model: Any) -> list[bytes]:
    is_image = model.config.model_type in VISION
    head = find_layers(model).values()
    seen = {parameter.data_ptr() for layer in head for parameter in layer.parameters()}
    digests = []
    for name, parameter in model.named_parameters():
        if parameter.data_ptr() in seen or (is_image and _TEXT_SIDE.search(name)):
            continue
        seen.add(parameter.data_ptr())
        values = parameter.detach().to(torch.float32).contiguous().numpy()
        digest = hashlib.sha256(repr(tuple(values.shape)).encode())
        digest.update(values.data)
        digests.append(digest.digest())
    return digests
