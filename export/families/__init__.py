"""What sets one family of models apart from another: a short file each.

Decoder-only models need none: any that transformers has as a causal language model and as a sequence
classifier is tried.
"""

from edgept.export.families import bart, bert, marian, t5
from edgept.export.families.encoder import EncoderFamily
from edgept.export.families.seq2seq import Seq2SeqFamily

__all__ = ["ENCODERS", "SEQ2SEQ", "EncoderFamily", "Seq2SeqFamily"]

# By transformers' model_type.
ENCODERS = {model_type: family for family in (bert.FAMILY,) for model_type in family.model_types}
SEQ2SEQ = {
    model_type: family
    for family in (t5.FAMILY, bart.FAMILY, marian.FAMILY)
    for model_type in family.model_types
}
