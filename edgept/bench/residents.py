"""Swap time: of copies against the number of resident prompts, and to prompts that were used last."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgept.bench.plan import Length
from edgept.errors import UsageError
from edgept.manifest import Manifest
from edgept.prompt import Prompt
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.device import read_memory
from edgept.runtime.model import Model

__all__ = ["Level", "check_memory", "grow", "levels_to", "measure_level", "measure_recent"]

_KEEP_FREE = 0.8  # of the memory that is free may be taken


@dataclass(frozen=True)
class Level:
    """Swaps with so many prompts resident.

    Attributes:
        prompts: resident ones.
        nbytes: memory that they take, in bytes.
        swap_ms: of requests that each take another prompt, at random, and copy it.
    """

    prompts: int
    nbytes: int
    swap_ms: list[float]


def levels_to(resident: int) -> list[int]:
    """The numbers of residents to measure: 2, 10, 100 … up to the last."""
    levels = [2]
    while 10 ** len(levels) < resident:
        levels.append(10 ** len(levels))
    return [*levels, resident] if resident > 2 else levels


def check_memory(prompt: Prompt, manifest: Manifest, size: int) -> None:
    """Refuse more residents than the free memory holds, before anything is run.

    Raises:
        UsageError: they would not fit.
    """
    memory, kv = read_memory(), manifest.kv
    if memory is None or kv is None:
        return
    width = np.dtype(manifest.float_type).itemsize
    rows = prompt.tensors["prompt_embeds"].size if "prompt_embeds" in prompt.tensors else 0
    cached = 2 * kv.num_layers * kv.num_kv_heads * kv.head_dim * prompt.num_virtual_tokens
    each = (rows + cached) * width
    if size * each > _KEEP_FREE * memory.available_bytes:
        fits = int(_KEEP_FREE * memory.available_bytes / each)
        raise UsageError(
            f"{size} resident prompts of {each / 1e6:.2f} MB each do not fit the "
            f"{memory.available_bytes / 1e6:.0f} MB of memory that are free. Ask for --resident {fits} "
            "or fewer."
        )


def grow(
    model: Model,
    pool: list[LoadedPrompt],
    more: Iterator[Prompt],
    size: int,
    progress: Callable[[int, int], None],
) -> None:
    """Make prompts resident until the pool holds `size`."""
    while len(pool) < size:
        pool.append(model.load_prompt(next(more)))
        progress(len(pool), size)


def measure_level(
    model: Model, pool: Sequence[LoadedPrompt], token: int, length: Length, seed: int
) -> Level:
    """Swap among the residents in random order, with the shortest request there is behind each.

    Every swap is made a copy, whatever cache buffers begin with, so that the levels differ by the
    number of residents alone: the curve is flat by design.
    """
    decoder = model._generator("generate").decoder
    random = np.random.default_rng(seed)
    swaps: list[float] = []
    last, began = -1, time.perf_counter()
    model.generate([token], prompt=pool[0], max_new_tokens=1)
    while not length.is_enough(len(swaps), time.perf_counter() - began):
        chosen = int(random.integers(len(pool) - 1))
        last = chosen if chosen < last or last < 0 else chosen + 1  # never the same one again
        decoder.forget_prefixes()
        latency = model.generate([token], prompt=pool[last], max_new_tokens=1).latency
        swaps.append(latency.swap_ms)
    return Level(len(pool), sum(prompt.nbytes for prompt in pool), swaps)


def measure_recent(
    model: Model, pool: Sequence[LoadedPrompt], token: int, length: Length
) -> list[float]:
    """Milliseconds of swaps between two prompts in turns, whose keys and values lie in cache buffers.

    Nothing is measured, [], where the bundle's graph does not extend a buffer in place: each of its
    swaps is a copy.
    """
    kv = model.manifest.kv
    if kv is None or not kv.shared_buffer or pool[0].kv is None:
        return []
    swaps: list[float] = []
    for prompt in pool[:2]:
        model.generate([token], prompt=prompt, max_new_tokens=1)
    began = time.perf_counter()
    while not length.is_enough(len(swaps), time.perf_counter() - began):
        prompt = pool[len(swaps) % 2]
        swaps.append(model.generate([token], prompt=prompt, max_new_tokens=1).latency.swap_ms)
    return swaps
