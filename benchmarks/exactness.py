"""How near a bundle comes to peft's own model, cell by cell: a family, a task and a method.

`edgept verify` compares text by text: logits, and greedy tokens. Here come in addition batches of ragged
texts with different answers, beam search, and what padding changes in peft itself.
"""

import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from benchmarks.adapters import (
    METHODS,
    TASK_INDEX,
    load_adapter,
    load_base,
    make_adapter,
)
from benchmarks.families import Family, place_in_group, save_model
from edgept.errors import EdgeptError
from edgept.manifest import SEQ2SEQ_TASK
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model, load

__all__ = ["TOLERANCE", "Cell", "cells_to_run", "measure_family", "quiet", "shorten"]

Array: TypeAlias = npt.NDArray[np.float32]

TOLERANCE = 1e-4  # of float32
_LENGTHS = (4, 13, 30)
_ANSWER = [25, 90, 70, 70, 33]
_NEW_TOKENS = 64
_BEAMS = (1, 4)
_SEED = 3
_MOVES, _ROUNDINGS = 8, 2e-6
# What peft and transformers raise where they do not go together.
_PEFT_ERRORS = (ValueError, RuntimeError, AttributeError, TypeError, LookupError)


@dataclass(frozen=True)
class Cell:
    """What was found of one combination.

    Attributes:
        family: its title.
        task: as transformers names it.
        method: a key of METHODS.
        refused: why it does not run; empty where it does, and then the rest is None or 0 where it does
            not apply.
        is_built: whether onnxruntime-genai's builder wrote the graph, and not torch.onnx.
        max_rel: largest difference to peft, over peft's largest logit or hidden value.
        equal: tokens of greedy decoding and beam search that are peft's, up to the first that is not.
        ties: texts whose beams are not peft's, but what peft finds, too, when its prompt is changed by a few
            roundings; their tokens count as equal.
        tokens: that peft generates.
        diverged: of verify's greedy answers, those that left peft's where it had a clear favourite.
        right: as max_rel, to peft's batch with padding behind the texts.
        left: the same with padding before the texts.
        effect: as max_rel, of the bundle under the prompt to the bundle under a prompt of zeros.
    """

    family: str
    task: str
    method: str
    refused: str = ""
    is_built: bool = False
    max_rel: float | None = None
    equal: int = 0
    tokens: int = 0
    ties: int = 0
    diverged: int = 0
    right: float | None = None
    left: float | None = None
    effect: float | None = None

    @property
    def is_exact(self) -> bool:
        """Whether it runs, within the tolerance and with every token equal."""
        if self.max_rel is None or self.diverged:
            return False
        return self.max_rel <= TOLERANCE and self.equal == self.tokens


@dataclass(frozen=True)
class _Case:
    """One bundle, and the model that it was made from."""

    family: Family
    task: str
    folder: Path
    base: Any
    runtime: Model

    def rows(self) -> list[list[int]]:
        """Ragged texts, without special tokens."""
        random = np.random.default_rng(_SEED)
        vocabulary = self.runtime.manifest.vocab_size
        return [random.integers(14, vocabulary, length).tolist() for length in _LENGTHS]


def cells_to_run(family: Family, *, quick: bool) -> dict[str, tuple[str, ...]]:
    """Methods by task: all of them; or two for one task, such that all families together have each."""
    if not quick:
        return dict.fromkeys(family.tasks, tuple(METHODS))
    index = place_in_group(family)
    names = list(METHODS)
    chosen = tuple(names[(index + step) % len(names)] for step in (0, 3))
    return {family.tasks[index % len(family.tasks)]: chosen}


def measure_family(family: Family, folder: Path, methods: dict[str, tuple[str, ...]]) -> list[Cell]:
    """Every cell of a row.

    Args:
        family: the row.
        folder: for its model, bundles and adapters; replaced.
        methods: by task, see `cells_to_run`. All methods of a task run on one bundle.
    """
    from edgept.export import export_model
    from tests.peft_adapters import other_peoples_warnings

    shutil.rmtree(folder, ignore_errors=True)
    cells: list[Cell] = []
    with other_peoples_warnings():
        model = save_model(family, folder / family.kind)
        for task, names in methods.items():
            bundle = folder / task
            try:
                export_model(str(model), bundle, precision="fp32", task=task, verify=False)
                runtime = load(bundle, threads=1)
            except EdgeptError as error:
                why = shorten(error, folder)
                cells += [Cell(family.title, task, name, why) for name in names]
                continue
            case = _Case(family, task, folder, load_base(model, task), runtime)
            cells += [_measure(case, name) for name in names]
    return cells


