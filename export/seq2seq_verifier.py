"""An encoder-decoder's bundle under one prompt, against PyTorch or peft itself."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgept.export.seq2seq_parity import reference_answer, reference_logits
from edgept.export.tally import TOLERANCE, Parity, Tally
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model

__all__ = ["compare_answers"]

_LENGTHS = (1, 5, 17, 33)
_ANSWER = 12
_NEW_TOKENS = 64
_SEED = 20250704


def compare_answers(
    base: Any,
    runtime: Model,
    prompt: LoadedPrompt,
    adapted: Any,
    task_index: int | None,
    reference: str,
) -> Parity:
    """Compare logits along given answers, and greedy answers, of texts of several lengths.

    Args:
        base: the frozen model.
        runtime: the bundle.
        prompt: loaded there.
        adapted: peft's model of the same prompt; None puts the prompt in as peft does.
        task_index: of a multitask prompt.
        reference: names the PyTorch side.
    """
    random = np.random.default_rng(_SEED)
    tally = Tally(TOLERANCE[runtime.manifest.precision])
    generator = runtime._seq2seq("generate")
    room = runtime.max_length - prompt.num_virtual_tokens
    count = min(_NEW_TOKENS, room - 1)
    for length in _LENGTHS:
        ids = random.integers(0, runtime.manifest.vocab_size, min(length, room)).tolist()
        answer = random.integers(0, int(runtime._graph.output_size), _ANSWER).tolist()[: room - 1]
        found = generator.logits(runtime._compose(ids, prompt), answer)
        # peft's forward puts a multitask prompt before the decoder, too; its generate does not, nor do we
        is_multitask = prompt.prompt.method == "multitask_prompt_tuning"
        if adapted is None or is_multitask:
            tally.add(found, reference_logits(base, ids, prompt, answer))
        else:
            tally.add(found, _peft_logits(adapted, ids, answer))
        if adapted is None:
            expected, scores = reference_answer(base, ids, prompt, count, 1)
        else:
            expected, scores = _peft_answer(adapted, ids, count, task_index)
        result = runtime.generate(ids, prompt=prompt, max_new_tokens=count, num_beams=1)
        tally.add_greedy(result.token_ids, expected, scores)
    return tally.parity(reference)


def _peft_logits(adapted: Any, ids: list[int], answer: list[int]) -> npt.NDArray[np.float32]:
    tokens = torch.tensor([ids])
    start = adapted.generation_config.decoder_start_token_id
    start = adapted.generation_config.bos_token_id if start is None else start
    with torch.no_grad():
        output = adapted(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            decoder_input_ids=torch.tensor([[start, *answer]]),
        )
    logits: npt.NDArray[np.float32] = output.logits[0].float().numpy()
    return logits


def _peft_answer(
    adapted: Any, ids: list[int], count: int, task_index: int | None
) -> tuple[list[int], list[npt.NDArray[np.float32]]]:
    tokens = torch.tensor([ids])
    extra = {} if task_index is None else {"task_ids": torch.tensor([task_index])}
    with torch.no_grad():
        output = adapted.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=count,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            return_dict_in_generate=True,
            output_logits=True,
            **extra,
        )
    scores = [step[0].float().numpy() for step in output.logits]
    return output.sequences[0, 1:].tolist(), scores
