"""MPNet (Song et al. 2020)."""

from edgept.export.families.encoder import EncoderFamily

__all__ = ["FAMILY"]

FAMILY = EncoderFamily(
    model_types=("mpnet",),
    heads={"text-classification": ("classifier.dense", "classifier.out_proj")},
    has_pooler=True,
    skips_pads=True,
)