def quiet() -> None:
    """Keep progress bars and reports of missing heads off the screen."""
    import torch
    import transformers

    library: Any = transformers  # whose functions have no types
    torch.set_num_threads(1)
    library.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()


def shorten(error: BaseException, folder: Path) -> str:
    """The first sentence of an error, without paths; the log that it names is removed."""
    text = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    for log in re.findall(r" Log: (\S+)", text):
        Path(log).unlink(missing_ok=True)
    text = text.split(" Log: ", maxsplit=1)[0]
    text = re.sub(rf"{re.escape(str(folder))}(/[\w.-]+)*", "it", text)
    text = re.sub(r"prompt '[^']*'", "the prompt", text)
    first = re.split(r"\. (?=[A-Z])|; ", text, maxsplit=1)[0].rstrip(".").replace("|", "/")
    return first if len(first) <= 300 else f"{first[:300]}…"


def _measure(case: _Case, method: str) -> Cell:
    from edgept.export import verify_bundle

    cell = Cell(case.family.title, case.task, method)
    index = TASK_INDEX if method == "multitask" else None
    rows = case.rows()
    try:
        folder = case.folder / f"{case.task}-{method}"
        folder = make_adapter(case.base, case.family.kind, case.task, method, folder)
        adapted = load_adapter(case.base, folder)
        padded = {
            side: _padded_outputs(adapted, case.task, method, rows, side)
            for side in ("right", "left")
        }
        answers = _answers(adapted, case.task, rows, index)
    except _PEFT_ERRORS as error:
        return replace(cell, refused=f"peft itself: {shorten(error, case.folder)}")
    try:
        prompt = case.runtime.load_prompt(folder, task_index=index)
        model = str(case.folder / case.family.kind)
        parity = verify_bundle(case.runtime.bundle, model, prompt=folder, task_index=index)
        outputs = _outputs(case, prompt, rows)
        without = _outputs(case, _zeroed(case.runtime, prompt), rows)
        found = _generated(case, prompt, rows)
    except EdgeptError as error:
        return replace(cell, refused=shorten(error, case.folder))
    pairs = [*zip(found, answers, strict=True)]
    ties = 0
    for place, (mine, theirs) in enumerate(pairs):
        beams, row = _BEAMS[place // len(rows)], rows[place % len(rows)]
        if beams > 1 and mine != theirs and _is_tie(adapted, row, index, beams, mine):
            pairs[place] = (mine, mine)
            ties += 1
    kv = case.runtime.manifest.kv
    return replace(
        cell,
        is_built=kv is not None and kv.shared_buffer,
        max_rel=parity.max_rel,
        equal=parity.greedy_equal + sum(_same_tokens(*pair) for pair in pairs),
        tokens=parity.greedy_total + sum(len(theirs) for _, theirs in pairs),
        ties=ties,
        diverged=parity.greedy_diverged,
        right=_difference(outputs, padded["right"]),
        left=_difference(outputs, padded["left"]),
        effect=_difference(without, outputs),
    )


def _is_tie(adapted: Any, row: list[int], index: int | None, beams: int, found: list[int]) -> bool:
    """Whether peft itself finds these beams when its prompt is moved by some of float32's roundings.

    Of beams whose scores differ by less than rounding does, which is dropped is chance.
    """
    import torch

    from tests.seq2seq_models import generate

    prompts = [
        parameter for name, parameter in adapted.named_parameters() if "prompt_encoder" in name
    ]
    kept = [prompt.detach().clone() for prompt in prompts]
    torch.manual_seed(_SEED)
    is_found = False
    for _ in range(_MOVES):
        with torch.no_grad():
            for prompt, values in zip(prompts, kept, strict=True):
                prompt.copy_(values * (1 + _ROUNDINGS * torch.randn_like(values)))
        is_found = is_found or generate(adapted, row, _NEW_TOKENS, index, num_beams=beams) == found
    with torch.no_grad():
        for prompt, values in zip(prompts, kept, strict=True):
            prompt.copy_(values)
    return is_found


def _zeroed(runtime: Model, prompt: LoadedPrompt) -> LoadedPrompt:
    """The same head behind virtual tokens that say nothing."""
    tensors = {
        name: np.zeros_like(tensor) if name.startswith("prompt_") else tensor
        for name, tensor in prompt.prompt.tensors.items()
    }
    return runtime.load_prompt(replace(prompt.prompt, tensors=tensors))


def _padded_outputs(
    adapted: Any, task: str, method: str, rows: Sequence[list[int]], side: str
) -> list[Array]:
    """What peft computes of one padded batch, text by text, without what stands at pads.

    Nothing for a multitask prompt of an encoder-decoder: its forward also puts rows before the decoder,
    which its generate does not.
    """
    import torch

    from edgept.export.encoder_exporter import read_output

    if (task, method) == (SEQ2SEQ_TASK, "multitask"):
        return []
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), int(adapted.config.pad_token_id or 0))
    mask = torch.zeros_like(ids)
    begins = [width - len(row) if side == "left" else 0 for row in rows]
    for index, (row, begin) in enumerate(zip(rows, begins, strict=True)):
        ids[index, begin : begin + len(row)] = torch.tensor(row)
        mask[index, begin : begin + len(row)] = 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    if method == "multitask":
        inputs["task_ids"] = torch.full((len(rows),), TASK_INDEX)
    if task == SEQ2SEQ_TASK:
        answer = [adapted.generation_config.decoder_start_token_id, *_ANSWER]
        inputs["decoder_input_ids"] = torch.tensor([answer] * len(rows))
    with torch.no_grad():
        found: Array = read_output(adapted(**inputs), task).float().numpy()
    if task in (SEQ2SEQ_TASK, "text-classification"):
        return list(found)
    # (virtual + text tokens, width of the output); under keys and values there are no virtual ones
    front = found.shape[1] - width
    texts = [
        output[front + begin : front + begin + len(row)]
        for output, row, begin in zip(found, rows, begins, strict=True)
    ]
    if task == "text-generation":
        return texts
    return [
        np.concatenate([output[:front], text]) for output, text in zip(found, texts, strict=True)
    ]


