"""Encoder-decoders, exported and on the device, against transformers' and peft's own generate."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import edgept
from edgept import (
    ExportError,
    IncompatibleError,
    InvalidFileError,
    Model,
    Prompt,
    UntrustedError,
    UsageError,
)
from edgept.bundle import MANIFEST_NAME, read_manifest
from edgept.cli import main
from edgept.manifest import SEQ2SEQ_TASK
from edgept.peft_folder import read_peft_folder
from edgept.peft_writer import write_peft_folder

pytest.importorskip("torch", reason="needs edgept[export]")

from tests.conftest import matrix
from tests.seq2seq_models import (
    LAYERS,
    METHODS,
    RULES,
    TASK_INDEX,
    TOKENS,
    VOCABULARY,
    generate,
    load_adapter,
    logits,
    make_adapter,
    reference,
)

NEW_TOKENS = 64
LENGTHS = (1, 4, 12, 30)
# All methods on two families, and on the others what differs between them.
CASES = [
    *((kind, method) for kind in ("t5", "bart") for method in METHODS),
    *((kind, "prompt_tuning") for kind in matrix(["mbart", "marian"], ["pegasus"])),
    ("marian", "prefix_tuning"),
]
TRIED = matrix(["t5", "bart", "mbart", "marian"], ["pegasus"])


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory,
    model_folder: Callable[[str], Path],
    bundle_of: Callable[..., Path],
) -> Callable[[str], Path]:
    """A function from a kind to a folder with its model, its bundle and its adapters, made at the first call."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            (made[kind] / "model").symlink_to(model_folder(kind))
            (made[kind] / "bundle").symlink_to(bundle_of(kind))
        return made[kind]

    return folder


@pytest.fixture(scope="module")
def models(folders: Callable[[str], Path]) -> Callable[[str], Model]:
    loaded: dict[str, Model] = {}

    def model(kind: str) -> Model:
        if kind not in loaded:
            loaded[kind] = edgept.load(folders(kind) / "bundle", threads=1)
        return loaded[kind]

    return model


def adapter(folder: Path, method: str) -> Path:
    path = folder / method
    return path if path.exists() else make_adapter(method, folder / "model", path)


def texts() -> list[list[int]]:
    random = np.random.default_rng(3)
    return [random.integers(14, VOCABULARY, length).tolist() for length in LENGTHS]


def rows(count: int, seed: int) -> Prompt:
    random = np.random.default_rng(seed)
    tensors = {"prompt_embeds": random.normal(size=(count, 32)).astype(np.float32)}
    return Prompt(tensors, f"rows-{seed}", task=SEQ2SEQ_TASK)


def relative(found: Any, expected: Any) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("kind", TRIED)
def test_plain_model_is_that_of_transformers(
    kind: str, folders: Callable[[str], Path], models: Callable[[str], Model]
) -> None:
    base, model = reference(folders(kind) / "model"), models(kind)
    parity = model.manifest.parity
    assert parity["max_rel"] <= 1e-4
    assert parity["greedy_equal"] == parity["greedy_total"] > 100
    for ids in texts():
        for beams in (1, 4):
            expected = generate(base, ids, NEW_TOKENS, num_beams=beams)
            found = model.generate(ids, max_new_tokens=NEW_TOKENS, num_beams=beams)
            assert found.token_ids == expected
        answer = expected[:12]
        found_logits = model._seq2seq("logits").logits(model._compose(ids, None), answer)
        assert relative(found_logits, logits(base, ids, answer)) <= 1e-4


