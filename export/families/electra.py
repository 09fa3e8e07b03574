"""ELECTRA (Clark et al. 2020); prompts are as wide as its embeddings."""

from edgept.export.families.encoder import EncoderFamily

__all__ = ["FAMILY"]

FAMILY = EncoderFamily(
    model_types=("electra",),
    has_token_types=True,
    heads={"text-classification": ("classifier.dense", "classifier.out_proj")},
    takes_prefix=True,
)
