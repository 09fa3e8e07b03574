"""Parity: the frozen PyTorch model against the bundle, figure by figure, and the verdict."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from edgept.errors import ExportError, UsageError
from edgept.export.data_parity import compare_rows
from edgept.export.forward_parity import measure_forward, reference_output
from edgept.export.generation_parity import (
    compare_perplexity,
    measure_generation,
    reference_logits,
)
from edgept.export.seq2seq_parity import measure_seq2seq
from edgept.export.tally import TOLERANCE, Parity, Tally
from edgept.export.vision_parity import measure_vision
from edgept.manifest import SEQ2SEQ_TASK
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model

if TYPE_CHECKING:
    from edgept.tune.data import Data

__all__ = ["check_parity", "measure_parity", "plain_output"]

_SEED = 20250704


def check_parity(
    reference: Any,
    model: Model,
    *,
    precision: str,
    verify_text: str | None = None,
    data: "Data | None" = None,
) -> Parity:
    """Compare under random prompts, and judge.

    Args:
        reference: the frozen transformers model in float32.
        model: the bundle, loaded.
        precision: of the bundle, which decides the tolerance.
        verify_text: a text to measure perplexity on, before and after.
        data: rows to measure the task's metric on, before and after.

    Raises:
        ExportError: the difference is above the tolerance, or not a number.
    """
    parity = measure_parity(
        reference, model, precision=precision, verify_text=verify_text, data=data
    )
    if not parity.passed:
        limit = "finite" if parity.tolerance is None else f"at most {parity.tolerance:g}"
        found = f"relative logit difference {parity.max_rel:.3g}, expected {limit}"
        if parity.greedy_diverged:
            found += f"; {parity.greedy_diverged} greedy rows left PyTorch's, expected none"
        raise ExportError(
            f"the bundle does not compute what the PyTorch model computes: {found} ({parity}). Please "
            "report this model's config.json; --no-verify exports it regardless."
        )
    return parity


def measure_parity(
    reference: Any,
    model: Model,
    *,
    precision: str,
    verify_text: str | None = None,
    data: "Data | None" = None,
) -> Parity:
    """Compare under random prompts; arguments as `check_parity`, which also judges.

    Raises:
        UsageError: a text is given, and the bundle's task has no perplexity.
    """
    generates = model.manifest.task == "text-generation"
    if verify_text is not None and not generates:
        raise UsageError(
            f"--verify-text measures perplexity, which a bundle for {model.manifest.task} has none of. "
            "Leave it out."
        )
    tally = Tally(TOLERANCE[precision])
    measure = {
        "text-generation": measure_generation,
        SEQ2SEQ_TASK: measure_seq2seq,
    }.get(model.manifest.task, measure_forward)
    if model.manifest.image is not None:
        measure = measure_vision
    measure(reference, model, tally, np.random.default_rng(_SEED))
    perplexity = None
    if verify_text is not None:
        perplexity = compare_perplexity(reference, model, verify_text)
    on_rows = None
    if data is not None:
        on_rows = compare_rows(data, model, None, plain_output(reference, model, None))
    return tally.parity(
        f"{type(reference).__name__} in float32, PyTorch {torch.__version__}", perplexity, on_rows
    )


def plain_output(
    reference: Any, model: Model, prompt: LoadedPrompt | None
) -> Callable[[list[int]], npt.NDArray[np.float32]]:
    """What the frozen PyTorch model computes of token ids under a prompt, put in as peft does.

    Returns:
        A function from token ids to logits, (tokens, vocabulary) or (classes,).
    """
    if model.manifest.task == "text-generation":
        return lambda ids: reference_logits(reference, np.array(ids, np.int64), prompt)
    return lambda ids: reference_output(reference, model.manifest.task, ids, prompt)
