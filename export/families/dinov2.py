"""DINOv2 (Oquab et al. 2023), with and without registers (Darcet et al. 2023)."""

from edgept.export.families.vision import VisionFamily, first_and_mean

__all__ = ["FAMILY"]

_CLASSIFIERS = ("Dinov2ForImageClassification", "Dinov2WithRegistersForImageClassification")

FAMILY = VisionFamily(
    model_types=("dinov2", "dinov2_with_registers"),
    layers="encoder.layer",
    takes_any_size=True,  # trained at 518 pixels, and usually given 224
    readouts=dict.fromkeys(_CLASSIFIERS, first_and_mean),
    heads=dict.fromkeys(_CLASSIFIERS, ("classifier",)),
)
