"""ViT (Dosovitskiy et al. 2020)."""

from edgept.export.families.vision import VisionFamily

__all__ = ["FAMILY"]

FAMILY = VisionFamily(
    model_types=("vit",),
    has_pooler=True,
    heads={"ViTForImageClassification": ("classifier",)},
)
