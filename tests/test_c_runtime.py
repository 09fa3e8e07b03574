"""The C library against the Python runtime, on one machine: the same bits, the same tokens."""

import dataclasses
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgept
from edgept.bundle import HASHES_NAME
from edgept.manifest import Manifest
from edgept.prompt import Prompt
from edgept.prompt_file import write_prompt
from edgept.runtime.c_header import ON_TOKEN
from edgept.runtime.content import compose
from tests.c_library import SOURCE, CModel, CStatusError

IDS = [5, 9, 77, 130, 200, 31, 4]
LONG = [
    (7 * place) % 500 + 3 for place in range(140)
]  # runs in more than one piece where that is done
# One whose keys and values are extended in place, one whose are not, one whose weights are quantised.
BUNDLES = [("llama", "fp32"), ("gpt2", "fp32"), ("llama", "int4")]


def random_prompt(manifest: Manifest, seed: int, *, prefix: bool = False) -> Prompt:
    chosen = np.random.default_rng(seed)
    if prefix:
        assert manifest.kv is not None
        kv = manifest.kv
        shape: tuple[int, ...] = (kv.num_layers, 2, kv.num_kv_heads, 4 + seed, kv.head_dim)
    else:
        shape = (4 + seed, manifest.hidden_size)
    values = chosen.standard_normal(shape).astype(np.float32) * 0.3
    return Prompt(
        {"prompt_kv" if prefix else "prompt_embeds": values},
        name=f"prompt {seed}",
        fingerprint=manifest.fingerprint,
        task=manifest.task,
    )


def set_metadata(graph: Path, changes: dict[str, str]) -> None:
    """Change what a graph says of itself."""
    onnx = pytest.importorskip("onnx", reason="needs edgept[export]")
    model = onnx.load(graph, load_external_data=False)
    for entry in model.metadata_props:
        entry.value = changes.get(entry.key, entry.value)
    onnx.save(model, graph)


@dataclasses.dataclass
class Pair:
    """One bundle in both, with prompts: None, rows, other rows, keys and values."""

    python: edgept.Model
    c: CModel
    prompts: list[tuple[Any, Any]]


@pytest.fixture(scope="module")
def pair_of(
    bundle_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Pair]]:
    opened: list[Pair] = []

    @cache
    def pair(kind: str, precision: str) -> Pair:
        bundle = bundle_of(kind, precision)
        model = edgept.load(bundle, threads=1)
        in_c = CModel(bundle)
        prompts: list[tuple[Any, Any]] = [(None, None)]
        for seed, prefix in ((0, False), (1, False), (2, True)):
            path = tmp_path_factory.mktemp("prompts") / "p.safetensors"
            write_prompt(random_prompt(model.manifest, seed, prefix=prefix), path)
            prompts.append((model.load_prompt(path), in_c.load_prompt(path)))
        opened.append(Pair(model, in_c, prompts))
        return opened[-1]

    yield pair
    for item in opened:
        item.c.close()


def python_logits(
    model: edgept.Model, ids: list[int], prompt: Any, tokens: list[int]
) -> list[npt.NDArray[np.float32]]:
    """Logits after a text and after each of some tokens, as generation computes them."""
    decoder: Any = model._runner.decoder  # type: ignore[union-attr]
    request = compose(
        ids, prompt, tokenizer=None, vocab_size=model.manifest.vocab_size, model=model
    )
    cache = decoder.open(request, request.length + len(tokens))
    found = [decoder.prefill(cache, request)[0, -1].copy()]
    found += [decoder.step(cache, [token])[0, -1].copy() for token in tokens]
    decoder.close(cache)
    return found


@pytest.mark.parametrize(("kind", "precision"), BUNDLES)
@pytest.mark.parametrize("ids", [IDS, LONG], ids=["short", "long"])
def test_logits_are_bit_identical(
    kind: str, precision: str, ids: list[int], pair_of: Callable[..., Pair]
) -> None:
    pair = pair_of(kind, precision)
    for in_python, in_c in [*pair.prompts, pair.prompts[1], pair.prompts[1]]:
        tokens = [3, 250, 11, 400] * 12
        expected = python_logits(pair.python, ids, in_python, tokens)
        found = [pair.c.prefill(ids, in_c), *(pair.c.step(token) for token in tokens)]
        for place, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            np.testing.assert_array_equal(ours, theirs, f"{in_python and in_python.name}: {place}")


