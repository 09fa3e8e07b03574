"""Whether a prompt reaches a model's output at all: one that is silently ignored is worse than none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgept.errors import IncompatibleError
from edgept.runtime.content import Input, LoadedPrompt, compose

__all__ = ["Probed", "check_effect", "check_image_effect"]


class Probed(Protocol):
    """What runs requests on one bundle."""

    def probe(self, request: Input) -> npt.NDArray[Any] | None:
        """Outputs at the text's own tokens, as the graph gives them; None where the request cannot run."""


def check_effect(runner: Probed, prompt: LoadedPrompt, vocab_size: int, bundle: object) -> bool:
    """Run a token behind a prompt's largest virtual token, and behind its negative.

    The number of positions is the same, so that the values alone can make the difference. Two runs of two
    tokens are cheap, yet not free: enough for the first prompt of each kind on a bundle, since what
    takes one prompt's values takes those of others.

    Args:
        runner: of the bundle.
        prompt: resident, with virtual tokens.
        vocab_size: of the bundle.
        bundle: its folder, for the error.

    Returns:
        Whether an effect was seen. A prompt of zeros shows none, nor one that lacks a head to be run with;
        they are let through.

    Raises:
        IncompatibleError: the outputs are the same, to the last bit.
    """
    values = prompt.kv if prompt.rows is None else prompt.rows
    if values is None:
        raise AssertionError("a prompt with virtual tokens has rows, or keys and values")
    return _changes_output(
        values,
        lambda chosen: runner.probe(
            compose(
                [vocab_size // 2],
                _of_one_token(prompt, chosen),
                tokenizer=None,
                vocab_size=vocab_size,
                model=prompt.model,
            )
        ),
        prompt.name,
        bundle,
    )


def check_image_effect(
    probe: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], prompt: LoadedPrompt, bundle: object
) -> bool:
    """`check_effect` for a model of images.

    Args:
        probe: features of some picture under a table of rows (layers or 1, virtual tokens, hidden).
        prompt: resident, with virtual tokens.
        bundle: its folder, for the error.
    """
    if prompt.rows is None:
        raise AssertionError("an image prompt with virtual tokens has rows")
    return _changes_output(prompt.rows, probe, prompt.name, bundle)


def _changes_output(
    values: npt.NDArray[Any],
    probe: Callable[[npt.NDArray[Any]], npt.NDArray[Any] | None],
    name: str,
    bundle: object,
) -> bool:
    """Whether outputs differ under the largest virtual token of (…, virtual tokens, width) and its negative."""
    sizes = np.abs(np.moveaxis(values, -2, 0).reshape(values.shape[-2], -1)).max(axis=1)
    if not sizes.any():
        return False
    one = values[..., [sizes.argmax()], :]  # (…, 1, width)
    under, opposite = probe(one), probe(-one)
    if under is None or opposite is None:
        return False
    if np.array_equal(under, opposite):
        raise IncompatibleError(
            f"prompt {name!r} changes nothing: {bundle} gives the same output behind a virtual token "
            "and behind its negative. Export the model again, and run the graph as it was exported."
        )
    return True


def _of_one_token(prompt: LoadedPrompt, values: npt.NDArray[Any]) -> LoadedPrompt:
    """The same head behind one virtual token; rows are run, not copied as keys and values."""
    if prompt.rows is None:
        kv = prompt.prompt.tensors["prompt_kv"][:, :, :, :1]
        tensors = {**prompt.prompt.tensors, "prompt_kv": kv}
        return replace(prompt, kv=values, prompt=replace(prompt.prompt, tensors=tensors))
    tensors = {**prompt.prompt.tensors, "prompt_embeds": values}
    return replace(prompt, rows=values, kv=None, prompt=replace(prompt.prompt, tensors=tensors))
