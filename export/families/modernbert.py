"""ModernBERT (Warner et al. 2024): rotary positions, and a window of attention in most layers."""

from edgept.export.families.encoder import EncoderFamily

__all__ = ["FAMILY"]

FAMILY = EncoderFamily(
    model_types=("modernbert",),
    # of its head (dense, norm, classifier) peft trains the last layer
    heads={"question-answering": ("classifier",)},
    adds_mask=False,
    # from 23 on rotation is one operator too, which onnxruntime does not run on several rows
    opset=20,
    why_incomplete="the bare model has no head.dense and head.norm, which tasks read through; one saved "
    "for masked language modelling has them",
)
