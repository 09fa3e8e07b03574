"""What sets one family of models apart from another: a short file each.

Decoder-only models need none: any that transformers has as a causal language model and as a sequence
classifier is tried.
"""

from edgept.export.families import (
    albert,
    bart,
    bert,
    deberta_v2,
    distilbert,
    electra,
    marian,
    mbart,
    modernbert,
    mpnet,
    pegasus,
    roberta,
    t5,
)
from edgept.export.families.encoder import EncoderFamily
from edgept.export.families.seq2seq import Seq2SeqFamily

__all__ = ["ENCODERS", "SEQ2SEQ", "EncoderFamily", "Seq2SeqFamily"]

_FAMILIES = (bert, roberta, distilbert, albert, electra, deberta_v2, mpnet, modernbert)

# By transformers' model_type.
ENCODERS: dict[str, EncoderFamily] = {
    model_type: module.FAMILY for module in _FAMILIES for model_type in module.FAMILY.model_types
}
SEQ2SEQ: dict[str, Seq2SeqFamily] = {
    model_type: module.FAMILY
    for module in (t5, bart, mbart, marian, pegasus)
    for model_type in module.FAMILY.model_types
}
