"""What peft computes from an adapter is what a bundle computes from it, in every form of file."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import edgept
from edgept.cli import main
from tests.conftest import shared
from tests.peft_adapters import (
    METHODS,
    TASK_INDEX,
    TEXT,
    base_model,
    load_adapter,
    make_adapter,
    peft_generate,
    peft_logits,
    token_ids,
)

# One exported with torch.onnx, whose cache grows; one by the builder, whose cache is extended in place.
KINDS = ["stories260K", "llama"]
NEW_TOKENS = 64


@dataclass
class Case:
    """An exported model, and peft's adapters for it.

    Attributes:
        base: the model's folder.
        bundle: its bundle.
        model: the bundle, loaded.
        ids: of the text that is continued.
        folder: where the adapters are made.
        generated: peft's tokens by method, once asked for.
    """

    base: Path
    bundle: Path
    model: edgept.Model
    ids: list[int]
    folder: Path
    generated: dict[str, list[int]] = field(default_factory=dict)

    def adapter(self, method: str) -> Path:
        """An adapter folder as peft saves it."""
        path = self.folder / method
        return path if path.exists() else make_adapter(method, self.base, path)

    def expected(self, method: str) -> list[int]:
        """What peft generates from the folder."""
        if method not in self.generated:
            adapted = load_adapter(self.base, self.adapter(method))
            task = TASK_INDEX.get(method)
            self.generated[method] = peft_generate(adapted, self.ids, NEW_TOKENS, task)
        return self.generated[method]


@pytest.fixture(scope="module", params=KINDS)
def case(
    request: pytest.FixtureRequest,
    bundle_of: Callable[..., Path],
    model_folder: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    kind = request.param
    base = shared(kind) if kind == "stories260K" else model_folder(kind)
    bundle = bundle_of(kind)
    folder = tmp_path_factory.mktemp(f"adapters-{kind}")
    return Case(base, bundle, edgept.load(bundle, threads=1), token_ids(base), folder)


def run_json(case: Case, *arguments: object) -> dict[str, Any]:
    command = ["run", "-b", case.bundle, "--json", "-n", NEW_TOKENS, *arguments, TEXT]
    result = CliRunner().invoke(main, [str(argument) for argument in command])
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


@pytest.mark.parametrize("method", METHODS)
def test_logits_and_tokens_of_every_method(case: Case, method: str) -> None:
    task = TASK_INDEX.get(method)
    adapted = load_adapter(case.base, case.adapter(method))
    prompt = case.model.load_prompt(case.adapter(method), task_index=task)
    expected = peft_logits(adapted, case.ids, task)
    found = case.model.logits(case.ids, prompt=prompt)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(found - case.model.logits(case.ids)).max() > 1e-2 * np.abs(expected).max()
    result = case.model.generate(TEXT, prompt=prompt, max_new_tokens=NEW_TOKENS)
    assert result.token_ids == case.expected(method)
    assert result.prompt == method


def forms_of(case: Case, method: str, folder: Path) -> dict[str, Path]:
    """The same adapter in every form of file."""
    import torch
    from safetensors.torch import load_file

    weights = case.adapter(method) / "adapter_model.safetensors"
    tensor = load_file(weights)["prompt_embeddings"]
    shutil.copy(weights, folder / "bare.safetensors")
    torch.save(tensor, folder / "tensor.pt")
    torch.save({"prompt_embeddings": tensor}, folder / "named.bin")
    torch.save(torch.nn.Parameter(tensor), folder / "parameter.pth")
    np.save(folder / "array.npy", tensor.numpy())
    packed = folder / "packed.safetensors"
    command = ["prompt", "pack", case.adapter(method), "-b", case.bundle, "-o", packed]
    packing = CliRunner().invoke(main, [str(argument) for argument in command])
    assert packing.exit_code == 0, packing.output
    forms = {path.name: path for path in folder.iterdir()}
    return {"folder": case.adapter(method), "its weights": weights, **forms}


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_every_form_gives_the_same_64_tokens(case: Case, method: str, tmp_path: Path) -> None:
    forms = forms_of(case, method, tmp_path)
    assert len(forms) == 8
    expected = case.expected(method)
    assert len(expected) == NEW_TOKENS
    for form, path in forms.items():
        prompt = case.model.load_prompt(path)
        found = case.model.generate(TEXT, prompt=prompt, max_new_tokens=NEW_TOKENS).token_ids
        assert found == expected, form


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_command_line_gives_the_same_64_tokens(case: Case, method: str, tmp_path: Path) -> None:
    forms = forms_of(case, method, tmp_path)
    expected = case.expected(method)
    for form in ("packed.safetensors", "tensor.pt", "folder"):
        answer = run_json(case, "--prompt", forms[form])
        assert answer["token_ids"] == expected, form
        assert answer["finish_reason"] == "length"
        assert answer["latency"]["virtual_tokens"] == 7
        assert answer["latency"]["input_tokens"] == len(case.ids)


def test_multitask_prompt_on_the_command_line(case: Case) -> None:
    answer = run_json(case, "--prompt", case.adapter("multitask"), "--task-index", 1)
    assert answer["token_ids"] == case.expected("multitask")
    other = run_json(case, "--prompt", case.adapter("multitask"), "--task-index", 0)
    assert other["token_ids"] != answer["token_ids"]


def test_own_process_without_torch(case: Case) -> None:
    """What a device runs: a process of its own, in which nothing of the workstation is loaded."""
    code = (
        "import sys, edgept\n"
        "model = edgept.load(sys.argv[1], threads=1)\n"
        "prompt = model.load_prompt(sys.argv[2])\n"
        f"print(model.generate({TEXT!r}, prompt=prompt, max_new_tokens={NEW_TOKENS}).token_ids)\n"
        "assert not {'torch', 'transformers', 'onnx', 'optimum', 'peft'} & set(sys.modules)\n"
    )
    arguments = [str(case.bundle), str(case.adapter("prompt_tuning"))]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == case.expected("prompt_tuning")


def test_no_prompt_is_the_plain_model(case: Case) -> None:
    plain = base_model(case.base)
    expected = peft_generate(plain, case.ids, NEW_TOKENS)
    assert case.model.generate(TEXT, max_new_tokens=NEW_TOKENS).token_ids == expected
    logits = peft_logits(plain, case.ids)
    found = case.model.logits(TEXT)
    assert np.abs(found - logits).max() <= 1e-4 * np.abs(logits).max()


@pytest.mark.parametrize("penalty", [1.3, 0.7])
def test_repetition_penalty_is_that_of_transformers(case: Case, penalty: float) -> None:
    adapted = load_adapter(case.base, case.adapter("prompt_tuning"))
    expected = peft_generate(adapted, case.ids, NEW_TOKENS, repetition_penalty=penalty)
    prompt = case.model.load_prompt(case.adapter("prompt_tuning"))
    result = case.model.generate(
        TEXT, prompt=prompt, max_new_tokens=NEW_TOKENS, repetition_penalty=penalty
    )
    assert result.token_ids == expected
    assert result.token_ids != case.expected("prompt_tuning")


def test_prompt_inside_the_text_is_that_of_the_embeddings(case: Case) -> None:
    """peft puts prompts in front only; inside a text, PyTorch's own embeddings are the reference."""
    import torch

    plain = base_model(case.base)
    first = case.model.load_prompt(case.adapter("prompt_tuning"))
    second = case.model.load_prompt(case.adapter("p_tuning"))
    left, right = case.ids[:4], case.ids[4:]
    embed = plain.get_input_embeddings()
    with torch.no_grad():
        pieces = [
            embed(torch.tensor(left)),
            torch.from_numpy(np.array(first.rows)),
            torch.from_numpy(np.array(second.rows)),
            embed(torch.tensor(right)),
            torch.from_numpy(np.array(first.rows)),
        ]
        expected = plain(inputs_embeds=torch.cat(pieces)[None]).logits[0].numpy()
    found = case.model.logits([left, first, second, right, first])
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
