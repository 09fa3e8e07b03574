"""Parity of a bundle that reads and does not write: random prompts and random heads, alone and in batches.

The reference is what peft computes: the prompt's rows in front of the text's embeddings, or its keys
and values in front of the cache, and the head in place of the model's own. Its output covers the
prompt's rows where it has one for each position. A decoder skips the pads that a text ends in where
peft gives it ids; RoBERTa, those within it.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import DynamicCache

from edgept.export.encoder_exporter import padding_id, read_output
from edgept.export.families import ENCODERS
from edgept.export.heads import head_layers, head_tensors
from edgept.export.random_prompts import random_prefix, random_rows
from edgept.export.tally import Tally
from edgept.prompt import Prompt
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model

__all__ = ["Request", "measure_forward", "reference_output", "tally_requests"]

Array: TypeAlias = npt.NDArray[np.float32]
Request: TypeAlias = tuple[list[int], LoadedPrompt | None]

_LENGTHS = (1, 5, 17, 33)
# Virtual tokens and classes of each random prompt; 0 is a head alone.
_PROMPTS = ((0, 2), (1, 5), (8, 77), (20, 3))
_PREFIX = (6, 4)


def measure_forward(
    reference: Any, model: Model, tally: Tally, random: np.random.Generator
) -> None:
    """Compare under random prompts, into a tally."""
    manifest = model.manifest
    requests: list[Request] = []
    prompts: list[LoadedPrompt | None] = [*_random_prompts(reference, model, random)]
    if manifest.labels or manifest.head_size is None:
        prompts.append(None)
    family = ENCODERS.get(manifest.model_type)
    skipped = None if family is None else padding_id(reference, family)
    for prompt in prompts:
        room = model.max_length - (prompt.num_virtual_tokens if prompt else 0)
        for length in _LENGTHS:
            ids = random.integers(0, manifest.vocab_size, min(length, room)).tolist()
            requests.append((ids, prompt))
        if manifest.pad_token_id is not None and len(ids) > 1:
            requests.append(([*ids[:-1], manifest.pad_token_id], prompt))
        if skipped is not None and len(ids) > 2:
            requests.append(([*ids[:2], skipped, *ids[3:]], prompt))
    expected = [reference_output(reference, manifest.task, *request) for request in requests]
    tally_requests(model, requests, expected, tally)


def tally_requests(
    model: Model, requests: Sequence[Request], expected: Sequence[Array], tally: Tally
) -> None:
    """Compare each request, alone and in one batch, with what is expected of it."""
    batch = model.outputs_batch(requests)
    for (ids, prompt), row, reference in zip(requests, batch, expected, strict=True):
        wanted = reference.reshape(-1, reference.shape[-1])  # (positions or 1, classes)
        for found in (model.outputs(ids, prompt=prompt), row):
            tally.add(found.reshape(wanted.shape), wanted)


def reference_output(
    reference: Any, task: str, ids: list[int], prompt: LoadedPrompt | None
) -> Array:
    """What PyTorch computes of one text under a prompt and its head; as `read_output`, of one row."""
    tokens = torch.tensor([ids])
    with torch.no_grad(), _with_head(reference, prompt):
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
        found: Array = read_output(output, task)[0].float().numpy()
        return found


@contextmanager
def _with_head(model: Any, prompt: LoadedPrompt | None) -> Iterator[None]:
    """Let the layers of the model's head compute with a prompt's."""
    if prompt is None or "head.weight" not in prompt.prompt.tensors:
        yield
        return
    tensors = prompt.prompt.tensors
    with ExitStack() as stack:
        for prefix, (_, layer) in head_layers(model).items():
            weight = torch.from_numpy(np.array(tensors[f"{prefix}.weight"]))
            bias = torch.from_numpy(np.array(tensors.get(f"{prefix}.bias", np.zeros(len(weight)))))
            hook = layer.register_forward_hook(_computing_with(weight, bias.to(weight.dtype)))
            stack.callback(hook.remove)
        yield


def _computing_with(weight: torch.Tensor, bias: torch.Tensor) -> Any:
    def replaced(_: nn.Module, inputs: tuple[torch.Tensor], __: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(inputs[0], weight, bias)

    return replaced


def _random_prompts(
    reference: Any, model: Model, random: np.random.Generator
) -> Iterator[LoadedPrompt]:
    task = model.manifest.task
    shapes = {name: tuple(tensor.shape) for name, tensor in head_tensors(reference).items()}

    def head(classes: int) -> dict[str, Array]:
        if task == "question-answering":
            classes = 2
        return {
            name: random.normal(
                # a layer in front that keeps its input's size, so that the activation behind it works
                scale=shape[-1] ** -0.5 if name == "head.dense.weight" else 1.0,
                size=shape if name.startswith("head.dense.") else (classes, *shape[1:]),
            ).astype(np.float32)
            for name, shape in shapes.items()
        }

    for count, classes in _PROMPTS:
        tensors = head(classes)
        if count:
            tensors |= random_rows(reference, model, count, random)
        if tensors:
            yield model.load_prompt(Prompt(tensors, f"random-{count}", task=task))
    if model.manifest.kv is not None:
        count, classes = _PREFIX
        tensors = {**random_prefix(model, count, random), **head(classes)}
        yield model.load_prompt(Prompt(tensors, "random-prefix", task=task))
