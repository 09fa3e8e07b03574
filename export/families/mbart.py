"""mBART (Liu et al. 2020): BART with a language's token to start with, which generation_config names."""

from edgept.export.families.seq2seq import Seq2SeqFamily

__all__ = ["FAMILY"]

FAMILY = Seq2SeqFamily(model_types=("mbart",))
