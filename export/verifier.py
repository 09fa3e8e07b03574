"""`edgept verify`: parity on demand, with peft itself as the reference where it can read the prompt."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgept.errors import ExportError, IncompatibleError, UsageError
from edgept.export.chatter import logged
from edgept.export.data_parity import compare_rows, read_rows
from edgept.export.encoder_exporter import read_output
from edgept.export.fingerprint import fingerprint
from edgept.export.forward_parity import Request, tally_requests
from edgept.export.heads import find_layers, head_name
from edgept.export.parity import measure_parity, plain_output
from edgept.export.seq2seq_verifier import compare_answers
from edgept.export.source import find_model, load_frozen
from edgept.export.tally import TOLERANCE, Parity, Tally
from edgept.export.vision_parity import compare_pictures
from edgept.manifest import SEQ2SEQ_TASK
from edgept.prompt_source import load_prompt_source
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model, load

if TYPE_CHECKING:
    from edgept.tune.data import Data
    from edgept.tune.settings import Columns

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
    verify_data: str | os.PathLike[str] | None = None,
    columns: "Columns | None" = None,
    labels: Sequence[str] | None = None,
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
        verify_data: rows as `edgept tune` takes them, on which the task's metric is compared, too:
            accuracy of classes, perplexity of answers.
        columns: names of the columns there.
        labels: names of the classes of the prompt's head, in order, where it has none itself.
        progress: called with what is being done.

    Raises:
        IncompatibleError: the model or the prompt is not the bundle's.
        UsageError: the bundle or the model cannot be read.
    """
    with logged():
        progress("loading the bundle")
        runtime = load(bundle)
        task = runtime.manifest.task
        data = None if verify_data is None else read_rows(verify_data, columns, task)
        progress("loading the model in PyTorch")
        reference = load_frozen(find_model(model, task))
        found = fingerprint(reference)
        if found != runtime.manifest.fingerprint:
            raise IncompatibleError(
                f"{model} is not the model of {runtime.bundle}: its fingerprint is {found[:12]}…, the "
                f"bundle's ({runtime.manifest.source}) is {runtime.manifest.fingerprint[:12]}…. Give the "
                "model that was exported, or export this one."
            )
        progress("comparing")
        if prompt is None:
            return measure_parity(
                reference,
                runtime,
                precision=runtime.manifest.precision,
                verify_text=verify_text,
                data=data,
            )
        loaded = _load_prompt(runtime, prompt, task_index, labels)
        is_peft = (Path(prompt) / "adapter_config.json").is_file()
        if runtime.manifest.image is not None:
            return _compare_pictures(reference, runtime, loaded)
        if task == SEQ2SEQ_TASK:
            adapted = _load_peft(reference, Path(prompt)) if is_peft else None
            named = _peft_name(reference, loaded) if is_peft else _plain_name(reference)
            return compare_answers(reference, runtime, loaded, adapted, task_index, named)
        if task != "text-generation":
            folder = Path(prompt) if is_peft else None
            return _compare_forward(reference, runtime, loaded, folder, task_index, data)
        if is_peft:
            return _against_peft(reference, runtime, loaded, Path(prompt), task_index, data)
        return _compare(
            runtime,
            loaded,
            _plain_name(reference),
            plain_output(reference, runtime, loaded),
            None,
            data,
        )


def _compare_pictures(reference: Any, runtime: Model, prompt: LoadedPrompt) -> Parity:
    """Random pictures under a prompt, which goes into transformers' layers as it does into the graph."""
    if "head.weight" not in prompt.prompt.tensors:
        raise UsageError(
            f"prompt {prompt.name!r} has no head, so there is nothing of its own to compare. Leave --prompt "
            "out: random prompts are compared then."
        )
    tally = Tally(TOLERANCE[runtime.manifest.precision])
    compare_pictures(reference, runtime, [prompt], tally, np.random.default_rng(_SEED))
    return tally.parity(_plain_name(reference), None, None)


def _load_prompt(
    runtime: Model,
    source: str | os.PathLike[str],
    task_index: int | None,
    labels: Sequence[str] | None,
) -> LoadedPrompt:
    if labels is None:
        return runtime.load_prompt(source, task_index=task_index)
    prompt = load_prompt_source(source, runtime.manifest, task_index=task_index)
    return runtime.load_prompt(replace(prompt, labels=tuple(labels)))


