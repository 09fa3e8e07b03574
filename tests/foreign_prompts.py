"""Prompt files that do not belong to a bundle, and whether both engines refuse each for the same reason.

`python -m tests.foreign_prompts 1000 FOLDER` tries so many on the bundles that `python -m tests.c_bundles
FOLDER` made, and as many right ones: those are taken by both.
"""

import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import edgept
from edgept.errors import EdgeptError, InvalidFileError
from edgept.manifest import Manifest
from edgept.prompt import Prompt
from edgept.prompt_file import format_prompt
from edgept.runtime.c_engine import CModel
from tests.malformed import corpus

Pair = tuple[edgept.Model, CModel]

# An incompatible prompt's rule, by words that both engines' messages have.
_RULES = (
    "was made for another model",
    "is for the task",
    "has shape|of this shape",
    "carries|takes no",  # a tensor that the bundle has no use for
    "no head, and",
    "head of one layer|one layer",
    "either prompt_embeds or prompt_kv",
    "virtual tokens",
)


def own_prompt(manifest: Manifest, chosen: random.Random) -> Prompt:
    """A prompt that the bundle takes: rows, or keys and values, and a head where one is needed."""
    source = np.random.default_rng(chosen.randrange(1 << 32))

    def array(*shape: int) -> Any:
        return source.standard_normal(shape).astype(np.float32)

    kv, tensors, labels = manifest.kv, dict[str, Any](), tuple[str, ...]()
    count = chosen.randint(1, 8)
    if kv is not None and chosen.random() < 0.3:
        tensors["prompt_kv"] = array(kv.num_layers, 2, kv.num_kv_heads, count, kv.head_dim)
    else:
        tensors["prompt_embeds"] = array(count, manifest.hidden_size)
    if manifest.head_size is not None:
        classes = chosen.randint(2, 6)
        tensors |= {
            "head.weight": array(classes, manifest.head_size),
            "head.bias": array(classes),
        }
        labels = tuple(map(str, range(classes)))
    return Prompt(
        tensors,
        name=f"prompt {count}",
        fingerprint=manifest.fingerprint,
        task=manifest.task,
        labels=labels,
    )


def foreign(manifest: Manifest, others: Sequence[Manifest], chosen: random.Random) -> bytes:
    """A file that the bundle has to refuse, for one reason of many."""
    prompt = own_prompt(manifest, chosen)

    def of_another_model() -> Prompt:
        return own_prompt(chosen.choice(others), chosen)

    def of_a_digit() -> Prompt:
        at, digits = chosen.randrange(64), manifest.fingerprint
        digit = chosen.choice([d for d in "0123456789abcdef" if d != digits[at]])
        return replace(prompt, fingerprint=digits[:at] + digit + digits[at + 1 :])

    def of_another_task() -> Prompt:
        tasks = [
            "text-generation",
            "text-classification",
            "feature-extraction",
            "text-Generation",
            "x",
        ]
        return replace(prompt, task=chosen.choice([t for t in tasks if t != manifest.task]))

    def of_another_size() -> Prompt:
        name = chosen.choice([*prompt.tensors])
        if name == "head.bias":  # which has to be as long as the weight
            name = "head.weight"
        tensor = prompt.tensors[name]
        narrower = tensor[..., 1:] if chosen.random() < 0.5 else np.concatenate([tensor] * 2, -1)
        return replace(prompt, tensors={**prompt.tensors, name: narrower})

    def of_too_many() -> Prompt:
        count = manifest.max_virtual_tokens + chosen.randint(1, 3)
        rows = np.ones((count, manifest.hidden_size), np.float32)
        rest = {k: v for k, v in prompt.tensors.items() if not k.startswith("prompt_")}
        return replace(prompt, tensors={"prompt_embeds": rows, **rest})

    def of_another_head() -> Prompt:
        if manifest.head_size is not None:
            rows = np.ones((2, manifest.hidden_size), np.float32)
            return replace(prompt, tensors={"prompt_embeds": rows}, labels=())
        head = np.ones((2, manifest.hidden_size), np.float32)
        return replace(prompt, tensors={**prompt.tensors, "head.weight": head}, labels=("a", "b"))

    def malformed() -> bytes:
        return chosen.choice([*corpus().values()])[0]

    def damaged() -> bytes:
        """Of its own prompt, so that all else is right: cut, longer, or no number in it."""
        data = bytearray(format_prompt(prompt))
        how = chosen.randrange(3)
        if how == 0:
            del data[chosen.randrange(len(data)) :]
        elif how == 1:
            data += bytes(chosen.randint(1, 9))
        else:
            data[-2:] = b"\xc0\x7f"  # a NaN
        return bytes(data)

    kinds: list[Callable[[], Prompt | bytes]] = [
        *(of_another_model, of_another_model, of_a_digit, of_another_task, of_another_size),
        *(of_too_many, of_another_head, malformed, damaged),
    ]
    made = chosen.choice(kinds)()
    return made if isinstance(made, bytes) else format_prompt(made)


def reason_of(model: edgept.Model | CModel, path: Path) -> str:
    """Why a model refuses a prompt file; "" where it takes it."""
    try:
        model.load_prompt(path)
    except InvalidFileError as error:
        return error.reason
    except EdgeptError as error:
        found = [rule for rule in _RULES if any(part in str(error) for part in rule.split("|"))]
        return f"{type(error).__name__}: {(found or [str(error)])[0]}"
    return ""


def compare(pairs: Sequence[Pair], count: int, folder: Path, seed: int = 0) -> Counter[str]:
    """Try `count` foreign files and as many right ones; how often each reason was given.

    Raises:
        AssertionError: the engines differ, take a foreign file, or refuse a right one.
    """
    chosen = random.Random(seed)
    seen: Counter[str] = Counter()
    path = folder / "prompt.safetensors"
    for number in range(count):
        python, c = pairs[number % len(pairs)]
        others = [model.manifest for model, _ in pairs if model is not python]
        path.write_bytes(foreign(python.manifest, others, chosen))
        reasons = reason_of(python, path), reason_of(c, path)
        assert reasons[0] == reasons[1] != "", (number, reasons)
        seen[reasons[0]] += 1
        path.write_bytes(format_prompt(own_prompt(python.manifest, chosen)))
        reasons = reason_of(python, path), reason_of(c, path)
        assert reasons == ("", ""), (number, reasons)
    return seen


def main(count: int, bundles: Path) -> None:
    """Print what was refused, and why."""
    places = sorted(place / "bundle" for place in bundles.iterdir() if (place / "done").is_file())
    pairs = [
        (edgept.load(place, threads=1), edgept.load(place, threads=1, engine="c"))
        for place in places
    ]
    with tempfile.TemporaryDirectory() as folder:
        seen = compare(pairs, count, Path(folder))
    said = (
        f"{count} foreign prompts on {len(pairs)} bundles: {sum(seen.values())} refused by both engines, each "
        f"for one reason; {count} right ones: all taken\n{json.dumps(dict(seen.most_common()), indent=2)}"
    )
    print(said)  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
