"""Marian (Junczys-Dowmunt et al. 2018) and Pegasus (Zhang et al. 2019): sinusoidal positions, scaled by the encoder."""

from edgept.export.families.seq2seq import Seq2SeqFamily

__all__ = ["FAMILY"]

FAMILY = Seq2SeqFamily(model_types=("marian", "pegasus"), scales_own_rows=True)
