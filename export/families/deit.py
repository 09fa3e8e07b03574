"""DeiT (Touvron et al. 2020), whose distilled models have a second token in front of the patches."""

from edgept.export.families.vision import VisionFamily, first_two

__all__ = ["FAMILY"]

FAMILY = VisionFamily(
    model_types=("deit",),
    has_pooler=True,
    readouts={"DeiTForImageClassificationWithTeacher": first_two},
    heads={
        "DeiTForImageClassification": ("classifier",),
        "DeiTForImageClassificationWithTeacher": ("cls_classifier", "distillation_classifier"),
    },
)
