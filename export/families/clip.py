"""The image tower of CLIP (Radford et al. 2021); of the whole model, vectors in the space of its texts."""

from edgept.export.families.vision import VisionFamily, first_token, normalized

__all__ = ["FAMILY"]

FAMILY = VisionFamily(
    model_types=("clip", "clip_vision_model"),
    layers="encoder.layers",
    norm="post_layernorm",
    norm_first="pre_layrnorm",
    readouts={"CLIPModel": normalized(first_token, "visual_projection")},
)
