"""Swap time: of copies against the number of resident prompts, and to prompts that were used last."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgept.bench.plan import Length
from edgept.bench.question import least_ids
from edgept.bench.subject import Least
from edgept.errors import UsageError
from edgept.manifest import Manifest
from edgept.prompt import Prompt
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.device import read_memory
from edgept.runtime.model import Model

__all__ = ["Level", "bytes_to_take", "check_memory", "levels_to", "measure_level", "measure_recent"]

_KEEP_FREE = 0.8  # of the memory that is free may be taken


@dataclass(frozen=True)
class Level:
    """Swaps with so many prompts resident.

    Attributes:
        prompts: resident ones.
        nbytes: memory that they take, in bytes.
        swap_ms: of requests that each take another prompt, at random.
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


def bytes_to_take() -> float | None:
    """Bytes of memory that a measurement may take, a share of what is free; None where it is not known."""
    memory = read_memory()
    return None if memory is None else _KEEP_FREE * memory.available_bytes


def check_memory(prompt: Prompt, manifest: Manifest, size: int) -> None:
    """Refuse more residents than the free memory holds, before anything is run.

    Raises:
        UsageError: they would not fit.
    """
    most, kv = bytes_to_take(), manifest.kv
    if most is None:
        return
    numbers = sum(tensor.size for name, tensor in prompt.tensors.items() if name != "prompt_kv")
    if kv is not None:
        numbers += 2 * kv.num_layers * kv.num_kv_heads * kv.head_dim * prompt.num_virtual_tokens
    each = numbers * np.dtype(manifest.float_type).itemsize
    if size * each > most:
        fits = int(most / each)
        raise UsageError(
            f"{size} resident prompts of {each / 1e6:.2f} MB each do not fit the "
            f"{most / _KEEP_FREE / 1e6:.0f} MB of memory that are free. Ask for --resident {fits} "
            "or fewer."
        )


def measure_level(least: Least, pool: Sequence[LoadedPrompt], length: Length, seed: int) -> Level:
    """Swap among the residents in random order, with the shortest request there is behind each.

    Every swap is the same work, so that the levels differ by the number of residents alone: the curve
    is flat by design.
    """
    random = np.random.default_rng(seed)
    swaps: list[float] = []
    last, began = -1, time.perf_counter()
    least(pool[0])
    while not length.is_enough(len(swaps), time.perf_counter() - began):
        chosen = int(random.integers(len(pool) - 1))
        last = chosen if chosen < last or last < 0 else chosen + 1  # never the same one again
        swaps.append(least(pool[last]).swap_ms)
    return Level(len(pool), sum(prompt.nbytes for prompt in pool), swaps)


def measure_recent(model: Model, pool: Sequence[LoadedPrompt], length: Length) -> list[float]:
    """Milliseconds of swaps between two prompts in turns, whose keys and values lie in cache buffers.

    Nothing is measured, [], where the bundle's graph does not extend a buffer in place: each of its
    swaps is a copy, or of pictures, none.
    """
    kv = model.manifest.kv
    if kv is None or not kv.shared_buffer or pool[0].kv is None:
        return []
    swaps: list[float] = []
    ids = least_ids(model)
    for prompt in pool[:2]:
        model.generate(ids, prompt=prompt, max_new_tokens=1)
    began = time.perf_counter()
    while not length.is_enough(len(swaps), time.perf_counter() - began):
        prompt = pool[len(swaps) % 2]
        swaps.append(model.generate(ids, prompt=prompt, max_new_tokens=1).latency.swap_ms)
    return swaps
