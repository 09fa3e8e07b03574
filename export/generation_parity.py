"""Parity of a generating bundle: the frozen PyTorch model against it, under random prompts.

What is compared, at ragged lengths: prefill without a prompt, behind virtual tokens (whose keys and
values the runtime computes beforehand), with virtual tokens in the middle of a text, and behind
random initial keys and values (prefix tuning); decoding step by step over given tokens; greedy
decoding, in one mixed batch and alone.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from edgept.export.random_prompts import random_prefix, random_rows
from edgept.export.tally import Tally
from edgept.prompt import Prompt
from edgept.runtime.content import Content, LoadedPrompt
from edgept.runtime.model import Model
from edgept.runtime.perplexity import PERPLEXITY_WINDOW

__all__ = ["compare_perplexity", "measure_generation", "reference_logits"]

# PyTorch decodes slowly: large models are compared over fewer tokens.
_GREEDY_TOKENS, _GREEDY_TOKENS_LARGE = 64, 16
_LARGE_PARAMETERS = 30_000_000


def measure_generation(
    reference: Any, model: Model, tally: Tally, random: np.random.Generator
) -> None:
    """Compare under random prompts, into a tally."""
    prompts = _random_prompts(reference, model, random)
    for prompt, length in prompts:
        ids = random.integers(0, model.manifest.vocab_size, length)
        expected = reference_logits(reference, ids, prompt)
        tally.add(model.logits(ids.tolist(), prompt=prompt), expected)
        tally.add(_stepwise(model, ids, prompt), expected)
    _compare_inside(reference, model, random, tally, prompts)
    _compare_greedy(reference, model, random, tally, prompts)


def reference_logits(
    reference: Any, ids: npt.NDArray[np.int64], prompt: LoadedPrompt | None
) -> npt.NDArray[np.float32]:
    """PyTorch's logits (tokens, vocabulary) of ids behind a prompt, put in as peft does."""
    with torch.no_grad():
        tokens = torch.from_numpy(np.asarray(ids, np.int64))[None]
        logits: npt.NDArray[np.float32] = (
            _forward(reference, tokens, prompt).logits[0, -len(ids) :].float().numpy()
        )
        return logits


def _forward(reference: Any, tokens: torch.Tensor, prompt: LoadedPrompt | None) -> Any:
    if prompt is None:
        return reference(input_ids=tokens, use_cache=True)
    if prompt.rows is None:
        past = torch.from_numpy(np.array(prompt.kv, np.float32))[:, None]
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        mask = torch.ones(1, past.shape[3] + tokens.shape[1], dtype=torch.long)
        return reference(
            input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True
        )
    rows = torch.from_numpy(np.array(prompt.rows, np.float32))[None]
    embeds = torch.cat([rows, reference.get_input_embeddings()(tokens)], dim=1)
    return reference(inputs_embeds=embeds, use_cache=True)


def _random_prompts(
    reference: Any, model: Model, random: np.random.Generator
) -> list[tuple[LoadedPrompt | None, int]]:
    """Prompts of several lengths, each with the length of the text behind it."""
    room = model.max_length
    chosen: list[tuple[LoadedPrompt | None, int]] = [(None, min(17, room))]
    for count, length in ((1, 5), (8, 1), (20, 33)):
        rows = random_rows(reference, model, count, random)
        prompt = model.load_prompt(Prompt(rows, f"random-{count}"))
        chosen.append((prompt, min(length, room - prompt.num_virtual_tokens)))
    prompt = model.load_prompt(Prompt(random_prefix(model, 6, random), "random-prefix"))
    chosen.append((prompt, min(9, room - prompt.num_virtual_tokens)))
    return chosen


def _stepwise(
    model: Model, ids: npt.NDArray[np.int64], prompt: LoadedPrompt | None
) -> npt.NDArray[np.float32]:
    """The bundle's logits (tokens, vocabulary), a token at a time on one cache, as decoding runs."""
    decoder = model._generator("generate").decoder
    request = model._compose(ids[:1].tolist(), prompt)
    cache = decoder.open(request, request.length + len(ids))
    logits = [decoder.prefill(cache, request)[0, -1]]
    logits += [decoder.step(cache, [int(token)])[0, -1].copy() for token in ids[1:]]
    decoder.close(cache)
    return np.stack(logits)


