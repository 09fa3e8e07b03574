"""What is wrong with a training, seen from its losses and gradients, each with a remedy."""

import math
from collections.abc import Sequence
from statistics import fmean, median

__all__ = ["judge"]

_VANISHED = 1e-7  # norm of the prompt's gradient
_VANISHED_STEPS = 10
_EXPLODED = 100.0  # times the median so far
_MOVED = 0.01  # share of the first losses
_LEAST_STEPS = 40  # below, the loss of a batch says little
_NOT_MOVED = {
    "cpt": "cpt keeps its tokens near their words: take more --virtual-tokens, or --method prompt-tuning.",
    "head": "A head alone moves what the model has: raise --head-learning-rate, or tune a prompt with "
    "it (--method prompt-tuning).",
}
_VISUAL = ("vpt-shallow", "vpt-deep", "coop")
_OTHERWISE = {"vpt-shallow": ", or take --method vpt-deep", "vpt-deep": "", "coop": ""}


def judge(
    losses: Sequence[float], gradient_norms: Sequence[float], rate: float, method: str
) -> list[str]:
    """Warnings about a training so far.

    Args:
        losses: of every step, in nats.
        gradient_norms: of the prompt, before clipping, of every step.
        rate: the highest learning rate.
        method: how the prompt is tuned.

    Returns:
        A sentence with a remedy for each trouble; the kind is its text up to the colon.
    """
    found = []
    option = "--head-learning-rate" if method == "head" else "--learning-rate"
    last = gradient_norms[-_VANISHED_STEPS:]
    if len(last) == _VANISHED_STEPS and max(last) < _VANISHED:
        remedy = (
            "Check the pictures and their labels: the model tells nothing apart in them."
            if method in _VISUAL
            else "Describe the task (--description), from which the prompt then starts, or check that the "
            "answers are not empty."
        )
        found.append(
            f"the gradient vanished: its norm stayed below {_VANISHED:g} for {_VANISHED_STEPS} steps. {remedy}"
        )
    # A prompt that starts near zero has large gradients at first, so the latest ones are judged.
    if len(gradient_norms) >= _LEAST_STEPS:
        usual = median(gradient_norms[-200:])
        highest = max(gradient_norms[-_LEAST_STEPS // 2 :])
        if math.isfinite(highest) and highest > _EXPLODED * max(usual, _VANISHED):
            found.append(
                f"the gradient exploded: its norm reached {highest:.3g}, usual is {usual:.3g}. Lower "
                f"{option} (now {rate:g}) to {rate / 3:.2g}, or raise --warmup."
            )
    quarter = len(losses) // 4
    if len(losses) >= _LEAST_STEPS:
        first, now = fmean(losses[:quarter]), fmean(losses[-quarter:])
        if now > first * (1 + 10 * _MOVED):
            found.append(
                f"the loss rises: from {first:.3f} to {now:.3f}. Lower {option} (now {rate:g}) "
                f"to {rate / 3:.2g}."
            )
        elif now > first * (1 - _MOVED):
            remedy = _NOT_MOVED.get(
                method,
                f"Raise {option} (now {rate:g}) to {rate * 3:.2g}, use more "
                f"--virtual-tokens{_OTHERWISE.get(method, ', or describe the task (--description)')}.",
            )
            found.append(f"the loss does not move: {first:.3f} at first, {now:.3f} now. {remedy}")
    return found
