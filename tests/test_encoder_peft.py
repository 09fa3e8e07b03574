"""Encoders under peft's adapters, task by task: rows and head read back from the folders that it saves."""

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgept
from edgept.export import verify_bundle
from edgept.peft_folder import read_peft_folder
from edgept.peft_writer import write_peft_folder
from edgept.prompt_file import read_prompt, write_prompt
from edgept.prompt_source import bind
from tests.conftest import VOCABULARY, encoder_cases
from tests.peft_adapters import other_peoples_warnings

peft: Any = pytest.importorskip("peft", reason="needs edgept[tune]")

# Sizes that peft does not find in a config, or finds wrong: its rows would be as wide as the layers.
SIZES: dict[str, dict[str, int]] = {
    "distilbert": {"token_dim": 64, "num_layers": 2, "num_attention_heads": 4},
    "albert": {"token_dim": 32},
    "electra": {"token_dim": 32},
}
TWO_LAYERS = {"roberta", "xlm-roberta", "distilbert", "electra", "mpnet"}
CONFIGS = {
    "prompt_tuning": peft.PromptTuningConfig,
    "p_tuning": peft.PromptEncoderConfig,
    "prefix_tuning": peft.PrefixTuningConfig,
    "cartridge": peft.CartridgeConfig,
}
TAKE_PREFIXES = {"bert", "roberta", "xlm-roberta", "electra"}
PREFIXES = {"prefix_tuning", "cartridge"}
CASES = [
    (kind, task, method)
    for kind, task in encoder_cases()
    for method in (
        ("prompt_tuning", "p_tuning", "prefix_tuning", "cartridge")
        if kind in TAKE_PREFIXES
        else ("prompt_tuning", "p_tuning")
    )
]
TASK_TYPES = {
    "text-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS",
    "feature-extraction": "FEATURE_EXTRACTION",
}
TOKENS = 7
CLASSES = 3
HEAD = {"head.weight", "head.bias"}
DENSE = {"head.dense.weight", "head.dense.bias"}


@functools.cache
def base_model(folder: Path, task: str) -> Any:
    """The frozen model with a random head; callers leave it as it is."""
    import torch
    import transformers as t

    autos: dict[str, Any] = {
        "text-classification": t.AutoModelForSequenceClassification,
        "token-classification": t.AutoModelForTokenClassification,
        "question-answering": t.AutoModelForQuestionAnswering,
        "feature-extraction": t.AutoModel,
    }
    torch.manual_seed(5)
    options: dict[str, Any] = {"dtype": torch.float32}
    if task.endswith("classification"):  # one checkpoint has a head of two classes
        options |= {"num_labels": CLASSES, "ignore_mismatched_sizes": True}
    return autos[task].from_pretrained(folder, **options).eval()


def make_adapter(base: Path, task: str, method: str, folder: Path) -> Any:
    """An adapter with random values, saved as peft saves one; returns peft's model."""
    import torch

    common: dict[str, Any] = {"task_type": TASK_TYPES[task], "num_virtual_tokens": TOKENS}
    if method not in PREFIXES:
        common |= SIZES.get(base.name, {})
    if (base.name, task) == ("modernbert", "question-answering"):
        common["modules_to_save"] = ["classifier"]  # peft looks for qa_outputs
    torch.manual_seed(17)
    with other_peoples_warnings(), torch.no_grad():
        if method == "p_tuning":
            common["encoder_hidden_size"] = 32
        config: Any = CONFIGS[method](**common)
        adapted: Any = peft.get_peft_model(copy.deepcopy(base_model(base, task)), config)
        if method != "p_tuning":
            for parameter in adapted.prompt_encoder.parameters():
                parameter.normal_(std=0.4)
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter.normal_(std=0.3)
        adapted.eval().save_pretrained(str(folder))
    return adapted


def texts() -> list[list[int]]:
    random = np.random.default_rng(3)
    return [random.integers(3, VOCABULARY, length).tolist() for length in (1, 4, 13, 30)]


