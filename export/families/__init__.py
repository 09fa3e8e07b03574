"""What sets one family of models apart from another: a short file each.

Decoder-only models need none: any that transformers has as a causal language model and as a sequence
classifier is tried.
"""

from edgept.export.families import (
    albert,
    bart,
    beit,
    bert,
    clip,
    deberta_v2,
    deit,
    dinov2,
    distilbert,
    electra,
    marian,
    mbart,
    modernbert,
    mpnet,
    owlvit,
    pegasus,
    roberta,
    siglip,
    t5,
    vit,
)
from edgept.export.families.encoder import EncoderFamily
from edgept.export.families.seq2seq import Seq2SeqFamily
from edgept.export.families.vision import VisionFamily

__all__ = ["ENCODERS", "SEQ2SEQ", "VISION", "EncoderFamily", "Seq2SeqFamily", "VisionFamily"]

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
VISION: dict[str, VisionFamily] = {
    model_type: module.FAMILY
    for module in (vit, deit, beit, dinov2, clip, siglip, owlvit)
    for model_type in module.FAMILY.model_types
}
