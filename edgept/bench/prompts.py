"""The prompts that a benchmark swaps: those given, random ones in their place, and copies of them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgept.bundle import hash_file
from edgept.errors import UsageError
from edgept.manifest import Manifest
from edgept.prompt import Prompt
from edgept.prompt_file import write_prompt
from edgept.prompt_source import bind, load_prompt_source

__all__ = ["PromptFile", "copies", "find_prompts"]

_VIRTUAL_TOKENS = 20  # peft's usual number
_RANDOM_PROMPTS = 2
_RANDOM_CLASSES = 10


@dataclass(frozen=True)
class PromptFile:
    """A prompt that is measured.

    Attributes:
        name: of the task.
        path: where it was read from; of a random one, a temporary file.
        sha256: of the file; None for a folder.
        tensors_sha256: of its tensors' names, shapes and float32 values.
        method: peft's name of it.
        virtual_tokens: how many.
        random: whether it was made here from the report's seed, and answers mean nothing.
    """

    name: str
    path: str
    sha256: str | None
    tensors_sha256: str
    method: str
    virtual_tokens: int
    random: bool


def find_prompts(
    given: Sequence[tuple[str | None, Path]], manifest: Manifest, folder: Path, seed: int
) -> list[tuple[PromptFile, Prompt]]:
    """Read the prompts that are given; without any, write two random ones to a folder.

    Args:
        given: names (None takes the file's own) and sources.
        manifest: of the bundle.
        folder: for the random ones.
        seed: of the random ones.

    Raises:
        UsageError: two prompts have one name, or there is nothing to read.
        InvalidFileError: a file breaks its format's rules.
        IncompatibleError: a prompt does not fit the bundle.
    """
    if not given:
        return [
            _random_prompt(manifest, folder, seed, number)
            for number in range(1, _RANDOM_PROMPTS + 1)
        ]
    found: dict[str, tuple[PromptFile, Prompt]] = {}
    for name, path in given:
        prompt = bind(load_prompt_source(path, manifest, name=name), manifest)
        if prompt.name in found:
            raise UsageError(
                f"two prompts are called {prompt.name!r}; tell them apart with --prompt NAME=FILE."
            )
        found[prompt.name] = (_describe(prompt, path, random=False), prompt)
    return list(found.values())


def _random_prompt(
    manifest: Manifest, folder: Path, seed: int, number: int
) -> tuple[PromptFile, Prompt]:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng([seed, number])
    shape = (min(_VIRTUAL_TOKENS, manifest.max_virtual_tokens), manifest.hidden_size)
    rows = random.normal(0, 0.02, shape).astype(np.float32)  # (virtual tokens, hidden)
    tensors, task = {"prompt_embeds": rows}, manifest.prompt_tasks[0]
    if manifest.image is not None:
        tensors = {"prompt_embeds": rows[None]}
        head = (_RANDOM_CLASSES, manifest.head_size or manifest.hidden_size)
        tensors["head.weight"] = random.normal(0, 0.02, head).astype(np.float32)
    prompt = bind(Prompt(tensors, name=f"random-{number}", task=task), manifest)
    path = folder / f"{prompt.name}.safetensors"
    write_prompt(prompt, path)
    return _describe(prompt, path, random=True), prompt


def _describe(prompt: Prompt, path: Path, *, random: bool) -> PromptFile:
    return PromptFile(
        prompt.name,
        str(path.absolute()),
        hash_file(path) if path.is_file() else None,
        _hash_tensors(prompt),
        prompt.method,
        prompt.num_virtual_tokens,
        random,
    )


def _hash_tensors(prompt: Prompt) -> str:
    digest = hashlib.sha256()
    for name in sorted(prompt.tensors):
        tensor = np.ascontiguousarray(prompt.tensors[name], "<f4")
        digest.update(f"{name} {tensor.shape}\n".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def copies(prompts: Sequence[Prompt]) -> Iterator[Prompt]:
    """Endless prompts of the same sizes, each a little different from its original.

    Keys and values of one are as costly as those of any other, whatever they hold.
    """
    number = 0
    while True:
        original = prompts[number % len(prompts)]
        number += 1
        scale = np.float32(1 + 1e-4 * number / (1 + 1e-3 * number))
        tensors = {name: tensor * scale for name, tensor in original.tensors.items()}
        yield replace(original, tensors=tensors, name=f"{original.name} copy {number}")
