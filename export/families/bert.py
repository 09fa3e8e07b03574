"""BERT (Devlin et al. 2018) and what loads as it, MiniLM among them."""

from edgept.export.families.encoder import EncoderFamily

__all__ = ["FAMILY"]

FAMILY = EncoderFamily(
    model_types=("bert",),
    has_token_types=True,
    has_pooler=True,
    takes_prefix=True,
    why_incomplete="a checkpoint of masked language modelling alone has no pooler, which the head reads",
)
