import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from edgept.errors import IncompatibleError, InvalidFileError, UsageError
from edgept.manifest import KVGeometry, Manifest
from edgept.prompt import Prompt, check_fits
from edgept.prompt_file import read_prompt, write_prompt
from edgept.prompt_source import bind, load_prompt_source

ROWS = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)  # (P, hidden)
PREFIX = np.random.default_rng(1).standard_normal((3, 160)).astype(np.float32)  # (P, 5·2·2·8)
REAL = Path(__file__).parents[2] / "shared/data/bloomz-560m-prompt-adapter"


def make_manifest(**changes: Any) -> Manifest:
    manifest = Manifest(
        source="tiny-llama",
        architecture="LlamaForCausalLM",
        model_type="llama",
        task="text-generation",
        vocab_size=512,
        hidden_size=64,
        max_positions=512,
        max_virtual_tokens=256,
        kv=KVGeometry(num_layers=5, num_kv_heads=2, head_dim=8, shared_buffer=True),
        bos_token_id=1,
        eos_token_ids=[2],
        precision="fp32",
        float_type="float32",
        target="cpu",
        providers=["CPUExecutionProvider"],
        opset={"": 21},
        min_onnxruntime="1.23",
        fingerprint="ab" * 32,
        created_by="edgept test",
    )
    return dataclasses.replace(manifest, **changes)


