"""Marian (Junczys-Dowmunt et al. 2018): sinusoidal positions, and an encoder that scales."""

from edgept.export.families.seq2seq import Seq2SeqFamily

__all__ = ["FAMILY"]

FAMILY = Seq2SeqFamily(model_types=("marian",), scales_own_rows=True, looks_at_halves=True)