@pytest.mark.parametrize(("kind", "precision"), BUNDLES)
def test_greedy_tokens_are_the_same(
    kind: str, precision: str, pair_of: Callable[..., Pair]
) -> None:
    pair = pair_of(kind, precision)
    assert len({tuple(pair.c.generate(IDS, in_c)[0]) for _, in_c in pair.prompts}) == 4
    for ids in (IDS, LONG):
        for in_python, in_c in pair.prompts:
            cases: list[dict[str, Any]] = [{}, {"repetition_penalty": 1.3}]
            for options in cases:
                expected = pair.python.generate(
                    ids, prompt=in_python, max_new_tokens=300, **options
                )
                tokens, finish, latency = pair.c.generate(ids, in_c, max_new_tokens=300, **options)
                assert tokens == expected.token_ids
                assert finish == expected.finish_reason
                assert latency.new_tokens == len(tokens)
                assert latency.virtual_tokens == expected.latency.virtual_tokens
                assert latency.input_tokens == expected.latency.input_tokens
                assert 0 < latency.ttft_ms <= latency.total_ms


def test_float16(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """A GPU's bundle, on the CPU: prompts are narrowed as numpy narrows them."""
    from edgept.export import export_model

    bundle = tmp_path / "bundle"
    export_model(str(model_folder("llama")), bundle, precision="fp16", target="cuda", verify=False)
    model = edgept.load(bundle, providers=["CPUExecutionProvider"], threads=1)
    in_c = CModel(bundle)
    for seed, prefix in ((0, False), (1, True)):
        path = tmp_path / f"{seed}.safetensors"
        prompt = random_prompt(model.manifest, seed, prefix=prefix)
        (values,) = prompt.tensors.values()
        values.flat[:6] = [65519, -1e-8, 6e-8, 2049, 4.0e-5, 0.0]  # ties, subnormals, the largest
        write_prompt(prompt, path)
        expected = python_logits(model, IDS, model.load_prompt(path), [3, 250])
        resident = in_c.load_prompt(path)
        found = [in_c.prefill(IDS, resident), in_c.step(3), in_c.step(250)]
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        values.flat[0] = 65520  # infinite in float16
        write_prompt(prompt, path, overwrite=True)
        with pytest.raises(CStatusError, match="not finite in float16"):
            in_c.load_prompt(path)
    in_c.close()


def test_prompt_without_a_text(pair_of: Callable[..., Pair]) -> None:
    pair = pair_of("llama", "fp32")
    in_python, in_c = pair.prompts[1]
    expected = pair.python.generate([], prompt=in_python, max_new_tokens=8)
    assert pair.c.generate([], in_c, max_new_tokens=8)[0] == expected.token_ids
    with pytest.raises(CStatusError, match="Give a text"):
        pair.c.generate([], pair.prompts[3][1])
    with pytest.raises(CStatusError, match="empty"):
        pair.c.generate([])


def test_what_ends_a_generation(pair_of: Callable[..., Pair]) -> None:
    pair = pair_of("gpt2", "fp32")
    tokens, finish, _ = pair.c.generate(IDS, max_new_tokens=6)
    assert (len(tokens), finish) == (6, "length")
    stop = tokens[3]
    first = tokens.index(stop)
    assert pair.c.generate(IDS, stop_ids=[500, stop])[:2] == (tokens[: first + 1], "stop")
    seen: list[int] = []

    def until_four(token: int) -> int:
        seen.append(token)
        return int(len(seen) == 4)

    assert pair.c.generate(IDS, on_token=until_four)[:2] == (tokens[:4], "stop")
    assert seen == tokens[:4]

    def cancel(token: int) -> int:
        pair.c.library.edgept_session_cancel(pair.c.session)
        return 0

    assert pair.c.generate(IDS, on_token=cancel)[:2] == (tokens[:1], "cancelled")
    pair.c.library.edgept_session_cancel(pair.c.session)
    assert pair.c.generate(IDS)[:2] == ([], "cancelled")  # before its first token
    assert pair.c.generate(IDS, max_new_tokens=6)[0] == tokens


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_prefill_that_is_cancelled(kind: str, pair_of: Callable[..., Pair]) -> None:
    """It fails, gives no logits, and leaves nothing for a step; the next one is as any other."""
    import ctypes

    pair = pair_of(kind, "fp32")
    model, prompt = pair.c, pair.prompts[1][1]
    expected = model.prefill(IDS, prompt)
    logits = ctypes.POINTER(ctypes.c_float)()
    model.library.edgept_session_cancel(model.session)
    with pytest.raises(CStatusError, match="prefill was cancelled") as caught:
        model.call("session_prefill", *model._text(prompt, IDS), ctypes.c_size_t(len(IDS)), logits)
    assert caught.value.status == 1
    assert not logits
    with pytest.raises(CStatusError, match="prefill first"):
        model.step(3)
    np.testing.assert_array_equal(model.prefill(IDS, prompt), expected)


def test_on_text_that_ends_is_not_called_again(pair_of: Callable[..., Pair]) -> None:
    import ctypes

    from edgept.runtime.c_header import ON_TEXT, CGenerateOptions, CGeneration

    model = pair_of("llama", "fp32").c
    pieces: list[bytes] = []

    def end(_: int | None, piece: bytes) -> int:
        pieces.append(piece)
        return 1

    options = CGenerateOptions(on_text=ON_TEXT(end), max_new_tokens=40)
    made = CGeneration()
    chosen = ctypes.byref(options)
    model.call("session_ask", model.session, None, b"where is it", chosen, made)
    assert len(pieces) == 1
    assert made.count < 40
    assert (made.text or b"").startswith(pieces[0])


def test_no_piece_is_lost_where_a_token_ends_it(pair_of: Callable[..., Pair]) -> None:
    """The token at which on_token ends it is in the text, and was shown; what was held back, too."""
    import ctypes

    from edgept.runtime.c_header import ON_TEXT, CGenerateOptions, CGeneration

    model = pair_of("llama", "fp32").c
    for count in range(1, 12):
        tokens: list[int] = []
        pieces: list[bytes] = []

        def on_token(_: int | None, token: int, count: int = count, tokens: Any = tokens) -> int:
            tokens.append(token)
            return int(len(tokens) == count)

        def on_text(_: int | None, piece: bytes, pieces: Any = pieces) -> int:
            pieces.append(piece)
            return 0

        options = CGenerateOptions(on_token=ON_TOKEN(on_token), on_text=ON_TEXT(on_text))
        made, text = CGeneration(), ctypes.c_char_p()
        chosen = ctypes.byref(options)
        model.call("session_ask", model.session, None, b"where is it", chosen, made)
        assert made.ids[: made.count] == tokens
        assert len(tokens) == count
        said = made.text or b""
        assert b"".join(pieces).startswith(said)  # which ends at a zero character
        ids = (ctypes.c_int64 * count)(*tokens)
        model.call("session_decode", model.session, ids, ctypes.c_size_t(count), text)
        assert text.value == said


def test_sampling_draws_from_the_same_distribution(pair_of: Callable[..., Pair]) -> None:
    """Frequencies of first tokens against the Python sampler's probabilities, within four deviations."""
    from edgept.runtime.sampling import Sampler, Sampling

    pair = pair_of("llama", "fp32")
    draws = 1500
    cases: list[dict[str, Any]] = [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 5},
        {"temperature": 1.5, "top_p": 0.6},
        {"temperature": 1.2, "top_k": 40, "top_p": 0.5},
    ]
    for options in cases:
        logits = python_logits(pair.python, IDS, None, [])[0]
        ids, probabilities = Sampler(Sampling(**options))._candidates(logits)
        tokens = [
            pair.c.generate(IDS, max_new_tokens=1, seed=seed, **options)[0][0]
            for seed in range(draws)
        ]
        assert set(tokens) <= set(ids.tolist())
        found = np.array([tokens.count(token) for token in ids]) / draws
        deviation = np.sqrt(probabilities * (1 - probabilities) / draws)
        assert (np.abs(found - probabilities) < 4.5 * deviation + 2 / draws).all()
    again = [pair.c.generate(IDS, temperature=1.0, seed=7, max_new_tokens=20)[0] for _ in range(2)]
    assert again[0] == again[1]


