"""Text classification on the device, against peft itself; the head comes with the prompt."""

import copy
import functools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgept
from edgept import IncompatibleError, InvalidFileError, Model, Prompt, UsageError
from edgept.bundle import MANIFEST_NAME, read_manifest
from edgept.peft_writer import write_peft_folder
from edgept.runtime.content import LoadedPrompt
from tests.conftest import VOCABULARY
from tests.encoder_bundles import TEXTS, with_tokenizer, word_pieces
from tests.peft_adapters import other_peoples_warnings

pytest.importorskip("torch", reason="needs edgept[export]")

TASK = "text-classification"
TOKENS = 7
LENGTHS = (1, 4, 13, 30)
CASES = [
    ("bert", "prompt_tuning"),
    ("bert", "p_tuning"),
    ("llama", "prompt_tuning"),
    ("llama", "prefix_tuning"),
    ("gpt2", "p_tuning"),
    ("gpt2", "prefix_tuning"),
]


@functools.cache
def base_classifier(folder: Path, classes: int) -> Any:
    """The frozen model with a random head of so many classes; callers leave it as it is."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(5)
    auto: Any = AutoModelForSequenceClassification
    model = auto.from_pretrained(folder, num_labels=classes, dtype=torch.float32)
    return model.eval()


@functools.cache
def make_classifier(folder: Path, method: str, classes: int, output: Path) -> Any:
    """An adapter as peft trains and saves one, with random values; returns peft's model."""
    import peft
    import torch

    common: dict[str, Any] = {"task_type": "SEQ_CLS", "num_virtual_tokens": TOKENS}
    configs: dict[str, Any] = {
        "prompt_tuning": lambda: peft.PromptTuningConfig(**common),
        "p_tuning": lambda: peft.PromptEncoderConfig(**common, encoder_hidden_size=32),
        "prefix_tuning": lambda: peft.PrefixTuningConfig(**common),
    }
    torch.manual_seed(17)
    with other_peoples_warnings(), torch.no_grad():
        base = copy.deepcopy(base_classifier(folder, classes))
        adapted: Any = peft.get_peft_model(base, configs[method]())
        if method != "p_tuning":
            for parameter in adapted.prompt_encoder.parameters():
                parameter.normal_(std=0.4)
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter.normal_(std=0.5)
        adapted.eval().save_pretrained(str(output))
    return adapted


