"""Parity of an encoder-decoder's bundle: the frozen PyTorch model against it, under random prompts.

What is compared, at ragged lengths, without a prompt, behind virtual tokens and behind random initial
keys and values of the decoder: the logits along given answers, in one run and step by step; greedy answers
and those of beam search, alone and in one batch, under the model's own generation_config.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache, EncoderDecoderCache

from edgept.export.random_prompts import random_prefix, random_rows
from edgept.export.tally import Tally
from edgept.manifest import SEQ2SEQ_TASK
from edgept.prompt import Prompt
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model

__all__ = ["measure_seq2seq", "reference_answer", "reference_logits"]

# Virtual tokens of each random prompt, and the length of the text behind it; 0 is the plain model.
_PROMPTS = ((0, 17), (1, 5), (8, 1), (20, 33))
_PREFIX = (6, 9)
_ANSWER = 12  # tokens of a given answer
_BEAMS = 4
# PyTorch decodes slowly: large models are compared over fewer tokens.
_NEW_TOKENS, _NEW_TOKENS_LARGE = 64, 16
_LARGE_PARAMETERS = 30_000_000

Prompted = tuple[list[int], LoadedPrompt | None]


def measure_seq2seq(
    reference: Any, model: Model, tally: Tally, random: np.random.Generator
) -> None:
    """Compare under random prompts, into a tally."""
    requests = _random_requests(reference, model, random)
    answers = int(model._graph.output_size)
    for ids, prompt in requests:
        answer = random.integers(0, answers, min(_ANSWER, model.max_length // 2)).tolist()
        expected = reference_logits(reference, ids, prompt, answer)
        request = model._compose(ids, prompt)
        tally.add(model._seq2seq("logits").logits(request, answer), expected)
        tally.add(_stepwise(model, ids, prompt, answer), expected)
    is_large = sum(item.numel() for item in reference.parameters()) > _LARGE_PARAMETERS
    longest_prefix = max(prompt.num_virtual_tokens for _, prompt in requests if prompt is not None)
    room = model.max_length - 1 - longest_prefix
    count = max(1, min(_NEW_TOKENS_LARGE if is_large else _NEW_TOKENS, room))
    for beams in (1, _BEAMS):
        batch = model.generate_batch(requests, max_new_tokens=count, num_beams=beams)
        for (ids, prompt), row in zip(requests, batch, strict=True):
            if beams > 1 and prompt is not None and prompt.rows is None:
                continue  # transformers' beams take no cache that is begun; peft's do, see the tests
            alone = model.generate(ids, prompt=prompt, max_new_tokens=count, num_beams=beams)
            answer, scores = reference_answer(reference, ids, prompt, count, beams)
            for found in (alone.token_ids, row.token_ids):
                if beams == 1:
                    tally.add_greedy(found, answer, scores)
                else:
                    own, scale = _score(reference, ids, prompt, answer)
                    gap = 0.0 if found == answer else own - _score(reference, ids, prompt, found)[0]
                    tally.add_beams(found, answer, gap, scale)


def reference_logits(
    reference: Any, ids: list[int], prompt: LoadedPrompt | None, answer: list[int]
) -> npt.NDArray[np.float32]:
    """PyTorch's logits (answer + 1, vocabulary) of what follows the start token and each of an answer's."""
    start = _start(reference)
    past = {} if prompt is None or prompt.rows is not None else {"past_key_values": _cache(prompt)}
    with torch.no_grad():
        output = reference(
            **_inputs(reference, ids, prompt),
            decoder_input_ids=torch.tensor([[start, *answer]]),
            use_cache=True,
            **past,
        )
        logits: npt.NDArray[np.float32] = output.logits[0].float().numpy()
        return logits


def reference_answer(
    reference: Any, ids: list[int], prompt: LoadedPrompt | None, count: int, beams: int
) -> tuple[list[int], list[npt.NDArray[np.float32]]]:
    """What transformers generates, and of greedy decoding the logits (vocabulary,) of each."""
    if prompt is not None and prompt.rows is None:
        return _greedy_behind_prefix(reference, ids, prompt, count)
    with torch.no_grad():
        output = reference.generate(
            **_inputs(reference, ids, prompt),
            # its own has as many layers as the encoder
            past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),
            max_new_tokens=count,
            do_sample=False,
            num_beams=beams,
            repetition_penalty=1.0,
            return_dict_in_generate=True,
            output_logits=True,
        )
    scores = [] if beams > 1 else [step[0].float().numpy() for step in output.logits]
    return output.sequences[0, 1:].tolist(), scores


def _greedy_behind_prefix(
    reference: Any, ids: list[int], prompt: LoadedPrompt, count: int
) -> tuple[list[int], list[npt.NDArray[np.float32]]]:
    """The same from keys and values that the decoder begins with, as peft begins it."""
    model = reference
    config, _ = model._prepare_generation_config(None, max_new_tokens=count, do_sample=False)
    config.max_length, config.repetition_penalty = count + 1, 1.0
    model._prepare_special_tokens(config, device=model.device)
    rules: Any = model._get_logits_processor(config, input_ids_seq_length=1)
    ends = config.eos_token_id
    eos = set(ends if isinstance(ends, list) else [ends])
    answer = torch.tensor([[_start(reference)]])
    cache: Any = _cache(prompt)
    scores: list[npt.NDArray[np.float32]] = []
    with torch.no_grad():
        encoded = reference.get_encoder()(input_ids=torch.tensor([ids]))
        while True:
            output = reference(
                encoder_outputs=encoded,
                decoder_input_ids=answer[:, -1:],
                past_key_values=cache,
                use_cache=True,
            )
            logits = output.logits[:, -1].float()
            scores.append(logits[0].numpy())
            chosen = rules(answer, logits).argmax(-1)
            answer = torch.cat([answer, chosen[:, None]], dim=1)
            if len(scores) == count or int(chosen) in eos:
                return answer[0, 1:].tolist(), scores


def _inputs(reference: Any, ids: list[int], prompt: LoadedPrompt | None) -> dict[str, Any]:
    """A text's inputs to the encoder; under a prompt of rows they are embeddings, as peft's are."""
    tokens = torch.tensor([ids])
    if prompt is None or prompt.rows is None:
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    rows = torch.from_numpy(np.array(prompt.rows, np.float32))[None]
    embeds = torch.cat([rows, reference.get_input_embeddings()(tokens)], dim=1)
    return {
        "inputs_embeds": embeds,
        "attention_mask": torch.ones(embeds.shape[:2], dtype=torch.long),
    }


def _cache(prompt: LoadedPrompt) -> EncoderDecoderCache:
    past = torch.from_numpy(np.array(prompt.kv, np.float32))[:, None]
    pairs: Any = list(zip(past[::2], past[1::2], strict=True))
    return EncoderDecoderCache(DynamicCache(pairs), DynamicCache())


def _start(reference: Any) -> int:
    settings = reference.generation_config
    start = settings.decoder_start_token_id
    return int(settings.bos_token_id if start is None else start)


def _score(
    reference: Any, ids: list[int], prompt: LoadedPrompt | None, answer: list[int]
) -> tuple[float, float]:
    """Log-probability of an answer in PyTorch, and the sum over its tokens of the largest logit."""
    logits = torch.from_numpy(reference_logits(reference, ids, prompt, answer[:-1])).double()
    chosen = torch.log_softmax(logits, -1)[torch.arange(len(answer)), torch.tensor(answer)]
    return float(chosen.sum()), float(logits.abs().amax(-1).sum())


def _random_requests(reference: Any, model: Model, random: np.random.Generator) -> list[Prompted]:
    requests: list[Prompted] = []
    prompts: list[tuple[LoadedPrompt | None, int]] = []
    for count, length in _PROMPTS:
        tensors = random_rows(reference, model, count, random) if count else None
        prompt = None
        if tensors is not None:
            prompt = model.load_prompt(Prompt(tensors, f"random-{count}", task=SEQ2SEQ_TASK))
        prompts.append((prompt, length))
    tensors = random_prefix(model, _PREFIX[0], random)
    prefix = model.load_prompt(Prompt(tensors, "random-prefix", task=SEQ2SEQ_TASK))
    prompts.append((prefix, _PREFIX[1]))
    for prompt, length in prompts:
        room = model.max_length - (prompt.num_virtual_tokens if prompt else 0)
        ids = random.integers(0, model.manifest.vocab_size, min(length, room)).tolist()
        requests.append((ids, prompt))
    return requests


def _stepwise(
    model: Model, ids: list[int], prompt: LoadedPrompt | None, answer: list[int]
) -> npt.NDArray[np.float32]:
    """The bundle's logits (answer + 1, vocabulary), a token at a time on one cache, as decoding runs."""
    decoder = model._seq2seq("logits").decoder
    request = model._compose(ids, prompt)
    cache = decoder.open(request, 0)
    logits = [decoder.prefill(cache, request)[0, -1]]
    logits += [decoder.step(cache, [token])[0, -1] for token in answer]
    return np.stack(logits)
