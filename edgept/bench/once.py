"""What happens once: a session's load, a prompt's first use, a process's start, each repeated."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence

from edgept.bench.plan import Length, Plan
from edgept.bench.process_start import start_to_first_answer
from edgept.bench.prompts import PromptFile
from edgept.bench.subject import Least
from edgept.runtime.model import Model, load

__all__ = ["load_prompts", "load_sessions", "start_processes"]

_SHARE = 0.1  # of a time that was given, for each of them

Advance = Callable[[float], None]
"""Told how much is done, from 0 to 1."""


def load_sessions(plan: Plan, advance: Advance) -> tuple[list[float], Model]:
    """Load the bundle again and again, its hashes checked; the last model stays.

    The files are in the system's cache after the first time.
    """
    loads: list[float] = []
    model: Model | None = None
    length, began = _length(plan), time.perf_counter()
    while model is None or not length.is_enough(len(loads), time.perf_counter() - began):
        advance(len(loads) / length.samples)
        model = None
        gc.collect()  # one session at a time in memory
        model = load(plan.bundle, threads=plan.threads, providers=plan.providers)
        loads.append(model.load_ms)
    return loads, model


def load_prompts(
    plan: Plan, model: Model, files: Sequence[PromptFile], least: Least, advance: Advance
) -> list[float]:
    """From a prompt file on disk to a request that has it swapped in, every check included."""
    samples: list[float] = []
    length, began = _length(plan), time.perf_counter()
    while not length.is_enough(len(samples), time.perf_counter() - began):
        advance(len(samples) / length.samples)
        file = files[len(samples) % len(files)]
        prompt = model.load_prompt(file.path, name=file.name)
        samples.append(prompt.load_ms + least(prompt).swap_ms)
    return samples


def start_processes(
    plan: Plan, file: PromptFile, message: Mapping[str, object], advance: Advance
) -> tuple[list[float], list[int]]:
    """Processes of their own, each to its first answer, and what each says of it."""
    samples: list[float] = []
    said: list[int] = []
    length, began = _length(plan), time.perf_counter()
    while not length.is_enough(len(samples), time.perf_counter() - began):
        advance(len(samples) / length.samples)
        milliseconds, number = start_to_first_answer(
            plan.bundle, file.path, message, plan.threads, plan.providers
        )
        samples.append(milliseconds)
        said.append(number)
    return samples, said


def _length(plan: Plan) -> Length:
    return plan.length.part(plan.length.once, _SHARE)
