"""The image tower of SigLIP (Zhai et al. 2023), which has no class token and pools by attention."""

from edgept.export.families.vision import (
    VisionFamily,
    attention_pooled,
    mean_of_patches,
    normalized,
)

__all__ = ["FAMILY"]

FAMILY = VisionFamily(
    model_types=("siglip", "siglip_vision_model"),
    layers="encoder.layers",
    norm="post_layernorm",
    readout=attention_pooled,
    readouts={
        "SiglipModel": normalized(attention_pooled),
        "SiglipForImageClassification": mean_of_patches,
    },
    heads={"SiglipForImageClassification": ("classifier",)},
)
