"""Pegasus (Zhang et al. 2019): sinusoidal positions, and an encoder that scales."""

from edgept.export.families.seq2seq import Seq2SeqFamily

__all__ = ["FAMILY"]

FAMILY = Seq2SeqFamily(model_types=("pegasus",), scales_own_rows=True)
