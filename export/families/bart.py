"""BART (Lewis et al. 2019): the embedding itself scales its rows, if at all, so peft's prompts stay unscaled."""

from edgept.export.families.seq2seq import Seq2SeqFamily

__all__ = ["FAMILY"]

FAMILY = Seq2SeqFamily(model_types=("bart",), looks_at_halves=True)
