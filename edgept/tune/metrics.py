"""The task's metric: exact match for answers, accuracy and macro-F1 for labels."""

from collections.abc import Sequence

__all__ = ["score"]


def score(kind: str, found: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """Score generated answers.

    Args:
        kind: of the data: "label" gives accuracy and macro-F1, others exact match.
        found: generated texts.
        expected: what they should be; compared without surrounding white space.

    Returns:
        Figures from 0 to 1 by name. Macro-F1 is the mean over the labels that are expected
        somewhere; an answer that is no label counts as wrong and as no label's.
    """
    pairs = [(left.strip(), right.strip()) for left, right in zip(found, expected, strict=True)]
    share = sum(left == right for left, right in pairs) / len(pairs)
    if kind != "label":
        return {"exact_match": share}
    f1 = []
    for label in sorted({right for _, right in pairs}):
        hits = sum(left == right == label for left, right in pairs)
        claimed = sum(left == label for left, _ in pairs)
        present = sum(right == label for _, right in pairs)
        f1.append(2 * hits / (claimed + present))
    return {"accuracy": share, "macro_f1": sum(f1) / len(f1)}