def _compare_inside(
    reference: Any,
    model: Model,
    random: np.random.Generator,
    tally: Tally,
    prompts: list[tuple[LoadedPrompt | None, int]],
) -> None:
    """Two prompts inside one text: [first, text, second, text]."""
    first, second = [item for item, _ in prompts if item is not None and item.rows is not None][:2]
    ids = random.integers(0, model.manifest.vocab_size, 12)
    left, right = ids[:5], ids[5:]
    if first.num_virtual_tokens + second.num_virtual_tokens + len(ids) > model.max_length:
        return
    with torch.no_grad():
        embed = reference.get_input_embeddings()
        pieces = [first.rows, left, second.rows, right]
        embeds = torch.cat(
            [
                torch.from_numpy(np.array(piece, np.float32))
                if index % 2 == 0
                else embed(torch.from_numpy(piece))
                for index, piece in enumerate(pieces)
                if piece is not None
            ]
        )
        expected = reference(inputs_embeds=embeds[None]).logits[0].float().numpy()
    content: Content = [left.tolist(), second, right.tolist()]
    found = model.logits(content, prompt=first)
    tally.add(found, expected[first.num_virtual_tokens :])


def _compare_greedy(
    reference: Any,
    model: Model,
    random: np.random.Generator,
    tally: Tally,
    prompts: list[tuple[LoadedPrompt | None, int]],
) -> None:
    """Greedy tokens of ragged rows under different prompts, alone and in one batch."""
    longest = max(length + (item.num_virtual_tokens if item else 0) for item, length in prompts)
    is_large = sum(item.numel() for item in reference.parameters()) > _LARGE_PARAMETERS
    wanted = _GREEDY_TOKENS_LARGE if is_large else _GREEDY_TOKENS
    count = max(1, min(wanted, model.max_length - longest))
    requests = [
        (random.integers(0, model.manifest.vocab_size, length).tolist(), prompt)
        for prompt, length in prompts
    ]
    batch = model.generate_batch(requests, max_new_tokens=count)
    for (ids, prompt), row in zip(requests, batch, strict=True):
        expected, scores = _greedy(reference, ids, prompt, count, model.manifest.eos_token_ids)
        alone = model.generate(ids, prompt=prompt, max_new_tokens=count)
        for found in (alone.token_ids, row.token_ids):
            tally.add_greedy(found, expected, scores)


def _greedy(
    reference: Any, ids: list[int], prompt: LoadedPrompt | None, count: int, eos: list[int]
) -> tuple[list[int], list[npt.NDArray[np.float32]]]:
    chosen: list[int] = []
    scores: list[npt.NDArray[np.float32]] = []
    with torch.no_grad():
        output = _forward(reference, torch.tensor([ids]), prompt)
        while True:
            scores.append(output.logits[0, -1].float().numpy())
            chosen.append(int(scores[-1].argmax()))
            if len(chosen) == count or chosen[-1] in eos:
                return chosen, scores
            output = reference(
                input_ids=torch.tensor([[chosen[-1]]]), past_key_values=output.past_key_values
            )


def compare_perplexity(reference: Any, model: Model, text: str) -> dict[str, float]:
    """Perplexity of a text in PyTorch and in the bundle, over the same windows."""
    before, after = _perplexity(reference, model, text), model.perplexity(text)
    return {"reference": before, "bundle": after, "change_percent": (after / before - 1) * 100}


def _perplexity(reference: Any, model: Model, text: str) -> float:
    """PyTorch's perplexity over the same windows as `Model.perplexity`."""
    ids = model._compose(text, None).ids
    losses = []
    with torch.no_grad():
        window = min(model.max_length, PERPLEXITY_WINDOW)
        for begin in range(0, len(ids) - 1, window):
            chunk = torch.from_numpy(ids[begin : begin + window])
            if len(chunk) < 2:
                break
            logits = reference(input_ids=chunk[None]).logits[0, :-1].double()
            losses.append(torch.nn.functional.cross_entropy(logits, chunk[1:], reduction="none"))
    return math.exp(float(torch.cat(losses).mean()))
