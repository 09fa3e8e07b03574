"""DeBERTa-v2 and v3 (He et al. 2021), whose attention adds relative positions to the scores."""

from edgept.export.families.encoder import EncoderFamily

__all__ = ["FAMILY"]

FAMILY = EncoderFamily(
    model_types=("deberta-v2",),
    has_token_types=True,
    adds_mask=False,
    why_incomplete="a checkpoint of masked language modelling alone has no pooler, which the head reads",
)
