"""What a bundle's manifest and files may be: everything else is refused before it runs."""

import copy
import dataclasses
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edgept
from edgept.bundle import MANIFEST_NAME, check_files, find_bundle, hash_file, read_manifest
from edgept.errors import (
    EdgeptError,
    IncompatibleError,
    InvalidFileError,
    UntrustedError,
    UsageError,
)
from edgept.manifest import BundleFile, KVGeometry, Manifest

MANIFEST = Manifest(
    source="tiny",
    architecture="LlamaForCausalLM",
    model_type="llama",
    task="text-generation",
    vocab_size=512,
    hidden_size=64,
    max_positions=256,
    max_virtual_tokens=128,
    kv=KVGeometry(3, 2, 16, shared_buffer=True),
    bos_token_id=1,
    eos_token_ids=[2],
    precision="fp32",
    float_type="float32",
    target="cpu",
    providers=["CPUExecutionProvider"],
    opset={"": 21, "com.microsoft": 1},
    min_onnxruntime="1.23.0",
    fingerprint="ab" * 32,
    created_by="edgept 0.1.0",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle of two files that are no models: enough for what is checked before onnxruntime."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "model.onnx").write_bytes(b"graph")
    (tmp_path / "b" / "model.onnx.data").write_bytes(b"weights")
    write(tmp_path / "b", MANIFEST)
    return tmp_path / "b"


@pytest.fixture(scope="module")
def real(bundle_of: Callable[..., Path]) -> Path:
    return bundle_of("llama")


@pytest.fixture
def real_copy(real: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(real, tmp_path / "b"))


def write(folder: Path, manifest: Manifest) -> Manifest:
    """Write a manifest that lists the files there."""
    files = {
        path.name: BundleFile(path.stat().st_size, hash_file(path))
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST_NAME
    }
    manifest = dataclasses.replace(manifest, files=files)
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def change(folder: Path, **fields: Any) -> None:
    """Change fields of the manifest as it lies there."""
    raw = json.loads((folder / MANIFEST_NAME).read_text())
    (folder / MANIFEST_NAME).write_text(json.dumps(raw | fields))


# The manifest


def test_is_read_as_it_was_written(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert dataclasses.replace(manifest, files={}) == MANIFEST
    assert manifest.files["model.onnx"].size == 5
    encoder = dataclasses.replace(
        MANIFEST,
        kv=None,
        bos_token_id=None,
        source="modèle 日本",
        head_size=64,
        labels=["sí, claro", "no"],
    )
    write(folder, encoder)
    assert dataclasses.replace(read_manifest(folder), files={}) == encoder


def test_metadata_for_programs_without_json() -> None:
    found = MANIFEST.to_metadata()
    assert found["edgept.vocab_size"] == "512"
    assert found["edgept.eos_token_ids"] == "2"
    assert found["edgept.kv.shared_buffer"] == "1"
    assert found["edgept.fingerprint"] == "ab" * 32
    assert not any(".kv." in key for key in dataclasses.replace(MANIFEST, kv=None).to_metadata())


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5, [1], {"a": 1}])
def test_version_that_is_not_known(version: Any, folder: Path) -> None:
    change(folder, format_version=version)
    with pytest.raises(InvalidFileError, match="Update edgept") as caught:
        read_manifest(folder)
    assert caught.value.reason == "manifest-version"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b"\xff\xfe",
        b"\x00" * 64,
        b"[" * 100_000,
        b'{"format_version": 1}',
        b'{"format_version": 1, "kv": null, "files": {}}',
        b'{"format_version": 1, "kv": null, "files": []}',
        b'{"format_version": 1, "kv": 5, "files": {"a": 5}}',
        b'{"format_version": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda text: repr(text[:24]),
)
def test_text_that_is_no_manifest(text: bytes, folder: Path) -> None:
    (folder / MANIFEST_NAME).write_bytes(text)
    with pytest.raises(InvalidFileError) as caught:
        read_manifest(folder)
    assert caught.value.reason in ("manifest-malformed", "manifest-version")