def _against_peft(
    base: Any,
    runtime: Model,
    prompt: LoadedPrompt,
    folder: Path,
    task_index: int | None,
    data: "Data | None",
) -> Parity:
    from transformers import GenerationConfig

    model = _load_peft(base, folder)
    # The model's own generation settings (Qwen's repetition penalty, say) are left out: they are choices
    # of a request here, and what is compared is the model under the prompt.
    eos = runtime.manifest.eos_token_ids
    settings: Any = GenerationConfig
    plain = settings(do_sample=False, eos_token_id=eos or None, pad_token_id=eos[0] if eos else 0)
    extra = {} if task_index is None else {"task_ids": torch.tensor([task_index])}

    def logits(ids: list[int]) -> Any:
        tokens = torch.tensor([ids])
        with torch.no_grad():
            output = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), **extra)
        return output.logits[0, -len(ids) :].float().numpy()

    def generate(ids: list[int], count: int) -> tuple[list[int], list[Any]]:
        tokens = torch.tensor([ids])
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

    return _compare(runtime, prompt, _peft_name(base, prompt), logits, generate, data)


def _compare_forward(
    base: Any,
    runtime: Model,
    prompt: LoadedPrompt,
    folder: Path | None,
    task_index: int | None,
    data: "Data | None",
) -> Parity:
    """Texts of several lengths, alone and in one batch; peft itself is the reference where there is a folder."""
    tally = Tally(TOLERANCE[runtime.manifest.precision])
    random = np.random.default_rng(_SEED)
    room = runtime.max_length - prompt.num_virtual_tokens
    vocabulary = runtime.manifest.vocab_size
    texts = [random.integers(0, vocabulary, min(length, room)).tolist() for length in _LENGTHS]
    if folder is None:
        reference, output = _plain_name(base), plain_output(base, runtime, prompt)
    else:
        reference = _peft_name(base, prompt)
        output = _peft_output(base, runtime.manifest.task, prompt, folder, task_index)
    expected = [output(ids) for ids in texts]
    requests: list[Request] = [(ids, prompt) for ids in texts]
    tally_requests(runtime, requests, expected, tally)
    on_rows = None if data is None else compare_rows(data, runtime, prompt, output)
    return tally.parity(reference, on_rows=on_rows)


def _peft_output(
    base: Any, task: str, prompt: LoadedPrompt, folder: Path, task_index: int | None
) -> Callable[[list[int]], Any]:
    """A function from token ids to what peft's model gives; as `read_output`, of one row."""
    if prompt.head is not None:
        # peft puts its saved head in place of one that has as many classes
        name, classes = head_name(base), len(prompt.head.labels)
        own = find_layers(base)[name]
        head = torch.nn.Linear(own.in_features, classes, bias=own.bias is not None)
        parent, _, attribute = name.rpartition(".")
        setattr(base.get_submodule(parent), attribute, head)
        base.config.num_labels = base.num_labels = classes
    model = _load_peft(base, folder)
    extra = {} if task_index is None else {"task_ids": torch.tensor([task_index])}

    def output(ids: list[int]) -> Any:
        tokens = torch.tensor([ids])
        with torch.no_grad():
            found = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), **extra)
        return read_output(found, task)[0].float().numpy()

    return output


def _load_peft(base: Any, folder: Path) -> Any:
    import peft

    try:
        return peft.PeftModel.from_pretrained(base, str(folder)).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ExportError(f"peft {peft.__version__} could not load {folder}: {error}") from error


def _plain_name(base: Any) -> str:
    return f"{type(base).__name__} in float32, PyTorch {torch.__version__}"


def _peft_name(base: Any, prompt: LoadedPrompt) -> str:
    import peft

    return f"peft {peft.__version__} {prompt.prompt.method} on {type(base).__name__} in float32"


def _compare(
    runtime: Model,
    prompt: LoadedPrompt,
    reference: str,
    logits: Callable[[list[int]], Any],
    generate: Callable[[list[int], int], tuple[list[int], list[Any]]] | None,
    data: "Data | None",
) -> Parity:
    random = np.random.default_rng(_SEED)
    tally = Tally(TOLERANCE[runtime.manifest.precision])
    room = runtime.max_length - prompt.num_virtual_tokens
    for length in _LENGTHS:
        ids = random.integers(0, runtime.manifest.vocab_size, min(length, room)).tolist()
        tally.add(runtime.logits(ids, prompt=prompt), logits(ids))
        count = min(_GREEDY_TOKENS, room - len(ids))
        if generate is not None and count > 0:
            expected, scores = generate(ids, count)
            found = runtime.generate(ids, prompt=prompt, max_new_tokens=count).token_ids
            tally.add_greedy(found, expected, scores)
    on_rows = None if data is None else compare_rows(data, runtime, prompt, logits)
    return tally.parity(reference, on_rows=on_rows)
