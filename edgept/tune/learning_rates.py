"""How fast each method learns: the highest rate of the schedule, as measured, where the settings name none."""

__all__ = [
    "GO_ON_SHARE",
    "HEAD_LEARNING_RATE",
    "LEARNING_RATES",
    "PICTURE_LEARNING_RATES",
    "head_rate",
    "prompt_rate",
]

# Validation loss on stories260K after 200 steps of 4 rows, 16 virtual tokens, TinyStories in lower case
# (2.443 without a prompt; the start from vocab). Larger models mostly want less, so where two rates are
# close, the lower one is the default.
#
#   prompt-tuning   0.03 2.139   0.1 2.041   0.3 2.045   1.0 2.020   3.2 1.989   times embedding_rms
#   p-tuning      0.0003 2.268  0.001 2.177  0.003 2.088  0.01 2.088  0.03 2.107
#   prefix-tuning  0.003 2.371   0.01 2.095   0.03 1.993   0.1 1.916   0.3 1.924
#   multitask       0.03 2.142   0.1 2.093   0.3 2.056   1.0 2.109
#   cpt            0.003 2.458   0.01 2.458   0.03 2.459   0.1 2.459   from examples; moves little by design
LEARNING_RATES = {
    "prompt-tuning": 0.3,
    "p-tuning": 0.003,
    "prefix-tuning": 0.03,
    "multitask": 0.3,
    "cpt": 0.003,
}
# Of a visual prompt, whose rows begin as Xavier's uniform numbers. Validation loss on PneumoniaMNIST after 300
# steps of 32 pictures, 10 virtual tokens, of a ViT of 4 layers of width 96 that had learnt generated shapes
# (0.348 of a head alone).
#
#   vpt-deep       0.001 0.268   0.003 0.225   0.01 0.210   0.03 0.208   0.1 0.188
#   vpt-shallow    0.001 0.276   0.003 0.236   0.01 0.218   0.03 0.206   0.1 0.205
#
# Of coop's vectors, in a text tower, the rate is CoOp's own.
PICTURE_LEARNING_RATES = {"vpt-shallow": 0.03, "vpt-deep": 0.01, "coop": 0.002}
# Of a classifier's head, divided by the root mean square of what it reads (0.066 in all-MiniLM-L6-v2, a
# BERT; 1.99 in stories260K). Validation loss of a head alone on banking77, 77 classes, after 500 steps of
# 16 rows, over features that were computed once. From 0.02 on the loss first rises above where it began,
# so that early stopping may give up. Beside a head of 0.1 to 0.3 as it is set, 200 steps of the rates above
# gave all-MiniLM-L6-v2 0.908 (prompt-tuning) and 0.863 (p-tuning), against 1.039 and 0.968 of the head alone.
#
#   all-MiniLM-L6-v2  0.002 1.19  0.005 0.84  0.01 0.75  0.02 0.85  0.05 1.77
#   stories260K       0.002 4.15  0.005 4.02  0.01 3.91  0.02 3.82  0.05 3.74
HEAD_LEARNING_RATE = 0.01
# Of both layers of a head of two, by what the first one reads: validation loss on banking77 after 500 steps
# of 16 rows, over the last hidden states of all-MiniLM-L6-v2's first position (0.37).
#
#   tanh, as RoBERTa's   0.0005 0.82  0.001 0.52  0.002 0.41  0.005 0.54  0.01 0.71  0.02 1.32
#   ReLU, DistilBERT's   0.0005 0.86  0.001 0.55  0.002 0.43  0.005 0.49  0.01 0.62  0.02 1.08
_DEEP_HEAD_LEARNING_RATE = 0.002
# Of the usual learning rates, for a prompt and a head that are tuned on from where they were. Validation loss
# on banking77 in float, from 0.5390: 0.5385 after 60 steps at 0.1, no better in 100 steps at 0.3.
GO_ON_SHARE = 0.1
_LEAST_RMS = 1e-3


def prompt_rate(method: str, embedding_rms: float) -> float:
    """The rate of a prompt.

    Args:
        method: how it is tuned.
        embedding_rms: root mean square of the model's input embedding. Prompt tuning moves rows of that
            scale, which differs by a factor of twenty between models.
    """
    rate = {**LEARNING_RATES, **PICTURE_LEARNING_RATES}[method]
    return rate * embedding_rms if method == "prompt-tuning" else rate


def head_rate(feature_rms: float, num_layers: int) -> float:
    """The rate of a classifier's head.

    Args:
        feature_rms: root mean square of what the head reads; its weights want to be as much larger as
            this is smaller, and models differ by a factor of thirty.
        num_layers: of the head; of two, both learn at this rate.
    """
    rate = HEAD_LEARNING_RATE if num_layers == 1 else _DEEP_HEAD_LEARNING_RATE
    return rate / max(feature_rms, _LEAST_RMS)