@pytest.mark.parametrize("kind", TRIED)
def test_the_models_own_generation_config_is_the_default(
    kind: str, folders: Callable[[str], Path], models: Callable[[str], Model]
) -> None:
    base, model = reference(folders(kind) / "model"), models(kind)
    decoding = model.manifest.decoding
    assert decoding is not None
    assert decoding.num_beams == RULES[kind].get("num_beams", 1)
    # short, so that what is forced at the end shows
    for ids in texts()[1:3]:
        expected = generate(base, ids, 10)
        assert model.generate(ids, max_new_tokens=10).token_ids == expected


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2, "early_stopping": "never", "length_penalty": 2.0},
        {"num_beams": 5, "early_stopping": True, "length_penalty": -1.0},
        {"num_beams": 3, "early_stopping": False, "length_penalty": 0.0},
        {"num_beams": 4, "repetition_penalty": 1.3},
        {"num_beams": 1, "repetition_penalty": 1.3},
    ],
)
def test_options_of_the_search(
    options: dict[str, Any], folders: Callable[[str], Path], models: Callable[[str], Model]
) -> None:
    base, model = reference(folders("mbart") / "model"), models("mbart")
    for ids in texts():
        expected = generate(base, ids, 24, **options)
        assert model.generate(ids, max_new_tokens=24, **options).token_ids == expected


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_prompts_are_those_of_peft(
    kind: str, method: str, folders: Callable[[str], Path], models: Callable[[str], Model]
) -> None:
    folder, model, task = folders(kind), models(kind), TASK_INDEX.get(method)
    path = adapter(folder, method)
    adapted = load_adapter(folder / "model", path)
    prompt = model.load_prompt(path, task_index=task)
    assert prompt.num_virtual_tokens == TOKENS
    answer = [5, 9, 70, 70, 33]
    effects = 0
    for ids in texts()[1:]:
        plain = model.generate(ids, max_new_tokens=NEW_TOKENS, num_beams=1).token_ids
        for beams in (1, 4):
            expected = generate(adapted, ids, NEW_TOKENS, task, num_beams=beams)
            result = model.generate(ids, prompt=prompt, max_new_tokens=NEW_TOKENS, num_beams=beams)
            assert result.token_ids == expected
            assert result.prompt == method
            effects += beams == 1 and result.token_ids != plain
        if (
            method != "multitask"
        ):  # whose forward puts it before the decoder, too; generate does not
            found = model._seq2seq("logits").logits(model._compose(ids, prompt), answer)
            assert relative(found, logits(adapted, ids, answer)) <= 1e-4
    assert effects


def test_a_batch_of_different_prompts_and_back_again(
    folders: Callable[[str], Path], models: Callable[[str], Model]
) -> None:
    model = models("t5")
    first, second = model.load_prompt(rows(3, 1)), model.load_prompt(rows(7, 2))
    prefix = model.load_prompt(adapter(folders("t5"), "prefix_tuning"))
    prompts = [first, second, None, prefix]
    for beams in (1, 3):
        requests = [(ids, prompt) for ids in texts()[:3] for prompt in prompts]
        batch = model.generate_batch(requests, max_new_tokens=20, num_beams=beams)
        for (ids, prompt), row in zip(requests, batch, strict=True):
            alone = model.generate(ids, prompt=prompt, max_new_tokens=20, num_beams=beams)
            assert row.token_ids == alone.token_ids
            assert row.finish_reason == alone.finish_reason
            assert row.prompt == (None if prompt is None else prompt.name)
    request, answer = texts()[2], [5, 9, 70]
    runner = model._seq2seq("logits")
    a = runner.logits(model._compose(request, first), answer)
    b = runner.logits(model._compose(request, second), answer)
    again = runner.logits(model._compose(request, first), answer)
    assert np.array_equal(a, again)
    assert not np.array_equal(a, b)
    assert model.generate_batch([]) == []


def test_a_row_that_ends_leaves_the_others_alone(models: Callable[[str], Model]) -> None:
    model = models("mbart")
    random = np.random.default_rng(8)
    requests: list[Any] = [
        (random.integers(14, VOCABULARY, int(length)).tolist(), None)
        for length in random.integers(1, 30, 8)
    ]
    for beams in (1, 4):
        batch = model.generate_batch(requests, max_new_tokens=40, num_beams=beams)
        assert len({len(row.token_ids) for row in batch}) > 2
        for (ids, _), row in zip(requests, batch, strict=True):
            alone = model.generate(ids, max_new_tokens=40, num_beams=beams)
            assert row.token_ids == alone.token_ids


