"""Parity of a classifying bundle: random prompts and random heads, texts alone and in ragged batches.

The reference is what peft computes: the prompt's rows in front of the text's embeddings, or its keys
and values in front of the cache, and the head in place of the model's own. A decoder skips the pads
that a text ends in where peft gives it ids.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import DynamicCache

from edgept.export.heads import find_head
from edgept.export.random_prompts import random_prefix, random_rows
from edgept.export.tally import Tally
from edgept.prompt import Prompt
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model

__all__ = ["measure_classification", "reference_logits"]

_LENGTHS = (1, 5, 17, 33)
# Virtual tokens and classes of each random prompt; 0 is a head alone.
_PROMPTS = ((0, 2), (1, 5), (8, 77), (20, 3))
_PREFIX = (6, 4)


def measure_classification(
    reference: Any, model: Model, tally: Tally, random: np.random.Generator
) -> None:
    """Compare under random prompts, into a tally."""
    requests: list[tuple[list[int], LoadedPrompt | None]] = []
    prompts: list[LoadedPrompt | None] = [*_random_prompts(reference, model, random)]
    if model.manifest.labels:
        prompts.append(None)
    for prompt in prompts:
        room = model.max_length - (prompt.num_virtual_tokens if prompt else 0)
        for length in _LENGTHS:
            ids = random.integers(0, model.manifest.vocab_size, min(length, room)).tolist()
            requests.append((ids, prompt))
        if model.manifest.pad_token_id is not None and len(ids) > 1:
            requests.append(([*ids[:-1], model.manifest.pad_token_id], prompt))
    batch = model.classify_batch(requests)
    for (ids, prompt), row in zip(requests, batch, strict=True):
        expected = reference_logits(reference, ids, prompt)[None]  # (1, classes)
        tally.add(model.classify(ids, prompt=prompt).logits[None], expected)
        tally.add(row.logits[None], expected)


def reference_logits(
    reference: Any, ids: list[int], prompt: LoadedPrompt | None
) -> npt.NDArray[np.float32]:
    """PyTorch's logits (classes,) of one text under a prompt and its head."""
    tokens = torch.tensor([ids])
    with torch.no_grad(), _with_head(find_head(reference), prompt):
        if prompt is None or not prompt.num_virtual_tokens:
            output = reference(input_ids=tokens)
        elif prompt.rows is None:
            past = torch.from_numpy(np.array(prompt.kv, np.float32))[:, None]
            cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
            mask = torch.ones(1, past.shape[3] + len(ids), dtype=torch.long)
            output = reference(
                input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True
            )
        else:
            rows = torch.from_numpy(np.array(prompt.rows, np.float32))[None]
            embeds = torch.cat([rows, reference.get_input_embeddings()(tokens)], dim=1)
            output = reference(inputs_embeds=embeds)
        logits: npt.NDArray[np.float32] = output.logits[0].float().numpy()
        return logits


@contextmanager
def _with_head(head: nn.Linear, prompt: LoadedPrompt | None) -> Iterator[None]:
    """Let the model's last layer compute with a prompt's head."""
    if prompt is None or prompt.head is None:
        yield
        return
    weight = torch.from_numpy(np.array(prompt.head.weight, np.float32))
    bias = torch.from_numpy(np.array(prompt.head.bias, np.float32))

    def replaced(_: nn.Module, inputs: tuple[torch.Tensor], __: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(inputs[0], weight, bias)

    handle = head.register_forward_hook(replaced)
    try:
        yield
    finally:
        handle.remove()


def _random_prompts(
    reference: Any, model: Model, random: np.random.Generator
) -> Iterator[LoadedPrompt]:
    task, width = model.manifest.task, find_head(reference).in_features

    def head(classes: int) -> dict[str, npt.NDArray[np.float32]]:
        return {
            "head.weight": random.normal(size=(classes, width)).astype(np.float32),
            "head.bias": random.normal(size=classes).astype(np.float32),
        }

    for count, classes in _PROMPTS:
        tensors = head(classes)
        if count:
            tensors |= random_rows(reference, model, count, random)
        yield model.load_prompt(Prompt(tensors, f"random-{count}", task=task))
    if model.manifest.kv is not None:
        count, classes = _PREFIX
        tensors = {**random_prefix(model, count, random), **head(classes)}
        yield model.load_prompt(Prompt(tensors, "random-prefix", task=task))