def peft_classes(adapted: Any, ids: list[int]) -> Any:
    """peft's logits (classes,) of one text."""
    import torch

    tokens = torch.tensor([ids])
    with other_peoples_warnings(), torch.no_grad():
        output = adapted(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    return output.logits[0].float().numpy()


def texts() -> list[list[int]]:
    random = np.random.default_rng(3)
    return [random.integers(3, VOCABULARY, length).tolist() for length in LENGTHS]


def relative(found: Any, expected: Any) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def head(classes: int, width: int = 64, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "head.weight": random.normal(size=(classes, width)).astype(np.float32),
        "head.bias": random.normal(size=classes).astype(np.float32),
    }


def rows(count: int = 5, seed: int = 1) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {"prompt_embeds": random.normal(size=(count, 64)).astype(np.float32)}


def prompt_of(*parts: dict[str, Any], name: str = "p", **fields: Any) -> Prompt:
    tensors = {key: value for part in parts for key, value in part.items()}
    return Prompt(tensors, name, task=TASK, **fields)


@pytest.fixture(scope="module", params=["bert", "gpt2"])
def model(request: pytest.FixtureRequest, bundle_of: Callable[..., Path]) -> Model:
    """An encoder, and a decoder-only model."""
    return edgept.load(bundle_of(request.param, "fp32", TASK), threads=1)


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_logits_are_those_of_peft(
    kind: str,
    method: str,
    bundle_of: Callable[..., Path],
    model_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    adapted = make_classifier(model_folder(kind), method, 3, tmp_path / "adapter")
    model = edgept.load(bundle_of(kind, "fp32", TASK), threads=1)
    prompt = model.load_prompt(tmp_path / "adapter")
    assert prompt.num_virtual_tokens == TOKENS
    expected = [peft_classes(adapted, ids) for ids in texts()]
    batch = model.classify_batch([(ids, prompt) for ids in texts()])
    for ids, logits, row in zip(texts(), expected, batch, strict=True):
        found = model.classify(ids, prompt=prompt)
        assert relative(found.logits, logits) < 1e-4
        assert relative(row.logits, logits) < 1e-4
        assert found.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
        assert found.label == f"LABEL_{logits.argmax()}"
    # the prompt matters: a wrong one would be found
    plain = model.load_prompt(replace(prompt.prompt, tensors=_head_of(prompt.prompt)))
    assert relative(model.classify(texts()[2], prompt=plain).logits, expected[2]) > 1e-2


# pads, that are the end of text too as most decoders have it, behind a text, within it, alone
PADDED = [[5, 6, 7, 2], [5, 2, 2], [2, 9, 2, 8, 2], [2, 2], [2], [4, 2, 6]]


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_a_text_that_ends_in_the_pad_token_is_pooled_as_peft_does(
    method: str,
    bundle_of: Callable[..., Path],
    model_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Given ids, transformers skips such tokens; given embeddings, it cannot see them."""
    adapted = make_classifier(model_folder("gpt2"), method, 3, tmp_path / "adapter")
    model = edgept.load(bundle_of("gpt2", "fp32", TASK), threads=1)
    assert model.manifest.pad_token_id == model.manifest.eos_token_ids[0] == 2
    prompt = model.load_prompt(tmp_path / "adapter")
    batch = model.classify_batch([(ids, prompt) for ids in PADDED])
    for ids, row in zip(PADDED, batch, strict=True):
        expected = peft_classes(adapted, ids)
        assert relative(model.classify(ids, prompt=prompt).logits, expected) < 1e-4
        assert relative(row.logits, expected) < 1e-4
    skipped, ends = (model.classify(ids, prompt=prompt) for ids in ([5, 6, 7], PADDED[0]))
    differs = relative(ends.logits, skipped.logits) > 1e-3
    assert differs == (method == "prompt_tuning")
    assert ends.latency.input_tokens == 4


def _head_of(prompt: Prompt) -> dict[str, Any]:
    return {name: array for name, array in prompt.tensors.items() if name.startswith("head.")}


def test_swapping_heads_of_2_and_77_classes_there_and_back_is_exact(model: Model) -> None:
    small = model.load_prompt(prompt_of(rows(), head(2), labels=("no", "yes")))
    large = model.load_prompt(prompt_of(rows(9, 4), head(77, seed=2), name="large"))
    ids = texts()[2]
    before = model.classify(ids, prompt=small)
    between = model.classify(ids, prompt=large)
    after = model.classify(ids, prompt=small)
    assert before.labels == ("no", "yes")
    assert len(between.labels) == len(between.probabilities) == 77
    np.testing.assert_array_equal(before.logits, after.logits)
    assert (before.label, before.probability) == (after.label, after.probability)


def test_each_row_of_a_mixed_batch_is_itself_alone(model: Model) -> None:
    prompts = [
        model.load_prompt(prompt_of(rows(), head(2), name="two")),
        model.load_prompt(prompt_of(rows(11, 8), head(77), name="many")),
        model.load_prompt(prompt_of(head(5), name="probe")),
    ]
    random = np.random.default_rng(1)
    requests = [
        (random.integers(3, VOCABULARY, length).tolist(), prompts[index % 3])
        for index, length in enumerate(random.integers(1, 60, 57))  # more than run at once
    ]
    batch = model.classify_batch(requests)
    assert [row.prompt for row in batch] == [prompt.name for _, prompt in requests]
    for (ids, prompt), row in zip(requests, batch, strict=True):
        alone = model.classify(ids, prompt=prompt)
        assert relative(row.logits, alone.logits) < 1e-5
        assert row.label == alone.label
    assert model.classify_batch([]) == []


def test_probabilities_and_latency_say_what_they_should(model: Model) -> None:
    prompt = model.load_prompt(prompt_of(rows(), head(4), labels=("a", "b", "c", "d"), name="abcd"))
    found = model.classify("where is my parcel", prompt=prompt)
    assert found.prompt == "abcd"
    assert sum(found.probabilities) == pytest.approx(1)
    assert found.probability == max(found.probabilities)
    assert found.label == found.labels[found.probabilities.index(found.probability)]
    exponents = np.exp(found.logits.astype(np.float64))
    np.testing.assert_allclose(found.probabilities, exponents / exponents.sum(), rtol=1e-6)
    latency = found.latency
    assert latency.virtual_tokens == 5
    assert latency.input_tokens > 0
    assert latency.new_tokens == 0
    assert latency.ttft_ms is None
    assert 0 < latency.prefill_ms <= latency.total_ms
    assert "total" in str(latency)


def test_a_head_that_overflows_gives_no_answer(model: Model) -> None:
    huge = {"head.weight": np.full((2, 64), 3e38, np.float32)}
    prompt = model.load_prompt(prompt_of(rows(), huge, name="huge"))
    with pytest.raises(edgept.EdgeptError, match="not finite under prompt 'huge'"):
        model.classify([5, 6, 7], prompt=prompt)


def test_a_prompt_may_stand_inside_a_text(model: Model) -> None:
    """Virtual tokens in the middle, the head of another prompt."""
    inside = model.load_prompt(prompt_of(rows(3, 5), head(2), name="inside"))
    left, right = [5, 6, 7], [8, 9]
    found = model.classify([left, inside, right])
    assert found.latency.virtual_tokens == 3
    assert found.prompt == "inside"
    in_front = model.classify([*left, *right], prompt=inside)
    assert relative(found.logits, in_front.logits) > 1e-3
    both = model.classify_batch([([left, inside, right], None), ([*left, *right], inside)])
    assert relative(both[0].logits, found.logits) < 1e-5
    assert relative(both[1].logits, in_front.logits) < 1e-5
    other = model.load_prompt(prompt_of(head(2), name="other"))
    with pytest.raises(UsageError, match=r"'other' and 'inside'.*each brings a head"):
        model.classify([left, inside, right], prompt=other)


def test_a_loaded_prompt_holds_its_head_and_its_keys_where_there_is_a_cache(model: Model) -> None:
    prompt = model.load_prompt(prompt_of(rows(), head(2)))
    assert prompt.head is not None
    assert not prompt.head.weight.flags.writeable
    kv = model.manifest.kv
    assert (prompt.kv is None) == (kv is None or kv.prefix_only)
    sizes = [prompt.rows, prompt.kv, prompt.head.weight, prompt.head.bias]
    assert prompt.nbytes == sum(array.nbytes for array in sizes if array is not None)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_model_with_a_head_of_its_own(
    kind: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """The plain bundle is the fine-tuned model; a prompt may bring another head, or none."""
    from edgept.export import export_model

    fine_tuned = copy.deepcopy(base_classifier(model_folder(kind), 3))
    fine_tuned.config.id2label = {0: "bad", 1: "fine", 2: "good"}
    fine_tuned.config.label2id = {"bad": 0, "fine": 1, "good": 2}
    fine_tuned.save_pretrained(tmp_path / "model")
    result = export_model(str(tmp_path / "model"), tmp_path / "bundle", precision="fp32")
    assert result.manifest.task == TASK
    assert result.manifest.labels == ["bad", "fine", "good"]
    model = edgept.load(tmp_path / "bundle", threads=1)
    ids = texts()[1]
    found = model.classify(ids)
    assert found.prompt is None
    assert found.labels == ("bad", "fine", "good")
    assert relative(found.logits, peft_classes(fine_tuned, ids)) < 1e-4
    for padded in PADDED if kind == "gpt2" else []:
        assert relative(model.classify(padded).logits, peft_classes(fine_tuned, padded)) < 1e-4
    without = model.load_prompt(prompt_of(rows(), name="steers"))
    assert model.classify(ids, prompt=without).labels == ("bad", "fine", "good")
    assert model.classify(ids, prompt=without).prompt == "steers"
    assert relative(model.classify(ids, prompt=without).logits, found.logits) > 1e-3
    brings = model.load_prompt(prompt_of(rows(), head(2)))
    assert model.classify(ids, prompt=brings).labels == ("LABEL_0", "LABEL_1")
    np.testing.assert_array_equal(model.classify(ids).logits, found.logits)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_any_onnxruntime_program_runs_the_graph(
    kind: str, bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    """Without the head's inputs: one zero. With an adapter file: what the runtime computes."""
    import onnxruntime as ort

    from edgept.onnx_adapter import write_onnx_adapter

    bundle = bundle_of(kind, "fp32", TASK)
    session = ort.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    ids = np.array([[VOCABULARY + row for row in range(5)] + texts()[1]], np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    for item in session.get_inputs():
        if item.name == "token_type_ids":
            feeds[item.name] = np.zeros_like(ids)
        elif item.name.startswith("past"):
            feeds[item.name] = np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32)
    plain = {**feeds, "input_ids": np.array([[3, 4, 5] * 3], np.int64)[:, : ids.shape[1]]}
    np.testing.assert_array_equal(session.run(["logits"], plain)[0], [[0.0]])

    prompt = prompt_of(rows(), {"head.weight": head(3)["head.weight"]})
    file = tmp_path / "p.onnx_adapter"
    write_onnx_adapter(prompt, read_manifest(bundle), file)
    adapter = ort.LoraAdapter()
    adapter.Load(str(file))
    options = ort.RunOptions()
    options.add_active_adapter(adapter)
    (logits,) = session.run(["logits"], feeds, options)
    model = edgept.load(bundle, threads=1)
    found = model.classify(texts()[1], prompt=model.load_prompt(prompt))
    assert relative(logits[0], found.logits) < 1e-5


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_written_peft_folder_is_what_peft_loads(
    kind: str,
    bundle_of: Callable[..., Path],
    model_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    import peft

    model = edgept.load(bundle_of(kind, "fp32", TASK), threads=1)
    tensors = {**rows(), **head(3)}
    if kind == "gpt2":
        with pytest.raises(IncompatibleError, match="a head with a bias"):
            write_peft_folder(prompt_of(tensors), model.manifest, tmp_path / "peft")
        del tensors["head.bias"]
    prompt = prompt_of(tensors)
    write_peft_folder(prompt, model.manifest, tmp_path / "peft")
    with other_peoples_warnings():
        base = copy.deepcopy(base_classifier(model_folder(kind), 3))
        adapted: Any = peft.PeftModel.from_pretrained(base, str(tmp_path / "peft")).eval()
    ids = texts()[2]
    found = model.classify(ids, prompt=model.load_prompt(prompt))
    assert relative(found.logits, peft_classes(adapted, ids)) < 1e-4
    alone = prompt_of(head(3))
    with pytest.raises(IncompatibleError, match="a peft folder takes prompt_embeds"):
        write_peft_folder(alone, model.manifest, tmp_path / "alone")


REFUSED: dict[str, tuple[Prompt, str]] = {
    "no head": (prompt_of(rows()), "has no head, and bert has none of its own"),
    "a bias alone": (prompt_of(rows(), {"head.bias": np.ones(2, np.float32)}), "no head.weight"),
    "another width": (prompt_of(rows(), head(2, width=32)), r"needs \(classes, 64\)"),
    "labels of another head": (prompt_of(head(3), labels=("a", "b")), "3 classes, labels has 2"),
    "bias of another head": (
        prompt_of({**head(3), "head.bias": np.ones(2, np.float32)}),
        "3 classes, head.bias has 2",
    ),
    "a regression": (prompt_of(rows(), head(1)), "has 1 row"),
    "keys and values": (
        prompt_of({"prompt_kv": np.ones((5, 2, 4, 3, 16), np.float32)}, head(2)),
        r"prompt_kv has shape \(5, 2, 4, 3, 16\)",
    ),
    "another task": (replace(prompt_of(rows(), head(2)), task="text-generation"), "for the task"),
    "nothing": (prompt_of(), "has no head"),
    "not finite": (
        prompt_of({"head.weight": np.full((2, 64), np.nan, np.float32)}),
        "not finite",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_prompt_that_does_not_fit_is_refused(case: str, bundle_of: Callable[..., Path]) -> None:
    prompt, why = REFUSED[case]
    model = edgept.load(bundle_of("bert", "fp32", TASK), threads=1)
    with pytest.raises(IncompatibleError, match=why):
        model.load_prompt(prompt)


def test_a_wrong_call_names_the_right_one(model: Model, bundle_of: Callable[..., Path]) -> None:
    calls: dict[str, Callable[[], object]] = {
        "generate": lambda: model.generate("a"),
        "stream": lambda: model.stream("a"),
        "generate_batch": lambda: model.generate_batch([("a", None)]),
        "logits": lambda: model.logits("a"),
        "perplexity": lambda: model.perplexity("a"),
    }
    for name, call in calls.items():
        with pytest.raises(UsageError, match=rf"model\.{name} on a bundle for .*model\.classify"):
            call()
    generates = edgept.load(bundle_of("gpt2"), threads=1)
    with pytest.raises(UsageError, match=r"model\.classify on .*model\.generate"):
        generates.classify("a")
    with pytest.raises(UsageError, match=r"model\.classify_batch on .*model\.generate"):
        generates.classify_batch([("a", None)])
    with pytest.raises(IncompatibleError, match="for the task text-classification"):
        generates.load_prompt(prompt_of(rows(), head(2)))


def test_a_manifest_and_a_graph_of_two_exports_are_refused(
    bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    """Labels and head size stand in the graph's own metadata, for programs without a JSON parser."""
    folder = Path(shutil.copytree(bundle_of("bert", "fp32", TASK), tmp_path / "b"))
    manifest = read_manifest(folder)
    assert manifest.to_metadata()["edgept.head_size"] == "64"
    for change in ({"labels": ["a", "b"]}, {"head_size": 63}):
        changed = replace(manifest, **change)
        (folder / MANIFEST_NAME).write_text(changed.to_json())
        with pytest.raises(InvalidFileError, match=rf"says edgept\.{next(iter(change))}"):
            edgept.load(folder)


def test_requests_that_cannot_be_classified(model: Model) -> None:
    with pytest.raises(UsageError, match="no classification head of its own"):
        model.classify("a")
    prompt: LoadedPrompt = model.load_prompt(prompt_of(rows(), head(2)))
    with pytest.raises(UsageError, match="takes 257 positions"):
        model.classify([3] * 252, prompt=prompt)
    assert model.classify([3] * 251, prompt=prompt).latency.input_tokens == 251
    with pytest.raises(UsageError, match="empty"):
        model.classify([], prompt=model.load_prompt(prompt_of(head(2))))


@pytest.fixture(scope="module")
def pair_model(bundle_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Model:
    """An encoder whose tokenizer has a template for pairs."""
    folder: Path = tmp_path_factory.mktemp("pairs") / "bundle"
    bundle = with_tokenizer(bundle_of("bert", "fp32", TASK), word_pieces(), folder)
    return edgept.load(bundle, threads=1)


def test_a_pair_of_texts_has_the_token_types_that_peft_gives(
    pair_model: Model, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    import torch

    adapted = make_classifier(model_folder("bert"), "prompt_tuning", 3, tmp_path / "adapter")
    prompt = pair_model.load_prompt(tmp_path / "adapter")
    pairs = [(first, second) for first in TEXTS for second in TEXTS[:2]]
    batch = pair_model.classify_batch([(pair, prompt) for pair in pairs])
    for pair, row in zip(pairs, batch, strict=True):
        encoded = word_pieces()(*pair, return_tensors="pt")
        assert encoded.token_type_ids.max() == 1
        with other_peoples_warnings(), torch.no_grad():
            expected = adapted(**encoded).logits[0].numpy()
        found = pair_model.classify(pair, prompt=prompt)
        assert relative(found.logits, expected) < 1e-4
        assert relative(row.logits, expected) < 1e-4
        without_types = pair_model.classify(encoded.input_ids[0].tolist(), prompt=prompt)
        assert relative(without_types.logits, expected) > 1e-3
    assert pair_model.classify([*pairs[0]], prompt=prompt).logits.shape == (3,)  # parts of one text


def test_pairs_need_a_tokenizer_that_separates_them(bundle_of: Callable[..., Path]) -> None:
    model = edgept.load(bundle_of("bert", "fp32", TASK), threads=1)
    prompt = model.load_prompt(prompt_of(rows(), head(2)))
    with pytest.raises(UsageError, match="nothing between two texts"):
        model.classify(("a", "b"), prompt=prompt)


def test_long_texts_are_cut_when_asked(pair_model: Model) -> None:
    prompt = pair_model.load_prompt(prompt_of(rows(), head(2)))
    long = "where is Anna " * 100
    with pytest.raises(UsageError, match=r"truncate=True \(--truncate\)"):
        pair_model.classify(long, prompt=prompt)
    requests = [("where", prompt), (long, prompt), ((long, "is Anna"), prompt)]
    whole, cut, pair = pair_model.classify_batch(requests, truncate=True)
    assert [whole.truncated, cut.truncated] == [0, 402 - 251]
    assert pair.truncated == len(word_pieces()(long, "is Anna").input_ids) - 251
    kept = word_pieces()(long, truncation=True, max_length=251).input_ids
    assert relative(cut.logits, pair_model.classify(kept, prompt=prompt).logits) < 1e-5
    assert cut.latency.input_tokens == 251


def test_prompts_whose_heads_agree_share_a_run(model: Model) -> None:
    """In a decoder-only model too, where both have the same prompt in front, or none."""
    same = head(3)
    first = model.load_prompt(prompt_of(rows(3, 5), same, name="first", labels=("a", "b", "c")))
    second = model.load_prompt(prompt_of(rows(6, 6), same, name="second"))
    requests: list[Any] = [
        ([[5, 6], prompt, ids], None) for ids in texts() for prompt in (first, second)
    ]
    batch = model.classify_batch(requests)
    assert len({row.latency.prefill_ms for row in batch}) == 1
    for (content, _), row in zip(requests, batch, strict=True):
        alone = model.classify(content)
        assert relative(row.logits, alone.logits) < 1e-5
        assert (row.prompt, row.labels) == (alone.prompt, alone.labels)
    assert {row.labels[0] for row in batch} == {"a", "LABEL_0"}
