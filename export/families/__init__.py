"""What sets one family of models apart from another: a short file each.

Decoder-only models need none: any that transformers has as a causal language model and as a sequence
classifier is tried.
"""

from edgept.export.families import bert
from edgept.export.families.encoder import EncoderFamily

__all__ = ["ENCODERS", "EncoderFamily"]

# By transformers' model_type.
ENCODERS = {model_type: family for family in (bert.FAMILY,) for model_type in family.model_types}
