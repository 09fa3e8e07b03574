"""`load(engine="c")` against `load()`: the same tokens, classes, vectors and errors."""

import ctypes.util
import dataclasses
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgept
from edgept.bundle import MANIFEST_NAME, read_manifest
from edgept.manifest import Manifest
from edgept.prompt import Prompt
from edgept.prompt_file import write_prompt
from edgept.runtime import c_library
from edgept.runtime.c_engine import CModel
from tests.c_library import BUILD
from tests.c_library import c_library as build
from tests.encoder_bundles import TEXTS, word_pieces
from tests.foreign_prompts import compare
from tests.malformed import corpus
from tests.test_c_runtime import set_metadata

pytest.importorskip("torch", reason="needs edgept[export]")

QUESTION = "where is my parcel"
IDS = [5, 9, 77, 130, 200, 31, 4]


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library of this checkout; the test is skipped where it cannot be built."""
    build()
    monkeypatch.setenv("EDGEPT_LIBRARY", str(BUILD / "libedgept.so"))


def both(bundle: Path) -> tuple[edgept.Model, CModel]:
    return edgept.load(bundle, threads=1), edgept.load(bundle, threads=1, engine="c")


def array(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 0.3


def prompts(manifest: Manifest) -> list[Prompt]:
    """Rows, other rows, keys and values."""
    kv = manifest.kv
    assert kv is not None
    prefix = array(kv.num_layers, 2, kv.num_kv_heads, 5, kv.head_dim)
    tensors = [
        {"prompt_embeds": array(4, manifest.hidden_size)},
        {"prompt_embeds": array(6, manifest.hidden_size, seed=1)},
        {"prompt_kv": prefix},
    ]
    return [
        Prompt(item, name=f"prompt {index}", task=manifest.task)
        for index, item in enumerate(tensors)
    ]


def same(found: edgept.Generation, expected: edgept.Generation) -> None:
    for name in ("token_ids", "finish_reason", "prompt"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.text == expected.text.split("\0")[0]  # where texts end in C
    for name in ("virtual_tokens", "input_tokens", "new_tokens"):
        assert getattr(found.latency, name) == getattr(expected.latency, name), name
    latency = found.latency
    assert latency.ttft_ms is not None
    assert 0 < latency.prefill_ms < latency.ttft_ms <= latency.total_ms


def classifying(manifest: Manifest, classes: int) -> Prompt:
    assert manifest.head_size is not None
    return Prompt(
        {
            "prompt_embeds": array(3, manifest.hidden_size),
            "head.weight": array(classes, manifest.head_size),
            "head.bias": array(classes, seed=1),
        },
        name=f"{classes} classes",
        task=manifest.task,
        labels=tuple(f"klaſſe {index}" for index in range(classes)),
    )


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_generations_and_streams(kind: str, bundle_of: Callable[..., Path]) -> None:
    python, c = both(bundle_of(kind))
    assert (c.manifest, c.max_length, c.bundle) == (
        python.manifest,
        python.max_length,
        python.bundle,
    )
    loaded: list[tuple[Any, Any]] = [(None, None)]
    loaded += [
        (python.load_prompt(prompt), c.load_prompt(prompt)) for prompt in prompts(c.manifest)
    ]
    answers = set()
    for in_python, in_c in loaded:
        contents: list[Any] = [QUESTION, "Zürich 😀", IDS, np.array(IDS)]
        for content in contents:
            for options in ({"max_new_tokens": 24}, {"repetition_penalty": 1.3}):
                expected = python.generate(content, prompt=in_python, **options)
                same(c.generate(content, prompt=in_c, **options), expected)
        np.testing.assert_array_equal(
            c.last_logits(QUESTION, prompt=in_c), python.logits(QUESTION, prompt=in_python)[-1]
        )
        with c.stream(QUESTION, prompt=in_c, max_new_tokens=24) as stream:
            pieces = [*stream]
        expected = python.generate(QUESTION, prompt=in_python, max_new_tokens=24)
        assert "".join(pieces) == expected.text.replace("\0", "")
        assert len(pieces) > 3
        assert stream.result is not None
        same(stream.result, expected)
        answers.add(expected.text)
    assert len(answers) == 4
    same(c.generate([], prompt=loaded[1][1]), python.generate([], prompt=loaded[1][0]))


def test_sampling(bundle_of: Callable[..., Path]) -> None:
    """Its own random numbers, of the distribution that tests/test_c_runtime.py compares."""
    _, c = both(bundle_of("llama"))
    again = [c.generate(QUESTION, temperature=1.0, seed=7).token_ids for _ in range(2)]
    assert again[0] == again[1]
    assert c.generate(QUESTION, temperature=1.0, seed=8).token_ids != again[0]
    assert len({tuple(c.generate(QUESTION, temperature=1.0).token_ids) for _ in range(4)}) > 1
    greedy = c.generate(QUESTION, max_new_tokens=8).token_ids
    for options in ({"top_p": 0.0}, {"top_k": 1}):
        chosen: Any = {"temperature": 1.0, "max_new_tokens": 8, **options}
        assert c.generate(QUESTION, **chosen).token_ids == greedy


def test_what_ends_a_generation(bundle_of: Callable[..., Path]) -> None:
    python, c = both(bundle_of("gpt2"))
    tokens = c.generate(IDS, max_new_tokens=30).token_ids
    stop = tokens[3]
    ended = c.generate(IDS, stop_ids=[500, stop])
    assert (ended.token_ids, ended.finish_reason) == (tokens[: tokens.index(stop) + 1], "stop")
    cancel = threading.Event()
    cancel.set()
    for model in (python, c):
        cancelled = model.generate(IDS, cancel=cancel)
        assert (cancelled.token_ids, cancelled.finish_reason) == (tokens[:1], "cancelled")
    assert c.generate(IDS, cancel=threading.Event(), max_new_tokens=30).token_ids == tokens
    assert c.generate(IDS, max_new_tokens=1 << 70).finish_reason == "full"
    for model in (python, c):
        with pytest.raises(edgept.EdgeptError, match="reached the model's longest"):
            model.generate(IDS, max_new_tokens=1000, on_full="error")
    stream = c.stream(QUESTION)
    next(stream)
    stream.close()
    assert stream.result is not None
    assert stream.result.finish_reason in ("cancelled", "full")  # it does not wait for its reader
    with pytest.raises(StopIteration):
        next(stream)
    too_long = c.stream("where " * 400)
    with pytest.raises(edgept.UsageError, match="positions"):
        next(too_long)


def test_stop_strings(bundle_of: Callable[..., Path]) -> None:
    """Cut by tokens in any way, complete or not, one or several: text, tokens and reason as in Python."""
    python, c = both(bundle_of("llama"))
    chosen = random.Random(0)
    prompt = prompts(c.manifest)[0]
    loaded = [(None, None), (python.load_prompt(prompt), c.load_prompt(prompt))]
    reasons = set()
    for in_python, in_c in loaded:
        for content in (QUESTION, IDS):
            whole = python.generate(content, prompt=in_python, max_new_tokens=40).text
            for _ in range(60):
                begin, size = chosen.randrange(len(whole) - 8), chosen.randint(1, 7)
                stops = [whole[begin : begin + size], whole[begin + 1 : begin + size] + "?"]
                stops += [whole[-size:], "ZZ"][: chosen.randint(0, 2)]
                if any("\0" in stop for stop in stops):
                    continue
                options: Any = {"stop": stops, "max_new_tokens": 40}
                expected = python.generate(content, prompt=in_python, **options)
                same(c.generate(content, prompt=in_c, **options), expected)
                reasons.add(expected.finish_reason)
                if isinstance(content, str):
                    stream = c.stream(content, prompt=in_c, **options)
                    assert "".join(stream) == expected.text.replace("\0", "")
                    assert stream.result is not None
                    same(stream.result, expected)
            # the last token may complete one, and a text that was held back is no less
            options = {"stop": whole[-4:] + "?", "max_new_tokens": 40}
            same(
                c.generate(content, prompt=in_c, **options),
                python.generate(content, prompt=in_python, **options),
            )
    assert {"stop"} <= reasons
    for model in (python, c):
        for wrong in ([""], ["a", 5], [None]):
            with pytest.raises(edgept.UsageError, match="stop string"):
                model.generate(QUESTION, stop=wrong)  # type: ignore[arg-type]


def test_text_of_what_ends_it(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    """An end-of-text token is no text, special or not; in what the graph says of itself, too."""
    tokens = both(bundle_of("gpt2"))[0].generate(IDS, max_new_tokens=12).token_ids
    bundle = shutil.copytree(bundle_of("gpt2"), tmp_path / "bundle")
    end = next(token for token in tokens[3:] if token > 2)
    set_metadata(bundle / "model.onnx", {"edgept.eos_token_ids": f"{end}"})
    manifest = dataclasses.replace(read_manifest(bundle), eos_token_ids=[end])
    (bundle / MANIFEST_NAME).write_text(manifest.to_json())
    python = edgept.load(bundle, check_hashes=False)
    c = edgept.load(bundle, check_hashes=False, engine="c")
    expected = python.generate(IDS, max_new_tokens=12)
    assert expected.finish_reason == "eos"
    same(c.generate(IDS, max_new_tokens=12), expected)


def test_a_prompt_that_the_graph_ignores_is_refused(
    bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    """As in Python: the first that shows something is run; of zeros nothing is shown."""
    import onnx

    bundle = shutil.copytree(bundle_of("llama"), tmp_path / "bundle")
    graph = onnx.load(bundle / "model.onnx", load_external_data=False)
    for node in graph.graph.node:
        for index, name in enumerate(node.input):
            if name == "prompt_embeds":
                node.input[index] = "folded"
    default = next(item for item in graph.graph.initializer if item.name == "prompt_embeds")
    graph.graph.initializer.add().CopyFrom(default)
    graph.graph.initializer[-1].name = "folded"
    onnx.save(graph, bundle / "model.onnx")
    c = edgept.load(bundle, check_hashes=False, engine="c")
    rows, _, prefix = prompts(c.manifest)
    one = {"prompt_embeds": rows.tensors["prompt_embeds"][:1]}  # the default's size
    c.load_prompt(Prompt({"prompt_embeds": np.zeros_like(one["prompt_embeds"])}))
    with pytest.raises(edgept.IncompatibleError, match="changes nothing"):
        c.load_prompt(dataclasses.replace(rows, tensors=one))
    c.load_prompt(prefix)


def test_threads_share_a_model(bundle_of: Callable[..., Path]) -> None:
    _, c = both(bundle_of("llama"))
    loaded = [None, *map(c.load_prompt, prompts(c.manifest))]
    expected = [c.generate(IDS, prompt=prompt, max_new_tokens=12).token_ids for prompt in loaded]
    wrong: list[int] = []

    def work(begin: int) -> None:
        for turn in range(20):
            which = (begin + turn) % len(loaded)
            found = c.generate(IDS, prompt=loaded[which], max_new_tokens=12)
            if found.token_ids != expected[which]:
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(begin,)) for begin in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(c._opened._idle) <= 4


def test_whatever_holds_a_prompt(
    bundle_of: Callable[..., Path], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Prompt files, peft folders, bare tensors and prompts in memory, read as in Python."""
    from safetensors.numpy import save_file

    from tests.peft_adapters import TASK_INDEX, make_adapter

    python, c = both(bundle_of("llama"))
    rows, _, _ = prompts(c.manifest)
    bound = dataclasses.replace(rows, fingerprint=c.manifest.fingerprint)
    write_prompt(bound, tmp_path / "file.safetensors")
    np.save(tmp_path / "rows.npy", rows.tensors["prompt_embeds"])
    save_file({"prompt_embeddings": rows.tensors["prompt_embeds"]}, tmp_path / "bare.safetensors")
    sources: list[tuple[Any, dict[str, Any]]] = [
        (rows, {}),
        (bound, {}),
        (tmp_path / "file.safetensors", {}),
        (str(tmp_path / "file.safetensors"), {"name": "renamed"}),
        (tmp_path / "rows.npy", {}),
        (tmp_path / "bare.safetensors", {"name": "bare"}),
    ]
    for method in ("prompt_tuning", "prefix_tuning", "multitask"):
        folder = make_adapter(method, model_folder("llama"), tmp_path / method)
        index = TASK_INDEX.get(method)
        sources += [(folder, {"task_index": index})]
        if index is None:
            sources += [(folder / "adapter_model.safetensors", {})]
    for source, options in sources:
        in_python, in_c = python.load_prompt(source, **options), c.load_prompt(source, **options)
        assert in_c.name == in_python.name
        assert in_c.num_virtual_tokens == in_python.num_virtual_tokens
        assert in_c.nbytes >= rows.tensors["prompt_embeds"].nbytes
        assert in_c.model is c
        expected = python.generate(IDS, prompt=in_python, max_new_tokens=12)
        same(c.generate(IDS, prompt=in_c, max_new_tokens=12), expected)