def peft_outputs(adapted: Any, task: str, rows: list[list[int]], **extra: Any) -> list[Any]:
    """What peft computes of a ragged batch that is padded behind, without the padding's positions."""
    import torch

    from edgept.export.encoder_exporter import read_output

    tokens = torch.ones((len(rows), max(map(len, rows))), dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for index, ids in enumerate(rows):
        tokens[index, : len(ids)] = torch.tensor(ids)
        mask[index, : len(ids)] = 1
    with other_peoples_warnings(), torch.no_grad():
        output = adapted(input_ids=tokens, attention_mask=mask, **extra)
    found = read_output(output, task).float().numpy()
    if task == "text-classification":
        return list(found)
    front = found.shape[1] - tokens.shape[1]  # virtual tokens that have a value of their own
    return [row[: front + len(ids)] for row, ids in zip(found, rows, strict=True)]


def relative(found: Any, expected: Any) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("kind", "task", "method"), CASES)
def test_outputs_are_those_of_peft(
    kind: str,
    task: str,
    method: str,
    bundle_of: Callable[..., Path],
    model_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    adapted = make_adapter(model_folder(kind), task, method, tmp_path / "adapter")
    model = edgept.load(bundle_of(kind, "fp32", task), threads=1)
    prompt = model.load_prompt(tmp_path / "adapter")
    assert prompt.num_virtual_tokens == TOKENS
    assert prompt.prompt.task == task
    head = {name for name in prompt.prompt.tensors if name.startswith("head.")}
    two_layers = task == "text-classification" and kind in TWO_LAYERS
    assert head == (
        set() if task == "feature-extraction" else HEAD | (DENSE if two_layers else set())
    )
    expected = peft_outputs(adapted, task, texts())
    batch = model.outputs_batch([(ids, prompt) for ids in texts()])
    for ids, wanted, row in zip(texts(), expected, batch, strict=True):
        assert relative(model.outputs(ids, prompt=prompt), wanted) < 1e-4
        assert relative(row, wanted) < 1e-4
    # prompt and head matter: wrong ones would be found
    for name, tensor in prompt.prompt.tensors.items():
        tensors = {**prompt.prompt.tensors, name: np.zeros_like(tensor)}
        other = replace(prompt.prompt, tensors=tensors)
        found = model.outputs(texts()[2], prompt=model.load_prompt(other))
        assert relative(found, expected[2]) > 1e-3


def test_token_types_are_those_of_peft(
    bundle_of: Callable[..., Path], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """The second text of a pair has type 1, the prompt type 0."""
    import onnxruntime as ort
    import torch

    task = "text-classification"
    adapted = make_adapter(model_folder("bert"), task, "prompt_tuning", tmp_path / "adapter")
    bundle = bundle_of("bert", "fp32", task)
    ids, types = texts()[2], [0] * 6 + [1] * 7
    (expected,) = peft_outputs(adapted, task, [ids], token_type_ids=torch.tensor([types]))
    tensors = read_peft_folder(tmp_path / "adapter").tensors
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(bundle / "model.onnx"), options)
    row = np.array([[VOCABULARY + index for index in range(TOKENS)] + ids])
    feeds = {
        "input_ids": row,
        "attention_mask": np.ones_like(row),
        "token_type_ids": np.array([[0] * TOKENS + types]),
        **tensors,
    }
    assert relative(session.run(["logits"], feeds)[0][0], expected) < 1e-4
    feeds["token_type_ids"] = np.zeros_like(row)
    assert relative(session.run(["logits"], feeds)[0][0], expected) > 1e-3


ROUND_TRIPS = [
    ("roberta", "text-classification", "p_tuning"),
    ("distilbert", "text-classification", "p_tuning"),
    ("bert", "text-classification", "p_tuning"),
    ("bert", "token-classification", "prefix_tuning"),
    ("bert", "question-answering", "p_tuning"),
    ("bert", "feature-extraction", "p_tuning"),
]


@pytest.mark.parametrize(("kind", "task", "method"), ROUND_TRIPS)
def test_from_peft_to_a_prompt_file_and_back(
    kind: str,
    task: str,
    method: str,
    bundle_of: Callable[..., Path],
    model_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    adapted = make_adapter(model_folder(kind), task, method, tmp_path / "adapter")
    model = edgept.load(bundle_of(kind, "fp32", task), threads=1)
    write_prompt(
        bind(read_peft_folder(tmp_path / "adapter"), model.manifest), tmp_path / "p.safetensors"
    )
    prompt = read_prompt(tmp_path / "p.safetensors")
    expected = peft_outputs(adapted, task, texts())
    found = model.outputs(texts()[3], prompt=model.load_prompt(prompt))
    assert relative(found, expected[3]) < 1e-4
    write_peft_folder(prompt, model.manifest, tmp_path / "back")
    with other_peoples_warnings():
        base = copy.deepcopy(base_model(model_folder(kind), task))
        back: Any = peft.PeftModel.from_pretrained(base, str(tmp_path / "back")).eval()
    for found, wanted in zip(peft_outputs(back, task, texts()), expected, strict=True):
        assert relative(found, wanted) < 1e-5


@pytest.mark.parametrize(
    ("kind", "task"), [("roberta", "text-classification"), ("bert", "question-answering")]
)
def test_verify_compares_with_peft_itself(
    kind: str,
    task: str,
    bundle_of: Callable[..., Path],
    model_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    make_adapter(model_folder(kind), task, "prompt_tuning", tmp_path / "adapter")
    bundle = bundle_of(kind, "fp32", task)
    with other_peoples_warnings():
        parity = verify_bundle(bundle, str(model_folder(kind)), prompt=tmp_path / "adapter")
    assert parity.passed
    assert parity.max_rel < 1e-4
    assert parity.reference.startswith("peft ")