def test_threads_share_a_bundle_and_its_prompts(pair_of: Callable[..., Pair]) -> None:
    pair = pair_of("llama", "fp32")
    library, first = pair.c.library, pair.c
    expected = [first.generate(IDS, in_c, max_new_tokens=12)[0] for _, in_c in pair.prompts]
    wrong: list[Any] = []

    def work(begin: int) -> None:
        model = CModel.__new__(CModel)
        model.library, model.bundle, model.vocab_size = library, first.bundle, first.vocab_size
        import ctypes

        model.session = ctypes.c_void_p()
        model.call("session_create", model.bundle, model.session)
        for turn in range(30):
            which = (begin + turn) % len(pair.prompts)
            found = model.generate(IDS, pair.prompts[which][1], max_new_tokens=12)[0]
            if found != expected[which]:
                wrong.append((which, found))
        library.edgept_session_free(model.session)

    threads = [threading.Thread(target=work, args=(begin,)) for begin in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_prompts_that_do_not_fit(
    pair_of: Callable[..., Pair], bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    pair = pair_of("llama", "fp32")
    manifest = pair.python.manifest
    good = random_prompt(manifest, 0)
    rows = good.tensors["prompt_embeds"]
    wrong = {
        "another model": dataclasses.replace(good, fingerprint="0" * 64),
        "for the task": dataclasses.replace(good, task="text-classification"),
        "of this shape": dataclasses.replace(good, tensors={"prompt_embeds": rows[:, 1:]}),
        "takes no head.weight": dataclasses.replace(
            good, tensors={**good.tensors, "head.weight": np.zeros((2, 64), np.float32)}
        ),
        "virtual tokens": dataclasses.replace(
            good, tensors={"prompt_embeds": np.zeros((255, 64), np.float32)}
        ),
    }
    for number, (found, prompt) in enumerate(wrong.items()):
        path = tmp_path / f"{number}.safetensors"
        write_prompt(prompt, path)
        if found != "virtual tokens":
            with pytest.raises(edgept.IncompatibleError):
                pair.python.load_prompt(path)
        else:
            path = tmp_path / "long.safetensors"
            tensors = {"prompt_embeds": np.zeros((manifest.max_virtual_tokens + 1, 64), np.float32)}
            write_prompt(dataclasses.replace(good, tensors=tensors), path)
        with pytest.raises(CStatusError, match=found) as caught:
            pair.c.load_prompt(path)
        assert caught.value.status == 4
    other = CModel(bundle_of("gpt2", "fp32"))
    with pytest.raises(CStatusError, match="another bundle") as caught:
        other.generate(IDS, pair.prompts[1][1])
    assert caught.value.status == 2
    other.close()


def test_arguments_that_cannot_be_used(
    pair_of: Callable[..., Pair], bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    model = pair_of("llama", "fp32").c
    calls: dict[str, Callable[[], object]] = {
        "not in the vocabulary": lambda: model.generate([5, model.vocab_size]),
        "positions": lambda: model.generate([5] * 257),
        "temperature": lambda: model.generate(IDS, temperature=-1.0),
        "top_p": lambda: model.generate(IDS, top_p=float("nan")),
        "repetition_penalty": lambda: model.generate(IDS, repetition_penalty=-2.0),
        "repetition_penalty is": lambda: model.generate(IDS, repetition_penalty=1e-60),
        "temperature is": lambda: model.generate(IDS, temperature=float("nan")),
        "temperature is 0": lambda: model.generate(IDS, temperature=1e60),
        "writes": lambda: model.outputs(IDS),
        "edgept_session_classify": lambda: model.classify(IDS),
        "edgept_session_embed": lambda: model.embed(IDS),
        "no bundle": lambda: CModel(tmp_path),
        "threads": lambda: CModel(bundle_of("llama"), threads=-1),
        "max_length": lambda: CModel(bundle_of("llama"), max_length=257),
    }
    for found, call in calls.items():
        with pytest.raises(CStatusError, match=found) as caught:
            call()
        assert caught.value.status == 2
    fresh = CModel(bundle_of("llama"))
    with pytest.raises(CStatusError, match="prefill first"):
        fresh.step(5)
    fresh.close()


def test_limits(bundle_of: Callable[..., Path]) -> None:
    """A shorter sequence than the model's, and a session that may not grow past its memory."""
    short = CModel(bundle_of("llama"), max_length=20)
    assert short.generate(IDS)[1] == "full"
    assert len(short.generate(IDS)[0]) == 20 - len(IDS) + 1
    short.prefill(LONG[:20])
    with pytest.raises(CStatusError, match="longest sequence"):
        short.step(5)
    short.close()
    small = CModel(bundle_of("llama"), session_bytes=200_000)
    assert small.generate(IDS, max_new_tokens=4)[1] == "length"
    with pytest.raises(CStatusError, match="200000 bytes") as caught:
        small.generate(IDS, max_new_tokens=200)
    assert caught.value.status == 6
    assert small.generate(IDS, max_new_tokens=4)[1] == "length"  # it goes on
    small.close()


def test_facts_that_do_not_fit_the_graph(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle_of("llama"), folder)
    set_metadata(folder / "model.onnx", {"edgept.kv.num_layers": "2000000000"})
    with pytest.raises(CStatusError) as caught:
        CModel(folder)
    assert caught.value.reason == "manifest-malformed"


def test_hashes(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle_of("llama"), folder)
    subprocess.run(["sha256sum", "--check", "--quiet", HASHES_NAME], cwd=folder, check=True)
    listed = {line.split()[1] for line in (folder / HASHES_NAME).read_text().splitlines()}
    assert listed == {path.name for path in folder.iterdir()} - {HASHES_NAME}
    CModel(folder, check_hashes=1).close()
    whole = subprocess.run(["sha256sum", HASHES_NAME], cwd=folder, capture_output=True, check=True)
    digest = whole.stdout.split()[0]
    CModel(folder, sha256=digest).close()
    for wrong in (b"", b"F" * 64, digest + b"0"):
        with pytest.raises(CStatusError, match="the option sha256") as caught:
            CModel(folder, sha256=wrong)
        assert caught.value.status == 2
    with pytest.raises(CStatusError, match="not the bundle that was released"):
        CModel(folder, sha256=b"0" * 64)
    weights = folder / "model.onnx.data"
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(data)
    CModel(folder).close()  # nobody asked
    hashes = folder / HASHES_NAME
    without = [line for line in hashes.read_text().splitlines(keepends=True) if ".data" not in line]

    def replace_by_link() -> None:
        weights.unlink()
        weights.symlink_to(bundle_of("llama") / weights.name)

    changes: list[Callable[[], object]] = [
        lambda: None,
        replace_by_link,
        weights.unlink,
        lambda: hashes.write_text("".join(without)),
        hashes.unlink,
    ]
    for change in changes:
        change()
        with pytest.raises(CStatusError) as caught:
            CModel(folder, check_hashes=1)
        assert caught.value.status == 5
    for text in ("0" * 64 + "  ../x\n", "not a hash\n", "0" * 70000):
        needed = "".join(f"{'0' * 64}  {name}\n" for name in listed)
        (folder / HASHES_NAME).write_text(text + needed)
        with pytest.raises(CStatusError) as caught:
            CModel(folder, check_hashes=1)
        assert caught.value.reason == "hashes-malformed"


def test_options_struct_is_the_header_s(tmp_path: Path) -> None:
    """What ctypes believes of sizes is what the compiler says."""
    import ctypes

    from edgept.runtime import c_header

    names = {
        "edgept_error": c_header.CError,
        "edgept_provider": c_header.CProvider,
        "edgept_latency": c_header.CLatency,
        "edgept_text": c_header.CText,
        "edgept_bundle_options": c_header.CBundleOptions,
        "edgept_generate_options": c_header.CGenerateOptions,
        "edgept_generation": c_header.CGeneration,
        "edgept_outputs": c_header.COutputs,
        "edgept_classification": c_header.CClassification,
        "edgept_image": c_header.CImage,
        "edgept_sight": c_header.CSight,
        "edgept_segmentation": c_header.CSegmentation,
        "edgept_detection": c_header.CDetection,
        "edgept_detections": c_header.CDetections,
    }
    lines = "".join(
        f'_Static_assert(sizeof(struct {name}) == {ctypes.sizeof(kind)}, "");\n'
        for name, kind in names.items()
    )
    (tmp_path / "sizes.c").write_text(f'#include "edgept.h"\n{lines}')
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    subprocess.run(["cc", "-fsyntax-only", f"-I{SOURCE}", str(tmp_path / "sizes.c")], check=True)