def _outputs(case: _Case, prompt: LoadedPrompt, rows: Sequence[list[int]]) -> list[Array]:
    """The bundle's outputs of the same."""
    runtime = case.runtime
    if case.task == "text-generation":
        return [runtime.logits(row, prompt=prompt) for row in rows]
    if case.task == SEQ2SEQ_TASK:
        runner = runtime._seq2seq("logits")
        return [runner.logits(runtime._compose(row, prompt), _ANSWER) for row in rows]
    return runtime.outputs_batch([(row, prompt) for row in rows])


def _answers(
    adapted: Any, task: str, rows: Sequence[list[int]], index: int | None
) -> list[list[int]]:
    """What peft generates of each text alone: greedily, and with beams where bundles have them."""
    from tests.peft_adapters import peft_generate
    from tests.seq2seq_models import generate

    if task == "text-generation":
        return [peft_generate(adapted, row, _NEW_TOKENS, index) for row in rows]
    if task == SEQ2SEQ_TASK:
        return [
            generate(adapted, row, _NEW_TOKENS, index, num_beams=beams)
            for beams in _BEAMS
            for row in rows
        ]
    return []


def _generated(case: _Case, prompt: LoadedPrompt, rows: Sequence[list[int]]) -> list[list[int]]:
    """What the bundle generates of the texts in one batch, in the order of `_answers`."""
    if case.task not in ("text-generation", SEQ2SEQ_TASK):
        return []
    requests = [(row, prompt) for row in rows]
    return [
        result.token_ids
        for beams in (_BEAMS if case.task == SEQ2SEQ_TASK else (1,))
        for result in case.runtime.generate_batch(
            requests, max_new_tokens=_NEW_TOKENS, num_beams=beams
        )
    ]


def _same_tokens(found: Sequence[int], expected: Sequence[int]) -> int:
    """Tokens up to the first that differs; one less where only the lengths do."""
    for step, (left, right) in enumerate(zip(found, expected, strict=False)):
        if left != right:
            return step
    return min(len(found), len(expected) - (len(found) > len(expected)))


def _difference(found: Sequence[Array], expected: Sequence[Array]) -> float | None:
    """The largest relative difference of all texts; None where there is nothing to compare."""
    if not expected:
        return None
    return float(np.max([_relative(*pair) for pair in zip(found, expected, strict=True)]))


def _relative(found: Array, expected: Array) -> float:
    if found.shape != expected.shape:
        return math.inf
    return float(np.abs(found - expected).max() / np.abs(expected).max())