def test_files_that_are_refused(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    """The same class, and the same reason, as in Python."""
    python, c = both(bundle_of("llama"))
    for name, (data, _) in corpus().items():
        (tmp_path / f"{name}.safetensors").write_bytes(data)
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "nowhere")
    other = dataclasses.replace(prompts(c.manifest)[0], fingerprint="0" * 64)
    write_prompt(other, tmp_path / "other.safetensors")
    sources: list[Any] = [*sorted(tmp_path.glob("*.safetensors")), other, tmp_path / "missing"]
    sources += [tmp_path / "missing.safetensors", tmp_path / "zero\0.safetensors"]
    reasons = set()
    for source in sources:
        caught = []
        for model in (python, c):
            with pytest.raises(edgept.EdgeptError) as refused:
                model.load_prompt(source)
            caught.append((type(refused.value), getattr(refused.value, "reason", None)))
        assert caught[0] == caught[1], source
        reasons.add(caught[0])
    assert len(reasons) > 30


def test_prompts_of_others_are_refused(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    """A few of what `python -m tests.foreign_prompts 1000` tries."""
    pairs = [both(bundle_of("llama")), both(bundle_of("gpt2"))]
    pairs.append(both(bundle_of("bert", "fp32", "text-classification")))
    seen = compare(pairs, 300, tmp_path)
    assert len(seen) > 15
    assert sum(count for reason, count in seen.items() if "another model" in reason) > 10


def test_classes(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    from edgept.export import export_model
    from tests.conftest import tiny_model

    tiny_model("bert").save_pretrained(tmp_path / "model")
    word_pieces().save_pretrained(tmp_path / "model")
    bundle = tmp_path / "bundle"
    export_model(str(tmp_path / "model"), bundle, task="text-classification", verify=False)
    python, c = both(bundle)
    contents: list[Any] = [*TEXTS, IDS, (TEXTS[0], TEXTS[1])]
    for classes in (2, 5):
        prompt = classifying(c.manifest, classes)
        in_python, in_c = python.load_prompt(prompt), c.load_prompt(prompt)
        for content in contents:
            expected = python.classify(content, prompt=in_python)
            found = c.classify(content, prompt=in_c)
            np.testing.assert_array_equal(found.logits, expected.logits)
            np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-12)
            assert found.probability == pytest.approx(expected.probability, rel=1e-12)
            for name in ("label", "labels", "prompt", "truncated"):
                assert getattr(found, name) == getattr(expected, name)
            for name in ("virtual_tokens", "input_tokens", "new_tokens", "ttft_ms", "tpot_ms"):
                assert getattr(found.latency, name) == getattr(expected.latency, name)
            np.testing.assert_array_equal(c.outputs(content, prompt=in_c), expected.logits)
    for model in (python, c):
        with pytest.raises(edgept.UsageError, match="head"):
            model.classify(IDS)
        with pytest.raises(edgept.UsageError, match="classify"):
            model.generate(IDS)


@pytest.mark.parametrize("task", ["feature-extraction", "token-classification"])
def test_vectors_and_positions(task: str, bundle_of: Callable[..., Path]) -> None:
    python, c = both(bundle_of("bert", "fp32", task))
    if task == "feature-extraction":
        tensors = {"prompt_embeds": array(7, c.manifest.hidden_size)}
        prompt = Prompt(tensors, name="seven", task=task)
        loaded = [(None, None), (python.load_prompt(prompt), c.load_prompt(prompt))]
    else:
        prompt = classifying(c.manifest, 4)
        loaded = [(python.load_prompt(prompt), c.load_prompt(prompt))]
    contents: list[Any] = [QUESTION, IDS]
    for content in contents:
        for in_python, in_c in loaded:
            np.testing.assert_array_equal(
                c.outputs(content, prompt=in_c), python.outputs(content, prompt=in_python)
            )
            if task == "feature-extraction":
                expected = python.embed(content, prompt=in_python)
                found = c.embed(content, prompt=in_c)
                np.testing.assert_allclose(found.vector, expected.vector, rtol=1e-5, atol=1e-6)
                assert (found.prompt, found.truncated) == (expected.prompt, 0)
    with pytest.raises(edgept.UsageError, match=r"model\.(embed|tag)"):
        c.classify(IDS)


def test_an_encoder_decoder(bundle_of: Callable[..., Path]) -> None:
    python, c = both(bundle_of("t5"))
    loaded: list[tuple[Any, Any]] = [(None, None)]
    loaded += [
        (python.load_prompt(prompt), c.load_prompt(prompt)) for prompt in prompts(c.manifest)
    ]
    for in_python, in_c in loaded:
        for content in (QUESTION, IDS):
            expected = python.generate(content, prompt=in_python, num_beams=1, max_new_tokens=20)
            same(c.generate(content, prompt=in_c, num_beams=1, max_new_tokens=20), expected)
    with pytest.raises(edgept.UsageError, match="beam search"):
        c.generate(QUESTION, num_beams=4)
    decoding = c.manifest.decoding
    assert decoding is not None
    c.manifest = dataclasses.replace(
        c.manifest, decoding=dataclasses.replace(decoding, num_beams=4)
    )
    with pytest.raises(edgept.UsageError, match="beam search"):  # which is the model's own choice
        c.generate(QUESTION)
    assert c.generate(QUESTION, temperature=1.0, max_new_tokens=4).token_ids  # as in Python


def test_what_the_library_lacks_is_refused(bundle_of: Callable[..., Path]) -> None:
    python, c = both(bundle_of("llama"))
    prompt = prompts(c.manifest)[0]
    resident, in_python = c.load_prompt(prompt), python.load_prompt(prompt)
    untyped: Any = c
    lacking: list[Callable[[], object]] = [
        lambda: c.generate(QUESTION, stop="x\0"),
        lambda: c.generate(QUESTION, num_beams=2),
        lambda: c.generate(QUESTION, length_penalty=2.0),
        lambda: c.generate([resident, QUESTION]),  # type: ignore[list-item]
        lambda: c.generate([QUESTION, "twice"]),
        lambda: c.generate("a\0b"),
        lambda: c.stream(IDS),  # type: ignore[arg-type]
        lambda: untyped.generate_batch([(QUESTION, None)]),
        lambda: untyped.logits(QUESTION),
    ]
    for call in lacking:
        with pytest.raises(edgept.UsageError, match=r"the C library lacks .* engine='python'"):
            call()
    for name in dir(edgept.Model):
        if name.startswith("_") or name in dir(CModel):
            continue
        with pytest.raises(edgept.UsageError, match=rf"lacks model\.{name}\b.*engine='python'"):
            getattr(c, name)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        untyped.lod()
    with pytest.raises(edgept.UsageError, match="lacks truncate"):
        edgept.load(bundle_of("bert", "fp32", "feature-extraction"), engine="c").embed(
            QUESTION, truncate=True
        )
    for wrong in (in_python, prompt, "prompt 0"):
        with pytest.raises(edgept.UsageError, match="Load it first"):
            untyped.generate(QUESTION, prompt=wrong)
    with pytest.raises(edgept.UsageError, match="another model"):
        edgept.load(c.bundle, engine="c").generate(QUESTION, prompt=resident)


def test_arguments_that_cannot_be_used(bundle_of: Callable[..., Path]) -> None:
    """Refused in both, as the same kind of error."""
    models: tuple[Any, ...] = both(bundle_of("llama"))
    bad: list[Callable[[Any], object]] = [
        lambda model: model.generate(QUESTION, temperature=-1.0),
        lambda model: model.generate(QUESTION, top_p=2.0),
        lambda model: model.generate(QUESTION, max_new_tokens=0),
        lambda model: model.generate([]),
        lambda model: model.generate([5, 512]),
        lambda model: model.generate([5, -1]),
        lambda model: model.generate([5] * 257),
        lambda model: model.generate(np.zeros((2, 3), np.int64)),
        lambda model: model.generate(b"bytes"),
        lambda model: model.generate(5),
        lambda model: model.generate("\ud800"),
        lambda model: model.classify(QUESTION),
        lambda model: model.embed(QUESTION),
        lambda model: model.outputs(QUESTION),
        lambda model: edgept.load(model.bundle / "nowhere", engine=engine_of(model)),
    ]
    bad += [
        lambda model, options=options: edgept.load(  # type: ignore[misc]
            model.bundle, engine=engine_of(model), **options
        )
        for options in ({"threads": 0}, {"threads": 10**9}, {"max_length": 0}, {"max_length": 257})
    ]
    for call in bad:
        for model in models:
            with pytest.raises(edgept.UsageError):
                call(model)
    with pytest.raises(edgept.UsageError, match="engine is 'rust', expected 'python' or 'c'"):
        edgept.load(models[0].bundle, engine="rust")  # type: ignore[call-overload]
    with pytest.raises(edgept.UsageError, match="stop_ids are token ids"):
        models[1].generate(QUESTION, stop_ids="x")


def engine_of(model: Any) -> Any:
    return "c" if isinstance(model, CModel) else "python"


def test_bundles_that_are_refused(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    bundle = shutil.copytree(bundle_of("llama"), tmp_path / "bundle")
    weights = bundle / "model.onnx.data"
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(data)
    with pytest.raises(edgept.UntrustedError):
        edgept.load(bundle, engine="c")
    assert edgept.load(bundle, engine="c", check_hashes=False).generate(IDS).token_ids
    (bundle / "tokenizer.bin").unlink()
    manifest = read_manifest(bundle)
    files = {name: entry for name, entry in manifest.files.items() if name != "tokenizer.bin"}
    (bundle / MANIFEST_NAME).write_text(dataclasses.replace(manifest, files=files).to_json())
    without_table = edgept.load(bundle, engine="c", check_hashes=False)
    for call in (without_table.generate, without_table.stream):
        with pytest.raises(edgept.UsageError, match=r"no tokenizer\.bin"):
            call(QUESTION)
    made = without_table.generate(IDS, max_new_tokens=4)
    assert (len(made.token_ids), made.text) == (4, "")


def test_where_the_library_is(
    bundle_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_of("llama")
    (tmp_path / "libedgept.so").write_bytes(b"no library")
    for path in (tmp_path / "libedgept.so", tmp_path / "missing.so", "libm.so.6"):
        monkeypatch.setenv("EDGEPT_LIBRARY", str(path))
        with pytest.raises(edgept.MissingDependencyError, match="does not load as libedgept"):
            edgept.load(bundle, engine="c")
    monkeypatch.delenv("EDGEPT_LIBRARY")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    assert edgept.load(bundle, engine="c").generate(IDS).token_ids  # this checkout's
    monkeypatch.setattr(c_library, "_BUILT", tmp_path / "missing.so")
    with pytest.raises(edgept.MissingDependencyError, match=r"\$EDGEPT_LIBRARY, or use engine"):
        edgept.load(bundle, engine="c")
    monkeypatch.setattr(c_library, "__version__", "0.2.0")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: f"{BUILD}/./libedgept.so")
    with pytest.raises(
        edgept.MissingDependencyError, match=r"libedgept 0\.1\.0, this is edgept 0\.2\.0"
    ):
        edgept.load(bundle, engine="c")


def test_memory_is_given_back(
    bundle_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions and prompts first, then their bundle; a prompt keeps its model."""
    freed: list[str] = []

    def free(function: Any, pointer: Any, needs: object) -> None:
        freed.append(function.__name__)
        function(pointer)

    monkeypatch.setattr(c_library, "_free", free)
    model = edgept.load(bundle_of("llama"), engine="c")
    prompt = model.load_prompt(prompts(model.manifest)[0])
    tokens = model.generate(IDS, prompt=prompt).token_ids
    model.load_prompt(prompts(model.manifest)[1])
    assert freed == ["edgept_prompt_free"]
    del model
    assert prompt.model.generate(IDS, prompt=prompt).token_ids == tokens
    assert len(freed) == 1
    del prompt
    assert sorted(freed[1:3]) == ["edgept_prompt_free", "edgept_session_free"]
    assert freed[3:] == ["edgept_bundle_free"]
