"""RoBERTa (Liu et al. 2019) and XLM-RoBERTa (Conneau et al. 2020)."""

from edgept.export.families.encoder import EncoderFamily

__all__ = ["FAMILY"]

FAMILY = EncoderFamily(
    model_types=("roberta", "xlm-roberta"),
    heads={"text-classification": ("classifier.dense", "classifier.out_proj")},
    has_pooler=True,
    skips_pads=True,
    takes_prefix=True,
)
