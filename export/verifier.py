"""`edgept verify`: parity on demand, with peft itself as the reference where it can read the prompt."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgept.errors import ExportError, IncompatibleError
from edgept.export.chatter import logged
from edgept.export.fingerprint import fingerprint
from edgept.export.parity import TOLERANCE, Parity, Tally, measure_parity
from edgept.export.parity import reference_logits as plain_logits
from edgept.export.source import find_model, load_frozen
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model, load

__all__ = ["verify_bundle"]

_LENGTHS = (1, 5, 17, 33)
_GREEDY_TOKENS = 64
_SEED = 20250704


def verify_bundle(
    bundle: str | os.PathLike[str] | None,
    model: str,
    *,
    prompt: str | os.PathLike[str] | None = None,
    task_index: int | None = None,
    verify_text: str | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> Parity:
    """Compare a bundle with the model that it was exported from.

    Args:
        bundle: the folder; None takes $EDGEPT_BUNDLE, then ./bundle.
        model: local transformers folder or hub id.
        prompt: a prompt in any form. A peft folder is loaded by peft, and compared with what peft
            computes and generates; other forms go in as peft puts prompts in. None compares under
            random prompts, as the export does.
        task_index: the task of a multitask prompt.
        verify_text: a text on which perplexity is compared; without a prompt only.
        progress: called with what is being done.

    Raises:
        IncompatibleError: the model or the prompt is not the bundle's.
        UsageError: the bundle or the model cannot be read.
    """
    with logged():
        progress("loading the bundle")
        runtime = load(bundle)
        progress("loading the model in PyTorch")
        reference = load_frozen(find_model(model, runtime.manifest.task))
        found = fingerprint(reference)
        if found != runtime.manifest.fingerprint:
            raise IncompatibleError(
                f"{model} is not the model of {runtime.bundle}: its fingerprint is {found[:12]}…, the "
                f"bundle's ({runtime.manifest.source}) is {runtime.manifest.fingerprint[:12]}…. Give the "
                "model that was exported, or export this one."
            )
        progress("comparing")
        precision = runtime.manifest.precision
        if prompt is None:
            return measure_parity(reference, runtime, precision=precision, verify_text=verify_text)
        loaded = runtime.load_prompt(prompt, task_index=task_index)
        is_peft = (Path(prompt) / "adapter_config.json").is_file()
        if is_peft:
            return _against_peft(reference, runtime, loaded, Path(prompt), task_index)
        return _compare(
            runtime,
            loaded,
            f"{type(reference).__name__} in float32, PyTorch {torch.__version__}",
            lambda ids: plain_logits(reference, ids, loaded),
            None,
        )


def _against_peft(
    base: Any, runtime: Model, prompt: LoadedPrompt, folder: Path, task_index: int | None
) -> Parity:
    import peft
    from transformers import GenerationConfig

    try:
        model: Any = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ExportError(f"peft {peft.__version__} could not load {folder}: {error}") from error
    # The model's own generation settings (Qwen's repetition penalty, say) are left out: they are choices
    # of a request here, and what is compared is the model under the prompt.
    eos = runtime.manifest.eos_token_ids
    settings: Any = GenerationConfig
    plain = settings(do_sample=False, eos_token_id=eos or None, pad_token_id=eos[0] if eos else 0)
    extra = {} if task_index is None else {"task_ids": torch.tensor([task_index])}

    def logits(ids: Any) -> Any:
        tokens = torch.from_numpy(ids)[None]
        with torch.no_grad():
            output = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), **extra)
        return output.logits[0, -len(ids) :].float().numpy()

    def generate(ids: Any, count: int) -> tuple[list[int], list[Any]]:
        tokens = torch.from_numpy(ids)[None]
        with torch.no_grad():
            output = model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                generation_config=plain,
                max_new_tokens=count,
                return_dict_in_generate=True,
                output_scores=True,
                **extra,
            )
        scores = [step[0].float().numpy() for step in output.scores]
        return output.sequences[0, len(ids) :].tolist(), scores

    method = prompt.prompt.method
    reference = f"peft {peft.__version__} {method} on {type(base).__name__} in float32"
    return _compare(runtime, prompt, reference, logits, generate)


def _compare(
    runtime: Model,
    prompt: LoadedPrompt,
    reference: str,
    logits: Callable[[Any], Any],
    generate: Callable[[Any, int], tuple[list[int], list[Any]]] | None,
) -> Parity:
    random = np.random.default_rng(_SEED)
    tally = Tally(TOLERANCE[runtime.manifest.precision])
    room = runtime.max_length - prompt.num_virtual_tokens
    for length in _LENGTHS:
        ids = random.integers(0, runtime.manifest.vocab_size, min(length, room))
        tally.add(runtime.logits(ids.tolist(), prompt=prompt), logits(ids))
        count = min(_GREEDY_TOKENS, room - len(ids))
        if generate is not None and count > 0:
            expected, scores = generate(ids, count)
            found = runtime.generate(ids.tolist(), prompt=prompt, max_new_tokens=count).token_ids
            tally.add_greedy(found, expected, scores)
    return tally.parity(reference)
