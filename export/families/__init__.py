"""What sets one family of models apart from another: a short file each.

Decoder-only models need none: any that transformers has as a causal language model and as a sequence
classifier is tried.
"""

from edgept.export.families import (
    albert,
    bert,
    deberta_v2,
    distilbert,
    electra,
    modernbert,
    mpnet,
    roberta,
)
from edgept.export.families.encoder import EncoderFamily

__all__ = ["ENCODERS", "EncoderFamily"]

_FAMILIES = (bert, roberta, distilbert, albert, electra, deberta_v2, mpnet, modernbert)

# By transformers' model_type.
ENCODERS: dict[str, EncoderFamily] = {
    model_type: module.FAMILY for module in _FAMILIES for model_type in module.FAMILY.model_types
}