def save(array: Any, path: Path, key: str = "prompt_embeddings") -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".safetensors":
        save_file({key: array}, path, {"format": "pt"})
    else:
        torch.save({key: torch.from_numpy(array)} if key else torch.from_numpy(array), path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt", ".pth", ".bin", ".PT"])
def test_every_bare_form_gives_the_same_rows(suffix: str, tmp_path: Path) -> None:
    prompt = load_prompt_source(save(ROWS, tmp_path / f"spanish{suffix}"), make_manifest())
    np.testing.assert_array_equal(prompt.tensors["prompt_embeds"], ROWS)
    assert (prompt.name, prompt.method, prompt.fingerprint) == ("spanish", "unknown", None)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
def test_a_row_as_wide_as_the_cache_is_a_prefix(suffix: str, tmp_path: Path) -> None:
    prompt = load_prompt_source(save(PREFIX, tmp_path / f"p{suffix}"), make_manifest())
    cache = prompt.tensors["prompt_kv"]  # (layers, 2, kv_heads, P, head_dim)
    assert cache.shape == (5, 2, 2, 3, 8)
    # layer 4's values, head 1, virtual token 2, written out
    start = ((4 * 2 + 1) * 2 + 1) * 8
    np.testing.assert_array_equal(cache[4, 1, 1, 2], PREFIX[2, start : start + 8])


@pytest.mark.parametrize(
    "key",
    ["", "prompt_embeds", "prompt_encoder.default.embedding.weight", "soft_prompt.weight"],
)
def test_names_under_which_rows_are_found(key: str, tmp_path: Path) -> None:
    prompt = load_prompt_source(save(ROWS, tmp_path / "p.pt", key))
    np.testing.assert_array_equal(prompt.tensors["prompt_embeds"], ROWS)


def test_a_state_dict_of_a_whole_model_gives_its_prompt(tmp_path: Path) -> None:
    key = "prompt_encoder.default.embedding.weight"
    state = {"base_model.lm_head.weight": torch.ones(2, 2), key: torch.from_numpy(ROWS)}
    torch.save(state, tmp_path / "p.pt")
    prompt = load_prompt_source(tmp_path / "p.pt")
    assert list(prompt.tensors) == ["prompt_embeds"]


@pytest.mark.parametrize(
    ("rows", "head"),
    [
        ("prompt_embeddings", "base_model.classifier"),
        ("prompt_embeddings", "score"),
        ("prompt_encoder.default.embedding.weight", "base_model.score.modules_to_save.default"),
    ],
)
def test_a_head_beside_the_rows_goes_with_them(rows: str, head: str, tmp_path: Path) -> None:
    """Without it the prompt would answer with the head that the bundle has."""
    weight, bias = np.full((3, 64), 2, np.float32), np.ones(3, np.float32)
    tensors = {rows: ROWS, f"{head}.weight": weight, f"{head}.bias": bias}
    if head.endswith("default"):
        tensors["base_model.score.original_module.weight"] = weight * 0
    save_file(tensors, tmp_path / "p.safetensors")
    prompt = load_prompt_source(tmp_path / "p.safetensors")
    assert prompt.task == "text-classification"
    np.testing.assert_array_equal(prompt.tensors["head.weight"], weight)
    np.testing.assert_array_equal(prompt.tensors["head.bias"], bias)


def test_a_head_of_several_layers_is_refused(tmp_path: Path) -> None:
    tensors = {"prompt_embeddings": ROWS, "base_model.classifier.dense.weight": ROWS}
    save_file(tensors, tmp_path / "p.safetensors")
    with pytest.raises(IncompatibleError, match="one linear layer"):
        load_prompt_source(tmp_path / "p.safetensors")


@pytest.mark.parametrize(
    "names",
    [
        # rows that P-tuning's encoder, and prefix tuning's projection, have not been run on
        ("prompt_encoder.default.embedding.weight", "prompt_encoder.default.mlp_head.0.weight"),
        ("prompt_encoder.default.embedding.weight", "prompt_encoder.default.transform.0.weight"),
        ("prompt_embeddings", "lm_head.weight"),
        ("prompt_embeddings", "classifier.weight", "score.weight"),
        ("prompt_embeds", "prompt_embeddings"),
        ("prompt_embeds", "head.weight", "score.weight"),
        ("head.weight", "anything"),
    ],
)
def test_tensors_that_nobody_understands_are_refused(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    save_file(dict.fromkeys(names, ROWS), tmp_path / "p.safetensors")
    with pytest.raises(IncompatibleError, match=names[-1]):
        load_prompt_source(tmp_path / "p.safetensors")


def test_a_multitask_checkpoint_keeps_its_head(tmp_path: Path) -> None:
    head = np.full((3, 64), 2, np.float32)
    tensors = {
        "prompt_embeddings": ROWS,
        "prefix_task_cols": np.ones((1, 3, 1), np.float32),
        "prefix_task_rows": np.ones((1, 1, 64), np.float32),
        "base_model.classifier.weight": head,
    }
    save_file(tensors, tmp_path / "p.safetensors")
    prompt = load_prompt_source(tmp_path / "p.safetensors")
    np.testing.assert_array_equal(prompt.tensors["head.weight"], head)
    save_file({**tensors, "anything": ROWS}, tmp_path / "p.safetensors")
    with pytest.raises(IncompatibleError, match="anything"):
        load_prompt_source(tmp_path / "p.safetensors")
    save_file({**tensors, "base_model.classifier.weight": ROWS[0]}, tmp_path / "p.safetensors")
    with pytest.raises(InvalidFileError, match="classifier has the shapes"):
        load_prompt_source(tmp_path / "p.safetensors")


def test_our_names_keep_their_meaning(tmp_path: Path) -> None:
    head = np.ones((2, 64), np.float32)
    save_file({"prompt_embeds": ROWS, "head.weight": head}, tmp_path / "p.safetensors")
    prompt = load_prompt_source(tmp_path / "p.safetensors", make_manifest(task="x"))
    assert prompt.tensors.keys() == {"prompt_embeds", "head.weight"}
    assert prompt.task == "x"
    save_file({"prompt_kv": np.ones((5, 2, 2, 3, 8), np.float32)}, tmp_path / "k.safetensors")
    assert load_prompt_source(tmp_path / "k.safetensors").num_virtual_tokens == 3


def test_a_multitask_checkpoint_needs_its_task(tmp_path: Path) -> None:
    tensors = {
        "prompt_embeddings": ROWS,
        "prefix_task_cols": np.ones((2, 3, 1), np.float32),
        "prefix_task_rows": np.stack([np.ones((1, 64)), np.full((1, 64), 2)]).astype(np.float32),
    }
    save_file(tensors, tmp_path / "p.safetensors")
    prompt = load_prompt_source(tmp_path / "p.safetensors", task_index=1)
    np.testing.assert_array_equal(prompt.tensors["prompt_embeds"], ROWS * 2)
    with pytest.raises(UsageError, match="2 tasks"):
        load_prompt_source(tmp_path / "p.safetensors")
    del tensors["prefix_task_rows"]
    save_file(tensors, tmp_path / "p.safetensors")
    with pytest.raises(InvalidFileError) as caught:
        load_prompt_source(tmp_path / "p.safetensors", task_index=1)
    assert caught.value.reason == "peft-keys"


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
def test_a_task_index_for_anything_else_is_refused(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="multitask"):
        load_prompt_source(save(ROWS, tmp_path / f"p{suffix}"), task_index=0)


def test_a_width_that_fits_nothing_names_both_shapes(tmp_path: Path) -> None:
    path = save(ROWS[:, :63].copy(), tmp_path / "p.npy")
    with pytest.raises(IncompatibleError, match=r"\(3, 63\).*neither.*\(P, 64\).*\(P, 160\)"):
        load_prompt_source(path, make_manifest())
    with pytest.raises(IncompatibleError, match="no cache"):
        load_prompt_source(path, make_manifest(kv=None))


def test_a_width_that_could_be_either_is_refused(tmp_path: Path) -> None:
    kv = KVGeometry(num_layers=2, num_kv_heads=2, head_dim=8, shared_buffer=True)  # 64 wide
    with pytest.raises(IncompatibleError, match="could be either"):
        load_prompt_source(save(ROWS, tmp_path / "p.npy"), make_manifest(kv=kv))


def test_our_own_file_keeps_what_it_says(tmp_path: Path) -> None:
    prompt = bind(Prompt({"prompt_embeds": ROWS}, name="spanish"), make_manifest())
    write_prompt(prompt, tmp_path / "other.safetensors")
    loaded = load_prompt_source(tmp_path / "other.safetensors")
    assert (loaded.name, loaded.fingerprint) == ("spanish", "ab" * 32)
    renamed = load_prompt_source(tmp_path / "other.safetensors", name="german")
    assert renamed.name == "german"
    # It is held to the rules of a prompt file, not to those of a bare checkpoint.
    data = (tmp_path / "other.safetensors").read_bytes()
    assert data.count(b'"method"') == 1
    (tmp_path / "bad.safetensors").write_bytes(data.replace(b'"method"', b'"m3thod"'))
    with pytest.raises(InvalidFileError) as caught:
        load_prompt_source(tmp_path / "bad.safetensors")
    assert caught.value.reason == "metadata-missing"


@pytest.mark.skipif(not REAL.exists(), reason="../shared/data is not here")
def test_a_weight_file_with_its_configuration_is_read_as_the_folder() -> None:
    by_folder, by_file = load_prompt_source(REAL), load_prompt_source(REAL / "adapter_model.bin")
    assert by_file.method == by_folder.method == "prompt_tuning"
    assert by_file.name == by_folder.name == "bloomz-560m-prompt-adapter"
    with pytest.raises(IncompatibleError, match=r"\(8, 1024\)"):
        bind(by_folder, make_manifest())


def test_sources_that_are_no_source(tmp_path: Path) -> None:
    for name, text in [
        ("p.onnx_adapter", "Give the .safetensors that it was exported from"),
        ("p.gguf", "in no form that edgept reads"),
    ]:
        (tmp_path / name).touch()
        with pytest.raises(UsageError, match=text):
            load_prompt_source(tmp_path / name)
    for missing in ("nothing", "nothing.npy", "nothing.pt", "nothing.safetensors"):
        with pytest.raises(UsageError, match=r"no .*nothing|cannot read"):
            load_prompt_source(tmp_path / missing)
    save_file({"a": ROWS, "b": ROWS}, tmp_path / "two.safetensors")
    with pytest.raises(UsageError, match="none of them named as a prompt's"):
        load_prompt_source(tmp_path / "two.safetensors")
    with pytest.raises(UsageError, match=r"no adapter_config\.json"):
        load_prompt_source(tmp_path)


def test_arrays_of_a_wrong_rank_are_refused(tmp_path: Path) -> None:
    for shape in [(64,), (1, 1, 3, 64), ()]:
        np.save(tmp_path / "p.npy", np.ones(shape, np.float32))
        with pytest.raises(InvalidFileError) as caught:
            load_prompt_source(tmp_path / "p.npy")
        assert caught.value.reason == "tensor-rank"


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_types_and_orders(dtype: str, order: Any, tmp_path: Path) -> None:
    array = ROWS.astype(dtype)
    np.save(tmp_path / "p.npy", np.asarray(array, order=order))
    loaded = load_prompt_source(tmp_path / "p.npy").tensors["prompt_embeds"]
    np.testing.assert_array_equal(loaded, array.astype(np.float32))
    assert loaded.flags.c_contiguous
    assert not loaded.flags.writeable


def test_npy_files_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.npy"
    np.save(path, ROWS)
    good = path.read_bytes()
    for old, new in [
        (b"\x93NUMPY", b"\x93NUMPI"),
        (b"\x01\x00", b"\x03\x00"),
        (b"(3, 64)", b"(3, 65)"),
        (b"(3, 64)", b"(0, 64)"),
        (b"(3, 64)", b"(3,-64)"),
        (b"<f4", b">f4"),
        (b"<f4", b"<i4"),
        (b"<f4", b"|O8"),
        (b"False", b"None "),
        (b"'descr'", b"'DESCR'"),
    ]:
        assert old in good
        path.write_bytes(good.replace(old, new, 1))
        with pytest.raises(InvalidFileError) as caught:
            load_prompt_source(path)
        assert caught.value.reason == "npy-malformed"
    for cut in (0, 5, 9, 60, len(good) - 1):
        path.write_bytes(good[:cut])
        with pytest.raises(InvalidFileError):
            load_prompt_source(path)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidFileError):
        load_prompt_source(path)
    np.save(path, np.full((1, 2), np.nan, np.float32))
    with pytest.raises(InvalidFileError) as caught:
        load_prompt_source(path)
    assert caught.value.reason == "value-not-finite"


def test_binding_makes_it_writable_and_checks_it(tmp_path: Path) -> None:
    manifest = make_manifest()
    bound = bind(Prompt({"prompt_embeds": ROWS}), manifest)
    assert bound.fingerprint == manifest.fingerprint
    assert bound.created_by.startswith("edgept ")
    write_prompt(bound, tmp_path / "p")
    assert read_prompt(tmp_path / "p").fingerprint == manifest.fingerprint
    with pytest.raises(IncompatibleError, match="made for another model"):
        bind(bound, make_manifest(fingerprint="cd" * 32))


def test_a_prompt_without_a_head_is_bound_to_the_heads_classes(tmp_path: Path) -> None:
    """Two checkpoints with one backbone have one fingerprint, and each a head of its own."""
    classifies = {"task": "text-classification", "head_size": 64}
    moods = make_manifest(**classifies, labels=["bad", "good"])
    topics = make_manifest(**classifies, labels=["news", "sport"])
    assert moods.fingerprint == topics.fingerprint
    prompt = Prompt({"prompt_embeds": ROWS}, "mild", task="text-classification")
    write_prompt(bind(prompt, moods), tmp_path / "mild.safetensors")
    bound = load_prompt_source(tmp_path / "mild.safetensors", topics)
    assert bound.labels == ("bad", "good")
    check_fits(bound, moods)
    assert bind(bound, moods).labels == ("bad", "good")
    with pytest.raises(IncompatibleError, match=r"'bad', 'good'; .* has 'news', 'sport'"):
        check_fits(bound, topics)
    with pytest.raises(IncompatibleError, match=r"the classes \(none recorded\)"):
        check_fits(dataclasses.replace(bound, labels=()), topics)
    head = {"prompt_embeds": ROWS, "head.weight": np.ones((2, 64), np.float32)}
    whole = bind(dataclasses.replace(prompt, tensors=head), moods)
    assert whole.labels == ()
    check_fits(whole, topics)  # which brings its own head
