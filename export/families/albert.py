"""ALBERT (Lan et al. 2020), whose layers share their weights; prompts are as wide as its embeddings."""

from edgept.export.families.encoder import EncoderFamily

__all__ = ["FAMILY"]

FAMILY = EncoderFamily(
    model_types=("albert",),
    has_token_types=True,
    has_pooler=True,
)
