"""DistilBERT (Sanh et al. 2019), BERT without token types and pooler."""

from edgept.export.families.encoder import EncoderFamily

__all__ = ["FAMILY"]

FAMILY = EncoderFamily(
    model_types=("distilbert",),
    # peft trains every layer whose name ends in "classifier"
    heads={"text-classification": ("pre_classifier", "classifier")},
)