def test_manifest_that_is_too_large(folder: Path) -> None:
    with (folder / MANIFEST_NAME).open("ab") as file:
        file.truncate((1 << 20) + 1)
    with pytest.raises(InvalidFileError) as caught:
        read_manifest(folder)
    assert caught.value.reason == "manifest-too-large"


@pytest.mark.parametrize(
    "name", ["../model.onnx", "/etc/passwd", "a/b", "", ".", "..", ".hidden", "a b", "é", "a\x00"]
)
def test_names_of_files_are_plain(name: str, folder: Path) -> None:
    change(folder, files={name: {"size": 1, "sha256": "0" * 64}})
    with pytest.raises(InvalidFileError):
        read_manifest(folder)


def test_no_provider_at_all_is_refused(folder: Path) -> None:
    change(folder, providers=[])
    with pytest.raises(InvalidFileError):
        read_manifest(folder)


VALUES: list[Any] = [
    *(None, True, -1, 0, 3, 2**31, 2**70, 1.5, float("nan"), "", "x", "../x", "float16", "a" * 64),
    *([], [[]], [None], ["x"], [1, "x"], [-5], {}, {"a": 1}, {"a": {"size": 1, "sha256": 5}}),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every value inside."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield (*path, key)
        if isinstance(value[key], (dict, list)):
            yield from places(value[key], (*path, key))


def mutants(raw: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A manifest with one value replaced, removed or added, at every place."""
    raw = {**raw, "parity": {}}
    for path in list(places(raw)):
        for value in [*VALUES, "removed", "added"]:
            mutant = copy.deepcopy(raw)
            holder: Any = mutant
            for key in path[:-1]:
                holder = holder[key]
            if value == "removed":
                del holder[path[-1]]
            elif value == "added":
                if not isinstance(holder, dict):
                    continue
                holder["surprise"] = 1
            else:
                holder[path[-1]] = value
            yield f"{path} = {value!r}", mutant


def test_every_mutant_is_read_right_or_refused(folder: Path) -> None:
    """What comes out has the types that it says, whatever went in."""
    raw = json.loads((folder / MANIFEST_NAME).read_text())
    refused = read = 0
    for name, mutant in mutants(raw):
        (folder / MANIFEST_NAME).write_text(json.dumps(mutant))
        try:
            manifest = read_manifest(folder)
        except InvalidFileError:
            refused += 1
            continue
        read += 1
        for field, example in dataclasses.asdict(MANIFEST).items():
            found = getattr(manifest, field)
            if field == "kv":
                assert found is None or isinstance(found, KVGeometry), name
            elif field in ("bos_token_id", "head_size", "pad_token_id", "block_size"):
                assert type(found) in (int, type(None)), name
            elif field == "pooling":
                assert found in (None, "mean", "cls"), name
            else:
                assert type(found) is type(example), name
        assert all(type(token) is int for token in manifest.eos_token_ids), name
        assert all(type(entry.sha256) is str for entry in manifest.files.values()), name
    assert refused > 500
    assert read > 20


def test_every_mutant_of_a_real_bundle_loads_or_is_refused(real: Path, tmp_path: Path) -> None:
    """Whatever a manifest says, loading and running end in a result or in an error of ours."""
    folder = tmp_path / "b"
    folder.mkdir()
    for path in real.iterdir():
        os.link(path, folder / path.name)
    raw = json.loads((folder / MANIFEST_NAME).read_text())
    (folder / MANIFEST_NAME).unlink()
    expected = edgept.load(real, threads=1).generate([5, 6], max_new_tokens=3).token_ids
    chosen = random.Random(3).sample(list(mutants(raw)), 300)
    outcomes = []
    for name, mutant in chosen:
        (folder / MANIFEST_NAME).write_text(json.dumps(mutant))
        try:
            model = edgept.load(folder, threads=1)
            found = model.generate([5, 6], max_new_tokens=3).token_ids
        except EdgeptError as error:
            outcomes.append(type(error).__name__)
        else:
            assert found == expected, name
            outcomes.append("loaded")
    assert outcomes.count("loaded") < 60
    assert {"loaded", "InvalidFileError", "UntrustedError"} <= set(outcomes)


def test_noise_in_a_manifest(folder: Path) -> None:
    """Bytes changed anywhere: an error of ours, or a manifest that still reads."""
    good = (folder / MANIFEST_NAME).read_bytes()
    chance = random.Random(5)
    refused = 0
    for _ in range(500):
        noisy = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(noisy))
            noisy[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        (folder / MANIFEST_NAME).write_bytes(noisy)
        try:
            read_manifest(folder)
        except InvalidFileError:
            refused += 1
    assert refused > 250


# The files


def test_files_as_exported_pass(folder: Path) -> None:
    check_files(folder, read_manifest(folder))


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
def test_file_that_changed(name: str, folder: Path) -> None:
    manifest, path = read_manifest(folder), folder / name
    good = path.read_bytes()
    for bad in (good[:-1], good + b"\n", good[:-1] + b"?", b""):
        path.write_bytes(bad)
        with pytest.raises(UntrustedError, match=r"not the file that was exported"):
            check_files(folder, manifest)
    path.unlink()
    with pytest.raises(UntrustedError, match="missing"):
        check_files(folder, manifest)


def test_file_that_is_none(folder: Path, tmp_path: Path) -> None:
    manifest, path = read_manifest(folder), folder / "model.onnx"
    shutil.move(path, tmp_path / "elsewhere")
    makers: list[Callable[[], None]] = [
        lambda: path.symlink_to(tmp_path / "elsewhere"),
        lambda: path.symlink_to(path),
        path.mkdir,
        lambda: os.mkfifo(path),
    ]
    for make in makers:
        make()
        with pytest.raises(UntrustedError, match="not a regular file"):
            check_files(folder, manifest)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "tokenizer.bin"]
)
def test_file_that_would_be_read_but_was_not_exported(name: str, folder: Path) -> None:
    manifest = read_manifest(folder)
    (folder / "notes.txt").write_text("nobody reads this")
    check_files(folder, manifest)
    (folder / name).write_text("{}")
    with pytest.raises(UntrustedError, match="not listed"):
        check_files(folder, manifest)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json"])
def test_model_with_a_changed_byte_does_not_load(name: str, real_copy: Path) -> None:
    path = real_copy / name
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x20
    path.write_bytes(data)
    with pytest.raises(UntrustedError) as caught:
        edgept.load(real_copy)
    assert caught.value.exit_code == 5
    assert name in str(caught.value)


def test_changed_weights_are_the_error_whatever_fails_meanwhile(real_copy: Path) -> None:
    """The weights are hashed while the graph is loaded."""
    path = real_copy / "model.onnx.data"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(edgept.EdgeptError, match="expected 1 to"):
        edgept.load(real_copy, threads=0, check_hashes=False)
    with pytest.raises(UntrustedError, match="not the file that was exported"):
        edgept.load(real_copy, threads=0)


def test_weights_behind_a_link_do_not_load(real_copy: Path, tmp_path: Path) -> None:
    weights = real_copy / "model.onnx.data"
    shutil.move(weights, tmp_path / "weights")
    weights.symlink_to(tmp_path / "weights")
    for check_hashes in (True, False):  # the graph's own check does not depend on the hashes
        with pytest.raises(UntrustedError, match="regular file"):
            edgept.load(real_copy, check_hashes=check_hashes)


def test_bundle_without_its_graph(real_copy: Path) -> None:
    manifest = read_manifest(real_copy)
    (real_copy / "model.onnx").unlink()
    with pytest.raises(UntrustedError, match="missing"):
        edgept.load(real_copy)
    with pytest.raises(UntrustedError, match="cannot be read"):
        edgept.load(real_copy, check_hashes=False)
    write(real_copy, manifest)
    with pytest.raises(InvalidFileError, match="lists no model"):
        edgept.load(real_copy)


def test_graph_that_is_none_but_is_listed(real_copy: Path) -> None:
    manifest = read_manifest(real_copy)
    for data in (b"", b"noise", b"\x00" * 1000):
        (real_copy / "model.onnx").write_bytes(data)
        write(real_copy, manifest)
        with pytest.raises(EdgeptError):
            edgept.load(real_copy)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"vocab_size": 100}, "vocab_size '512'.*'100'"),
        ({"hidden_size": 32}, "hidden_size"),
        ({"max_positions": 9999}, "max_positions"),
        ({"max_virtual_tokens": 3}, "max_virtual_tokens"),
        ({"eos_token_ids": [2, 3]}, "eos_token_ids"),
        ({"fingerprint": "ab" * 32}, "fingerprint"),
        ({"float_type": "float16"}, "float_type"),
        ({"kv": dataclasses.asdict(KVGeometry(1 << 30, 2, 16, shared_buffer=True))}, "num_layers"),
        ({"kv": dataclasses.asdict(KVGeometry(3, 2, 16, shared_buffer=False))}, "shared_buffer"),
    ],
)
def test_manifest_of_another_graph(fields: dict[str, Any], words: str, real_copy: Path) -> None:
    """With another vocabulary, a prompt's ids would be tokens: no error, and a wrong answer."""
    change(real_copy, **fields)
    with pytest.raises(InvalidFileError, match=words):
        edgept.load(real_copy)


def test_bundle_for_another_task(real_copy: Path) -> None:
    change(real_copy, task="depth-estimation")
    with pytest.raises(IncompatibleError, match="depth-estimation"):
        edgept.load(real_copy)
    change(real_copy, task="image-classification")
    with pytest.raises(InvalidFileError, match="lacks its image"):
        edgept.load(real_copy)
    change(real_copy, task="text2text-generation")
    with pytest.raises(InvalidFileError, match="lacks its decoding"):
        edgept.load(real_copy)
    change(real_copy, task="token-classification")
    with pytest.raises(InvalidFileError, match="lacks its head_size"):
        edgept.load(real_copy)
    change(real_copy, task="text-classification")
    with pytest.raises(InvalidFileError, match="lacks its head_size"):
        edgept.load(real_copy)
    change(real_copy, task="text-generation", kv=None)
    with pytest.raises(InvalidFileError, match="lacks its kv"):
        edgept.load(real_copy)


def test_onnxruntime_that_is_too_old(real_copy: Path) -> None:
    change(real_copy, min_onnxruntime="999.0")
    with pytest.raises(edgept.MissingDependencyError, match=r"needs 999\.0"):
        edgept.load(real_copy)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_tokenizer_that_is_none_but_is_listed(name: str, real_copy: Path) -> None:
    manifest = read_manifest(real_copy)
    for text in ("", "{", "[]", "null", '{"version": 5}', "[" * 100_000):
        (real_copy / name).write_text(text)
        write(real_copy, manifest)
        if (name, text) == ("tokenizer_config.json", '{"version": 5}'):
            assert edgept.load(real_copy).tokenizer is not None
            continue
        with pytest.raises(InvalidFileError, match="not a tokenizer file"):
            edgept.load(real_copy)


def test_hashes_can_be_left_out(real_copy: Path) -> None:
    """For a file system that cannot change; the graph is still looked at."""
    (real_copy / "genai_config.json").write_text("{}")
    with pytest.raises(UntrustedError):
        edgept.load(real_copy)
    model = edgept.load(real_copy, threads=1, check_hashes=False)
    assert len(model.generate([5], max_new_tokens=2).token_ids) == 2


# Finding it


def test_find(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEPT_BUNDLE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert find_bundle(folder) == folder
    for nowhere, found in (
        (None, "nothing there"),
        (tmp_path, "a folder without edgept.json"),
        (folder / "model.onnx", "nothing there"),
        (folder / "model.onnx" / "below", "nothing there"),
        ("x" * 300, "nothing there"),
        ("a\x00b", "nothing there"),
    ):
        with pytest.raises(UsageError, match=found):
            find_bundle(nowhere)
    monkeypatch.setenv("EDGEPT_BUNDLE", str(folder))
    assert find_bundle() == folder
    assert find_bundle("") == folder
    monkeypatch.delenv("EDGEPT_BUNDLE")
    folder.rename(tmp_path / "bundle")
    assert find_bundle() == Path("bundle")