def test_streams(models: Callable[[str], Model]) -> None:
    model = models("t5")
    prompt = model.load_prompt(rows(3, 1))
    whole = model.generate("where is my parcel", prompt=prompt, max_new_tokens=12, num_beams=1)
    with model.stream("where is my parcel", prompt=prompt, max_new_tokens=12) as stream:
        pieces = list(stream)
    assert "".join(pieces) == whole.text != ""
    assert stream.result is not None
    assert stream.result.token_ids == whole.token_ids
    assert stream.result.latency.virtual_tokens == 3
    searched = model.generate("where is my parcel", max_new_tokens=12, num_beams=4)
    with model.stream("where is my parcel", max_new_tokens=12, num_beams=4) as stream:
        assert list(stream) == [searched.text]
    assert stream.result is not None
    assert stream.result.token_ids == searched.token_ids
    stream = model.stream("where is my parcel", max_new_tokens=12, num_beams=4)
    stream.close()
    assert stream.result is not None
    assert stream.result.finish_reason == "cancelled"


def test_limits(models: Callable[[str], Model]) -> None:
    model = models("t5")
    text = "where is my parcel"
    for beams in (1, 3):
        whole = model.generate(text, max_new_tokens=40, num_beams=beams)
        middle = len(whole.text) // 2
        stop = whole.text[middle : middle + 2]
        cut = model.generate(text, max_new_tokens=40, num_beams=beams, stop=stop)
        assert cut.finish_reason == "stop"
        assert stop not in cut.text
        if beams == 1:
            assert cut.text == whole.text[: whole.text.index(stop)]
        cancel = threading.Event()
        cancel.set()
        ended = model.generate(text, max_new_tokens=40, num_beams=beams, cancel=cancel)
        assert ended.finish_reason == "cancelled"
        assert len(ended.token_ids) == 1


def test_the_longest_answer(folders: Callable[[str], Path]) -> None:
    model = edgept.load(folders("pegasus") / "bundle", threads=1, max_length=12)
    prefix = model.load_prompt(adapter(folders("pegasus"), "prefix_tuning"))
    for beams in (1, 2):
        full = model.generate([20, 21], max_new_tokens=40, num_beams=beams)
        assert full.finish_reason in ("full", "eos")
        assert len(full.token_ids) <= 12
        with pytest.raises(edgept.EdgeptError, match="reached the model's longest"):
            model.generate([20, 21], prompt=prefix, num_beams=beams, on_full="error")
    with pytest.raises(UsageError, match="13 positions"):
        model.generate(list(range(20, 33)))


def test_what_does_not_apply_is_refused(
    models: Callable[[str], Model], bundle_of: Callable[..., Path]
) -> None:
    model = models("t5")
    with pytest.raises(UsageError, match="searched, not sampled"):
        model.generate([5], temperature=0.7, num_beams=2)
    with pytest.raises(UsageError, match="num_beams is 0"):
        model.generate([5], num_beams=0)
    with pytest.raises(UsageError, match="early_stopping is 'now'"):
        model.generate([5], num_beams=2, early_stopping="now")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"model\.logits on a bundle for text2text-generation"):
        model.logits([5])
    assert len(model.generate([5], temperature=0.7, seed=1, max_new_tokens=4).token_ids) == 4
    decoder_only = edgept.load(bundle_of("llama"), threads=1)
    with pytest.raises(UsageError, match="num_beams is for beam search"):
        decoder_only.generate([5], num_beams=4)
    decoder_only.generate([5], num_beams=1, max_new_tokens=1)


def test_prompts_that_peft_itself_does_not_run(
    folders: Callable[[str], Path], models: Callable[[str], Model], tmp_path: Path
) -> None:
    folder, model = folders("t5"), models("t5")
    for method, changes, message in (
        ("prefix_tuning", {"num_transformer_submodules": 1}, "no place of its own"),
        ("prompt_tuning", {"peft_type": "CPT"}, "which peft itself does not run"),
    ):
        path = shutil.copytree(adapter(folder, method), tmp_path / method)
        config = json.loads((path / "adapter_config.json").read_text())
        (path / "adapter_config.json").write_text(json.dumps(config | changes))
        with pytest.raises(IncompatibleError, match=message):
            model.load_prompt(path)
    bare = shutil.copy(
        adapter(folder, "prompt_tuning") / "adapter_model.safetensors",
        tmp_path / "bare.safetensors",
    )
    with pytest.raises(IncompatibleError, match="Give the whole folder"):
        model.load_prompt(bare)
    np.save(tmp_path / "rows.npy", rows(4, 9).tensors["prompt_embeds"])
    assert model.load_prompt(tmp_path / "rows.npy").num_virtual_tokens == 4


