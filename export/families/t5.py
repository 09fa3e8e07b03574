"""T5 (Raffel et al. 2019), Flan-T5, mT5: relative positions, so no longest sequence of their own."""

from edgept.export.families.seq2seq import Seq2SeqFamily

__all__ = ["FAMILY"]

FAMILY = Seq2SeqFamily(
    model_types=("t5", "mt5"), cross_attention="EncDecAttention", key="k", value="v"
)