@pytest.mark.parametrize(("kind", "method"), [("t5", "prefix_tuning"), ("bart", "p_tuning")])
def test_a_prompt_goes_back_to_peft(
    kind: str,
    method: str,
    folders: Callable[[str], Path],
    models: Callable[[str], Model],
    tmp_path: Path,
) -> None:
    folder, model = folders(kind), models(kind)
    prompt = read_peft_folder(adapter(folder, method))
    write_peft_folder(prompt, model.manifest, tmp_path / "again")
    adapted = load_adapter(folder / "model", tmp_path / "again")
    ids = texts()[2]
    expected = generate(adapted, ids, 16, num_beams=1)
    loaded = model.load_prompt(prompt)
    assert model.generate(ids, prompt=loaded, max_new_tokens=16, num_beams=1).token_ids == expected


def test_both_graphs_are_checked(folders: Callable[[str], Path], tmp_path: Path) -> None:
    bundle = folders("t5") / "bundle"
    names = {"encoder.onnx", "encoder.onnx.data", "decoder.onnx", "decoder.onnx.data"}
    assert names <= read_manifest(bundle).files.keys()
    for name in names:
        copied = shutil.copytree(bundle, tmp_path / f"hash-{name}")
        raw = bytearray((copied / name).read_bytes())
        raw[-5] ^= 1
        (copied / name).write_bytes(raw)
        with pytest.raises(UntrustedError, match="is not the file that was exported"):
            edgept.load(copied)
    for name in ("encoder.onnx", "decoder.onnx"):
        copied = shutil.copytree(bundle, tmp_path / f"guard-{name}")
        graph = onnx.load(copied / name, load_external_data=False)
        graph.graph.node[0].domain = "somebody.else"
        onnx.save(graph, copied / name)
        with pytest.raises(UntrustedError, match=r"operator domain 'somebody\.else'"):
            edgept.load(copied, check_hashes=False)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"decoding": None}, "lacks its decoding"),
        ({"decoding": {"start_token_id": -1}}, "what a manifest may hold"),
        ({"decoding": {"start_token_id": 0, "bad_words_ids": [[]]}}, "what a manifest may hold"),
        ({"decoding": {"start_token_id": 0, "early_stopping": "now"}}, "what a manifest may hold"),
        ({"decoding": {"begin": 0}}, "is not a bundle manifest"),
        ({"decoding": {"start_token_id": 3}}, "The two are not of one export"),
    ],
)
def test_a_wrong_manifest(
    change: dict[str, Any], error: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle = shutil.copytree(folders("t5") / "bundle", tmp_path / "b")
    manifest = json.loads((bundle / MANIFEST_NAME).read_text())
    (bundle / MANIFEST_NAME).write_text(json.dumps(manifest | change))
    with pytest.raises(InvalidFileError, match=error):
        edgept.load(bundle, check_hashes=False)


def test_the_layout_is_the_one_that_optimum_writes(folders: Callable[[str], Path]) -> None:
    bundle = folders("marian") / "bundle"
    encoder = onnx.load(bundle / "encoder.onnx", load_external_data=False).graph
    decoder = onnx.load(bundle / "decoder.onnx", load_external_data=False).graph
    layers = range(LAYERS["marian"][1])

    def names(side: str, attention: str) -> list[str]:
        return [f"{side}.{i}.{attention}.{kind}" for i in layers for kind in ("key", "value")]

    assert [item.name for item in encoder.input] == ["input_ids", "attention_mask", "prompt_embeds"]
    assert [item.name for item in encoder.output] == names("present", "encoder")
    past = names("past_key_values", "decoder") + names("past_key_values", "encoder")
    assert [item.name for item in decoder.input] == ["input_ids", "encoder_attention_mask", *past]
    assert [item.name for item in decoder.output] == ["logits", *names("present", "decoder")]


def test_quantised(
    folders: Callable[[str], Path], models: Callable[[str], Model], bundle_of: Callable[..., Path]
) -> None:
    # random weights suffer more than trained ones: what it costs is not judged here
    folder, bundle = folders("t5"), bundle_of("t5", "int4")
    for name in ("encoder.onnx", "decoder.onnx"):
        graph = onnx.load(bundle / name, load_external_data=False).graph
        assert sum(node.op_type == "MatMulNBits" for node in graph.node) >= 12
        whole = (folder / "bundle" / f"{name}.data").stat().st_size
        assert (bundle / f"{name}.data").stat().st_size < whole
    quantised, ids, answer = edgept.load(bundle, threads=1), texts()[2], [5, 9, 70, 33]
    found, exact = (
        model._seq2seq("logits").logits(
            model._compose(ids, model.load_prompt(adapter(folder, "prompt_tuning"))), answer
        )
        for model in (quantised, models("t5"))
    )
    assert 0.6 < np.corrcoef(found.ravel(), exact.ravel())[0, 1] < 1


def test_half_precision_is_exported_where_it_can_be(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    from edgept.export import export_model

    model = str(folders("bart") / "model")
    with pytest.raises(UsageError, match="exported for cuda in fp32 only"):
        export_model(model, tmp_path / "b", target="cuda")


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def test_command_line(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder, packed = folders("bart"), tmp_path / "packed.safetensors"
    bundle, path = folder / "bundle", adapter(folder, "prompt_tuning")
    run("prompt", "pack", path, "-b", bundle, "-o", packed)
    adapted = load_adapter(folder / "model", path)
    model = edgept.load(bundle, threads=1)
    assert model.tokenizer is not None
    text = "where is my parcel"
    ids = model.tokenizer.encode(text, special_tokens=True)
    for extra, options in ((("--num-beams", 1), {"num_beams": 1}), ((), {})):
        expected = generate(adapted, ids, 20, **options)
        for prompt in (path, packed):
            found = run("run", "-b", bundle, "--prompt", prompt, "-n", 20, "--json", *extra, text)
            assert json.loads(found.stdout)["token_ids"] == expected
    answer = model.generate(text, max_new_tokens=20)
    assert run("run", "-b", bundle, "-n", 20, text).stdout == f"{answer.text}\n"


@pytest.mark.parametrize("method", ["multitask", "prefix_tuning"])
def test_verify_against_peft(method: str, folders: Callable[[str], Path]) -> None:
    folder = folders("t5")
    task = ["--task-index", TASK_INDEX[method]] if method in TASK_INDEX else []
    result = run(
        *("verify", "-b", folder / "bundle", "--model", folder / "model"),
        *("--prompt", adapter(folder, method), *task, "--json"),
    )
    said = json.loads(result.stdout)
    assert said["passed"] is True
    assert said["max_rel"] <= 1e-4
    assert said["greedy_equal"] == said["greedy_total"] > 0
    assert said["reference"].startswith("peft ")


def test_tasks_are_those_of_optimum(folders: Callable[[str], Path]) -> None:
    from edgept.export.source import find_model

    for kind in TRIED:
        folder = str(folders(kind) / "model")
        for task in (None, "translation", "summarization", "text2text-generation-with-past"):
            assert find_model(folder, task).task == SEQ2SEQ_TASK
        with pytest.raises(
            UsageError, match="an encoder-decoder, which this version does not export"
        ):
            find_model(folder, "text-classification")


def test_settings_without_a_rule_are_refused(tmp_path: Path) -> None:
    from transformers import GenerationConfig

    from edgept.export.generation_rules import read_decoding, unread_settings

    settings: Any = GenerationConfig
    config = settings(decoder_start_token_id=4, encoder_no_repeat_ngram_size=3)
    with pytest.raises(
        ExportError, match="encoder_no_repeat_ngram_size, which this version has no rule"
    ):
        read_decoding(config, [2])
    with pytest.raises(ExportError, match="decoder_start_token_id None"):
        read_decoding(settings(), [2])
    assert read_decoding(settings(bos_token_id=4), [2]).start_token_id == 4
    config = settings(bos_token_id=4, bad_words_ids=[[2], [7]], suppress_tokens=[8])
    assert read_decoding(config, [2]).bad_words_ids == [[7], [8]]
    chosen = settings(do_sample=True, temperature=0.5, repetition_penalty=1.2)
    assert unread_settings(chosen) == ["do_sample", "repetition_penalty", "temperature"]
