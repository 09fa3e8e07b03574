"""The public class on two real bundles: one whose cache grows, one whose cache is extended in place."""

import dataclasses
import inspect
import itertools
import math
import shutil
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgept
from edgept.bundle import MANIFEST_NAME, hash_file, read_manifest
from edgept.errors import EdgeptError, IncompatibleError, UsageError
from edgept.manifest import BundleFile
from edgept.prompt_source import bind
from edgept.runtime.generation import Generation
from tests.conftest import shared, tiny_model, tiny_tokenizer
from tests.peft_adapters import base_model, load_adapter, make_adapter, peft_logits, token_ids

KINDS = ["stories260K", "llama"]
TEXT = "Once upon a time, there was a little"
COUNT = 40


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, bundle_of: Callable[..., Path]) -> edgept.Model:
    return edgept.load(bundle_of(request.param), threads=1)


def prompt_of(model: edgept.Model, seed: int, count: int = 6) -> edgept.Prompt:
    """Rows large enough to decide what follows."""
    rows = np.random.default_rng(seed).normal(size=(count, model.manifest.hidden_size), scale=3)
    return edgept.Prompt({"prompt_embeds": rows.astype(np.float32)}, name=f"rows-{seed}")


def prefix_of(model: edgept.Model, seed: int, count: int = 4) -> edgept.Prompt:
    kv = model.manifest.kv
    assert kv is not None
    shape = (kv.num_layers, 2, kv.num_kv_heads, count, kv.head_dim)
    cache = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return edgept.Prompt({"prompt_kv": cache}, name=f"prefix-{seed}", method="prefix_tuning")


@pytest.fixture(scope="module")
def prompts(model: edgept.Model) -> list[edgept.LoadedPrompt]:
    """Three of rows and one of keys and values, resident."""
    sources = [prompt_of(model, 1), prompt_of(model, 2, 9), prompt_of(model, 3, 1)]
    return [model.load_prompt(source) for source in [*sources, prefix_of(model, 4)]]


def with_eos(model: edgept.Model, monkeypatch: pytest.MonkeyPatch, *tokens: int) -> None:
    manifest = dataclasses.replace(model.manifest, eos_token_ids=list(tokens))
    monkeypatch.setattr(model, "manifest", manifest)


# A prompt and its request


def test_a_prompt_changes_what_comes_out(
    model: edgept.Model, prompts: list[edgept.LoadedPrompt]
) -> None:
    kinds = [None, *prompts]
    logits = [model.logits(TEXT, prompt=prompt) for prompt in kinds]
    for one, other in itertools.combinations(logits, 2):
        assert np.abs(one - other).max() > 0.05 * np.abs(one).max()
    outputs = [model.generate(TEXT, prompt=prompt, max_new_tokens=COUNT) for prompt in kinds]
    assert len({tuple(output.token_ids) for output in outputs}) >= 4
    assert [output.prompt for output in outputs] == [None, "rows-1", "rows-2", "rows-3", "prefix-4"]


def test_a_to_b_to_a_is_bit_identical(
    model: edgept.Model, prompts: list[edgept.LoadedPrompt]
) -> None:
    first, second, _, prefix = prompts
    before = [
        (model.logits(TEXT, prompt=prompt), model.generate(TEXT, prompt=prompt).token_ids)
        for prompt in (first, None, prefix)
    ]
    model.generate(TEXT, prompt=second, max_new_tokens=5)
    model.generate([[5], second, [6, 7]], prompt=prefix, max_new_tokens=5)
    for (logits, tokens), prompt in zip(before, (first, None, prefix), strict=True):
        np.testing.assert_array_equal(model.logits(TEXT, prompt=prompt), logits)
        assert model.generate(TEXT, prompt=prompt).token_ids == tokens
        model.generate(TEXT, prompt=second, max_new_tokens=5)


def test_a_prompt_that_the_graph_ignores_is_refused(
    model: edgept.Model, prompts: list[edgept.LoadedPrompt], tmp_path: Path
) -> None:
    def refuses(bundle: Path, prompt: edgept.Prompt) -> None:
        ignoring = edgept.load(bundle, threads=1, check_hashes=False)
        assert ignoring.load_prompt(silent).num_virtual_tokens == 1  # shows nothing, proves nothing
        with pytest.raises(IncompatibleError, match="changes nothing"):
            ignoring.load_prompt(prompt)

    silent = edgept.Prompt({"prompt_embeds": np.zeros((1, model.manifest.hidden_size), np.float32)})
    bundle = shutil.copytree(model.bundle, tmp_path / "bundle")
    path = bundle / "model.onnx"
    graph = onnx.load(path, load_external_data=False)
    readers = [node for node in graph.graph.node if "prompt_embeds" in node.input]
    assert readers
    for node in readers:  # as a graph would be that was optimised with the default prompt folded in
        node.input[list(node.input).index("prompt_embeds")] = "folded"
    default = next(item for item in graph.graph.initializer if item.name == "prompt_embeds")
    graph.graph.initializer.add().CopyFrom(default)
    graph.graph.initializer[-1].name = "folded"
    # one row, so that a prompt of one virtual token runs
    onnx.save(graph, path)
    refuses(bundle, prompt_of(model, 3, 1))
    untouched = edgept.load(model.bundle, threads=1)
    for prompt in (prompts[0], prompts[-1]):  # of rows, and of keys and values
        assert untouched.load_prompt(prompt.prompt).num_virtual_tokens


def test_a_long_request_in_chunks_is_one_request(
    bundle_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = edgept.load(bundle_of("llama"), threads=1)
    prompt, inner = (
        model.load_prompt(prompt_of(model, 1)),
        model.load_prompt(prompt_of(model, 2, 9)),
    )
    vocabulary = model.manifest.vocab_size
    ids = np.random.default_rng(0).integers(vocabulary, size=61).tolist()
    request = [ids[:20], inner, ids[20:]]
    sizes: list[int] = []
    monkeypatch.setattr(model._graph, "run", spy(model._graph.run, sizes))
    found = []
    for chunk in (1000, 16, 7):
        monkeypatch.setattr("edgept.runtime.decoder._CHUNK", chunk)
        sizes.clear()
        logits = model.logits(request, prompt=prompt)
        assert sum(sizes) == len(logits) == 70
        assert sizes == [70] or all(chunk <= size < 2 * chunk for size in sizes)
        assert (len(sizes) == 1) == (chunk == 1000)
        found.append((logits, model.generate(request, prompt=prompt, max_new_tokens=9).token_ids))
    for logits, tokens in found[1:]:
        np.testing.assert_allclose(logits, found[0][0], rtol=0, atol=1e-5)
        assert tokens == found[0][1]


def test_keys_that_depend_on_the_length_are_not_made_in_chunks(
    bundle_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LongRoPE: a graph chooses its rotation by the length of what it is given."""
    model = edgept.load(bundle_of("llama"), threads=1)
    decoder, sizes = model._generator("logits").decoder, list[int]()
    assert decoder._kv.shared_buffer
    monkeypatch.setattr(decoder, "_kv", dataclasses.replace(decoder._kv, depends_on_length=True))
    monkeypatch.setattr("edgept.runtime.decoder._CHUNK", 8)
    monkeypatch.setattr(model._graph, "run", spy(model._graph.run, sizes))
    model.logits(list(range(3, 43)))
    assert sizes == [40]


def test_a_resident_prompt_is_kept_once(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    model = edgept.load(bundle_of("llama"), threads=1)
    path = tmp_path / "p.safetensors"
    edgept.write_prompt(bind(prompt_of(model, 1), model.manifest), path)
    for source in (path, prompt_of(model, 1), prefix_of(model, 4)):
        resident = model.load_prompt(source)
        held = (resident.rows, resident.kv)
        for tensor in resident.prompt.tensors.values():
            assert any(np.shares_memory(tensor, array) for array in held if array is not None)
        assert resident.num_virtual_tokens == resident.prompt.num_virtual_tokens > 0


def spy(run: Callable[..., None], sizes: list[int]) -> Callable[..., None]:
    """A graph's `run` that writes down how many tokens each row has."""

    def counted(feeds: Any, fetches: Any) -> None:
        sizes.append(feeds["input_ids"].shape()[1])
        run(feeds, fetches)

    return counted


def test_loading_a_prompt_again_gives_the_same(
    model: edgept.Model, prompts: list[edgept.LoadedPrompt]
) -> None:
    again = model.load_prompt(prompt_of(model, 1))
    np.testing.assert_array_equal(again.kv, prompts[0].kv)
    np.testing.assert_array_equal(
        model.logits(TEXT, prompt=again), model.logits(TEXT, prompt=prompts[0])
    )


def test_copied_keys_and_values_are_those_of_running_the_rows(
    model: edgept.Model, prompts: list[edgept.LoadedPrompt]
) -> None:
    """In front, a prompt is copied; behind a token of text it is run. Both must be one computation."""
    prompt = prompts[0]
    run = model.logits([[1], prompt, [5, 6, 7]])
    assert run.shape == (1 + 6 + 3, model.manifest.vocab_size)
    alone = model.logits([prompt])  # run
    assert alone.shape == (6, model.manifest.vocab_size)
    copied = model.logits([9], prompt=prompt)
    behind = model.logits([prompt, [9]])
    np.testing.assert_array_equal(copied, behind)
    table_only = model.logits([[9]], prompt=model.load_prompt(prompt.prompt))
    np.testing.assert_array_equal(copied, table_only)


def test_two_prompts_in_one_text(model: edgept.Model, prompts: list[edgept.LoadedPrompt]) -> None:
    first, second, third, prefix = prompts
    content: list[Any] = [first, "Once upon", second, " a time"]
    found = model.generate(content, max_new_tokens=COUNT)
    assert found.prompt == "rows-1"
    assert found.latency.virtual_tokens == 6 + 9
    assert (
        found.token_ids == model.generate(content[1:], prompt=first, max_new_tokens=COUNT).token_ids
    )
    others = [
        model.generate([first, "Once upon", third, " a time"], max_new_tokens=COUNT),
        model.generate(["Once upon", second, " a time"], max_new_tokens=COUNT),
        model.generate([prefix, "Once upon", second, " a time"], max_new_tokens=COUNT),
    ]
    assert all(other.token_ids != found.token_ids for other in others)


def test_prompts_alone_generate(model: edgept.Model, prompts: list[edgept.LoadedPrompt]) -> None:
    result = model.generate([prompts[0]], max_new_tokens=5)
    assert len(result.token_ids) == 5
    assert (result.latency.virtual_tokens, result.latency.input_tokens) == (6, 0)
    with pytest.raises(UsageError, match="very start"):
        model.generate([prompts[3]])


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "holds no tensor"),
        ({"prompt_embeds": (0, 64)}, "no virtual token"),
        ({"prompt_embeds": (2, 63)}, "another size"),
        ({"prompt_embeds": (1, 2, 64)}, "another size"),
        ({"prompt_embeds": (2048, 64)}, "allows"),
        ({"prompt_kv": (1, 2, 1, 3, 5)}, "another size"),
        ({"prompt_embeds": (2, 64), "head.weight": (3, 64)}, "carries head.weight"),
    ],
)
def test_prompts_that_do_not_fit(
    tensors: dict[str, tuple[int, ...]], words: str, model: edgept.Model
) -> None:
    arrays = {name: np.ones(shape, np.float32) for name, shape in tensors.items()}
    with pytest.raises(IncompatibleError, match=words):
        model.load_prompt(edgept.Prompt(arrays))


def test_rows_and_prefix_in_one_prompt_are_refused(model: edgept.Model) -> None:
    """Either could be meant; using one and dropping the other would be wrong in silence."""
    both = {**prompt_of(model, 1).tensors, **prefix_of(model, 2).tensors}
    with pytest.raises(IncompatibleError, match="either prompt_embeds or prompt_kv"):
        model.load_prompt(edgept.Prompt(both))


def test_prompt_for_another_task_or_model(model: edgept.Model) -> None:
    rows = prompt_of(model, 1)
    with pytest.raises(IncompatibleError, match="text-classification"):
        model.load_prompt(dataclasses.replace(rows, task="text-classification"))
    with pytest.raises(IncompatibleError, match="another model"):
        model.load_prompt(dataclasses.replace(rows, fingerprint="0" * 64))
    own = dataclasses.replace(rows, fingerprint=model.manifest.fingerprint)
    assert model.load_prompt(own, name="other").prompt.fingerprint == own.fingerprint


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_prompt_of_no_numbers(value: float, model: edgept.Model) -> None:
    rows: Any = np.zeros((2, model.manifest.hidden_size))
    rows[1, 3] = value
    with pytest.raises(IncompatibleError, match="not finite"):
        model.load_prompt(edgept.Prompt({"prompt_embeds": rows}))


def test_resident_prompt_is_a_copy(model: edgept.Model) -> None:
    """The caller's arrays stay the caller's: to be changed, without a change here."""
    for source in (prompt_of(model, 1), prefix_of(model, 2)):
        (array,) = source.tensors.values()
        loaded = model.load_prompt(source)
        before = model.logits([5, 6], prompt=loaded)
        array[:] = 0
        np.testing.assert_array_equal(model.logits([5, 6], prompt=loaded), before)
        for kept in (loaded.rows, loaded.kv):
            assert kept is None or not kept.flags.writeable


def test_prompt_stays_with_its_model(
    model: edgept.Model, prompts: list[edgept.LoadedPrompt], bundle_of: Callable[..., Path]
) -> None:
    again = edgept.load(model.bundle, threads=1, check_hashes=False)
    with pytest.raises(UsageError, match="another model"):
        again.generate(TEXT, prompt=prompts[0])
    with pytest.raises(UsageError, match="another model"):
        again.generate([TEXT, prompts[1]])


# How a generation ends


def test_length_is_the_limit(model: edgept.Model, prompts: list[edgept.LoadedPrompt]) -> None:
    whole = model.generate(TEXT, prompt=prompts[0], max_new_tokens=COUNT)
    assert (len(whole.token_ids), whole.finish_reason) == (COUNT, "length")
    for count in (1, 2, 17):
        part = model.generate(TEXT, prompt=prompts[0], max_new_tokens=count)
        assert part.token_ids == whole.token_ids[:count]
        assert whole.text.startswith(part.text.rstrip("\ufffd"))


def test_end_of_text_ends_it(
    model: edgept.Model, prompts: list[edgept.LoadedPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.generate(TEXT, prompt=prompts[0], max_new_tokens=COUNT).token_ids
    token = whole[7]
    first = whole.index(token)
    with_eos(model, monkeypatch, 511, token)
    result = model.generate(TEXT, prompt=prompts[0], max_new_tokens=COUNT)
    assert result.finish_reason == "eos"
    assert result.token_ids == whole[: first + 1]
    assert model.tokenizer is not None
    assert result.text == model.tokenizer.decode(whole[:first])
    # the last token that is allowed is an end of text, too
    last = model.generate(TEXT, prompt=prompts[0], max_new_tokens=first + 1)
    assert last.finish_reason == "eos"


def test_stop_strings(model: edgept.Model, prompts: list[edgept.LoadedPrompt]) -> None:
    whole = model.generate(TEXT, prompt=prompts[0], max_new_tokens=COUNT)
    middle = len(whole.text) // 2
    stop = whole.text[middle : middle + 3]
    assert len(stop) == 3
    for stops in (stop, [stop], ("never to be seen", stop)):
        result = model.generate(TEXT, prompt=prompts[0], max_new_tokens=COUNT, stop=stops)
        assert result.finish_reason == "stop"
        assert result.text == whole.text[: whole.text.index(stop)]
        assert result.token_ids == whole.token_ids[: len(result.token_ids)]
    unseen = model.generate(TEXT, prompt=prompts[0], max_new_tokens=COUNT, stop=["\x00 unseen"])
    assert (unseen.text, unseen.finish_reason) == (whole.text, "length")


@pytest.mark.parametrize("stop", ["", ["a", ""], [5], [None]])
def test_stop_strings_that_are_none(stop: Any, model: edgept.Model) -> None:
    with pytest.raises(UsageError, match="stop string"):
        model.generate(TEXT, stop=stop) if stop else model.generate(TEXT, stop=[stop])


def test_full_sequence_stops_or_is_an_error(
    model: edgept.Model, prompts: list[edgept.LoadedPrompt]
) -> None:
    longest = model.max_length
    for prompt in (None, prompts[0], prompts[3]):
        virtual = prompt.num_virtual_tokens if prompt else 0
        ids = [5] * (longest - virtual - 3)
        result = model.generate(ids, prompt=prompt, max_new_tokens=50)
        # three tokens still fit; the fourth is chosen from them and needs no room itself
        assert (result.finish_reason, len(result.token_ids)) == ("full", 4)
        exact = model.generate(ids, prompt=prompt, max_new_tokens=4, on_full="error")
        assert (exact.finish_reason, exact.token_ids) == ("length", result.token_ids)
        with pytest.raises(EdgeptError, match="after 4 new tokens"):
            model.generate(ids, prompt=prompt, max_new_tokens=50, on_full="error")
    filled = model.generate([5] * longest, max_new_tokens=9)
    assert (filled.finish_reason, len(filled.token_ids)) == ("full", 1)
    with pytest.raises(UsageError, match=f"takes {longest + 1} positions"):
        model.generate([5] * (longest + 1))
    with pytest.raises(UsageError, match=f"takes {longest + 6} positions"):
        model.generate([5] * longest, prompt=prompts[0])


def test_stream_does_not_go_on_after_its_error(model: edgept.Model) -> None:
    """There is no room to go on: a next step would write past the cache's end."""
    stream = model.stream([5] * (model.max_length - 1), max_new_tokens=9, on_full="error")
    with pytest.raises(EdgeptError, match="longest"):
        list(stream)
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(stream)
    stream.close()


def test_shorter_longest_sequence(
    model: edgept.Model, prompts: list[edgept.LoadedPrompt], bundle_of: Callable[..., Path]
) -> None:
    short = edgept.load(model.bundle, threads=1, max_length=16)
    ids = [*range(20, 30)]
    expected = model.generate(ids, max_new_tokens=COUNT).token_ids
    result = short.generate(ids, max_new_tokens=COUNT)
    assert result.finish_reason == "full"
    assert result.token_ids == expected[: 16 - 10 + 1]
    assert short.generate_batch([(ids, None), ([5], None)], max_new_tokens=COUNT)[0].token_ids == (
        result.token_ids
    )
    with pytest.raises(IncompatibleError, match="no room is left"):
        short.load_prompt(prompt_of(model, 1, 16))
    assert short.load_prompt(prompt_of(model, 1, 15)).num_virtual_tokens == 15


def test_a_stream_closed_by_another_thread_gives_its_memory_back_after_its_step(
    model: edgept.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is still running would write into the next request's cache."""
    expected = model.generate(TEXT, max_new_tokens=COUNT).token_ids
    decoder: Any = model._runner.decoder  # type: ignore[union-attr]
    step, inside, go_on = decoder.step, threading.Event(), threading.Event()

    def slow_step(*arguments: Any) -> Any:
        inside.set()
        go_on.wait(10)
        return step(*arguments)

    stream = model.stream([5, 6, 7], max_new_tokens=30)
    monkeypatch.setattr(decoder, "step", slow_step)
    reader = threading.Thread(target=lambda: list(stream))
    reader.start()
    assert inside.wait(10)
    closer = threading.Thread(target=stream.close)
    closer.start()
    closer.join(0.05)
    assert closer.is_alive()  # it waits for the step
    monkeypatch.setattr(decoder, "step", step)
    go_on.set()
    for thread in (closer, reader):
        thread.join(10)
    assert stream.result is not None
    assert model.generate(TEXT, max_new_tokens=COUNT).token_ids == expected


def test_what_earlier_requests_left_in_memory_does_not_matter(
    model: edgept.Model, prompts: list[edgept.LoadedPrompt]
) -> None:
    requests = rows_of(prompts)
    expected = alone(model, requests, max_new_tokens=COUNT)
    pool: Any = model._runner.decoder._pool  # type: ignore[union-attr]
    for buffer in pool._free:
        owner = buffer.owner
        buffer.array[:, :, :, 0 if owner is None else owner.num_virtual_tokens :] = np.nan
    check_same(alone(model, requests, max_new_tokens=COUNT), expected)
    check_same(model.generate_batch(requests, max_new_tokens=COUNT), expected)


def test_a_prompt_is_copied_once_while_its_buffer_is_free(bundle_of: Callable[..., Path]) -> None:
    model = edgept.load(bundle_of("llama"), threads=1)
    first, second = (model.load_prompt(prompt_of(model, seed)) for seed in (1, 2))
    expected = [model.generate(TEXT, prompt=prompt).token_ids for prompt in (first, second)]
    pool: Any = model._runner.decoder._pool  # type: ignore[union-attr]
    kept = [buffer for buffer in pool._free if buffer.owner is not None]
    assert {buffer.owner for buffer in kept} == {first, second}
    for buffer in kept:  # what a copy would put there
        np.testing.assert_array_equal(
            buffer.array[:, 0, :, : buffer.owner.num_virtual_tokens], buffer.owner.kv
        )
    found = [model.generate(TEXT, prompt=prompt).token_ids for prompt in (first, second)]
    assert found == expected


def test_cancel_by_an_event(model: edgept.Model) -> None:
    cancel = threading.Event()
    stream = model.stream(TEXT, max_new_tokens=200, cancel=cancel)
    pieces = [next(stream), next(stream)]
    cancel.set()
    pieces += list(stream)
    assert stream.result is not None
    assert stream.result.finish_reason == "cancelled"
    assert len(stream.result.token_ids) < 20
    assert stream.result.text == "".join(pieces)
    cancelled = model.generate(TEXT, max_new_tokens=200, cancel=cancel)
    assert (cancelled.finish_reason, len(cancelled.token_ids)) == ("cancelled", 1)
    rows = model.generate_batch([(TEXT, None), ([5, 6], None)], cancel=cancel)
    assert [(row.finish_reason, len(row.token_ids)) for row in rows] == [("cancelled", 1)] * 2


def test_cancel_from_another_thread(model: edgept.Model) -> None:
    cancel = threading.Event()
    timer = threading.Timer(0.02, cancel.set)
    timer.start()
    for _ in range(1000):
        result = model.generate(TEXT, max_new_tokens=200, cancel=cancel)
        if cancel.is_set():
            break
    timer.join()
    assert result.finish_reason in ("cancelled", "length", "eos")
    assert cancel.is_set()


def test_closing_a_stream_ends_it(model: edgept.Model) -> None:
    whole = model.generate(TEXT, max_new_tokens=200)
    with model.stream(TEXT, max_new_tokens=200) as stream:
        first = next(stream)
        assert stream.result is None
    assert stream.result is not None
    assert stream.result.finish_reason == "cancelled"
    assert whole.text.startswith(stream.result.text)
    assert stream.result.text.startswith(first)
    assert list(stream) == []
    unused = model.stream(TEXT)
    unused.close()
    assert unused.result is not None
    assert (unused.result.text, unused.result.token_ids) == ("", [])


# Text


def test_pieces_joined_are_the_text(
    model: edgept.Model, prompts: list[edgept.LoadedPrompt]
) -> None:
    assert model.tokenizer is not None
    for prompt in (None, *prompts):
        for seed in range(3):
            options: dict[str, Any] = {"temperature": 1.5, "seed": seed, "max_new_tokens": 60}
            stream = model.stream(TEXT, prompt=prompt, **options)
            pieces = list(stream)
            result = stream.result
            assert result is not None
            assert "".join(pieces) == result.text == model.tokenizer.decode(result.token_ids)
            assert all(pieces)
            assert result.token_ids == model.generate(TEXT, prompt=prompt, **options).token_ids


def test_characters_are_whole(model: edgept.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of one character come as several tokens; no piece may end inside it."""
    assert model.tokenizer is not None
    text = "naïve café 😀 ünï"
    ids = model.tokenizer.encode(text, special_tokens=False)
    assert len(ids) > len(text.split())
    tokens = itertools.chain(ids, itertools.repeat(ids[0]))
    monkeypatch.setattr("edgept.runtime.sampling.Sampler.choose", lambda self, logits: next(tokens))
    stream = model.stream([5], max_new_tokens=len(ids))
    pieces = list(stream)
    assert stream.result is not None
    assert stream.result.token_ids == ids
    assert "".join(pieces).lstrip() == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 5


# Sampling


def test_a_seed_repeats_itself(model: edgept.Model, prompts: list[edgept.LoadedPrompt]) -> None:
    options: dict[str, Any] = {"temperature": 1.0, "top_k": 50, "top_p": 0.95}

    def sample(seed: int | None, prompt: edgept.LoadedPrompt | None = None) -> list[int]:
        result = model.generate(TEXT, prompt=prompt, max_new_tokens=COUNT, seed=seed, **options)
        return result.token_ids

    assert sample(3) == sample(3)
    assert sample(3, prompts[0]) == sample(3, prompts[0])
    assert len({tuple(sample(seed)) for seed in range(6)}) == 6
    assert sample(None) != sample(None)
    batch = model.generate_batch(
        [(TEXT, None), (TEXT, prompts[0]), (TEXT, None)], max_new_tokens=COUNT, seed=3, **options
    )
    expected = [sample(3), sample(4, prompts[0]), sample(5)]
    assert [row.token_ids for row in batch] == expected


def test_nearly_no_choice_is_greedy(model: edgept.Model) -> None:
    greedy = model.generate(TEXT, max_new_tokens=COUNT).token_ids
    for options in ({"top_k": 1}, {"top_p": 0.0}, {"top_p": 1e-9}):
        result = model.generate(TEXT, max_new_tokens=COUNT, temperature=1.0, seed=1, **options)
        assert result.token_ids == greedy
    cold = model.generate(TEXT, max_new_tokens=COUNT, temperature=1e-3, seed=1)
    assert cold.token_ids == greedy


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": "hot"},
        {"temperature": None},
        {"temperature": 1e-9},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": -0.1},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"repetition_penalty": 0},
        {"repetition_penalty": -1},
        {"repetition_penalty": math.inf},
        {"seed": -1},
        {"seed": 1.5},
        {"max_new_tokens": 0},
        {"max_new_tokens": -5},
        {"max_new_tokens": 2.5},
        {"max_new_tokens": "9"},
        {"max_new_tokens": None},
        {"on_full": "shrug"},
        {"on_full": None},
    ],
    ids=repr,
)
def test_arguments_out_of_range(options: dict[str, Any], model: edgept.Model) -> None:
    for call in (
        lambda: model.generate(TEXT, **options),
        lambda: model.stream(TEXT, **options),
        lambda: model.generate_batch([(TEXT, None)], **options),
    ):
        with pytest.raises(UsageError, match=next(iter(options))):
            call()


def test_an_unknown_option_is_a_type_error(model: edgept.Model) -> None:
    wrong: dict[str, Any] = {"temprature": 0.7}
    for call in (
        lambda: model.generate(TEXT, **wrong),
        lambda: model.stream(TEXT, **wrong),
        lambda: model.generate_batch([(TEXT, None)], **wrong),
    ):
        with pytest.raises(TypeError, match="temprature"):
            call()


def test_every_option_is_documented_and_has_a_default() -> None:
    from edgept.runtime.options import GenerateOptions, read_options

    names = set(GenerateOptions.__annotations__)
    parameters = inspect.signature(read_options).parameters
    assert names == set(parameters) - {"eos_token_ids"}
    assert all(parameters[name].default is not inspect.Parameter.empty for name in names)
    assert all(f"{name}:" in (GenerateOptions.__doc__ or "") for name in names)


# Batches


def rows_of(prompts: list[edgept.LoadedPrompt]) -> list[tuple[Any, Any]]:
    """Six requests: rows, keys and values, neither; short and long; one with a prompt inside."""
    first, second, third, prefix = prompts
    return [
        (TEXT, first),
        ([7], None),
        ("A dog", prefix),
        ([*range(20, 60)], second),
        (["A cat", third, " and a dog"], None),
        ([[9], second, [8, 7]], prefix),
    ]


def alone(model: edgept.Model, requests: list[tuple[Any, Any]], **options: Any) -> list[Generation]:
    return [model.generate(content, prompt=prompt, **options) for content, prompt in requests]


def check_same(found: list[Generation], expected: list[Generation]) -> None:
    for row, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.token_ids == other.token_ids, row
        assert (one.text, one.finish_reason, one.prompt) == (
            other.text,
            other.finish_reason,
            other.prompt,
        )
        assert one.latency.input_tokens == other.latency.input_tokens
        assert one.latency.virtual_tokens == other.latency.virtual_tokens


def test_batch_rows_are_what_they_are_alone(
    model: edgept.Model, prompts: list[edgept.LoadedPrompt]
) -> None:
    requests = rows_of(prompts)
    expected = alone(model, requests, max_new_tokens=64)
    check_same(model.generate_batch(requests, max_new_tokens=64), expected)
    check_same(model.generate_batch(requests[::-1], max_new_tokens=64), expected[::-1])
    assert len({tuple(row.token_ids) for row in expected}) == 6


def test_rows_that_end_early_leave_the_others_alone(
    model: edgept.Model, prompts: list[edgept.LoadedPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = rows_of(prompts)
    plain = alone(model, requests, max_new_tokens=64)

    def check_ends(found: Callable[[Generation], int], reason: str) -> None:
        """`found` says where a row ends, -1 where it goes on."""
        assert len({found(row) for row in plain}) >= 4
        expected = alone(model, requests, max_new_tokens=64, stop=stop)
        assert reason in {row.finish_reason for row in expected}
        assert len({len(row.token_ids) for row in expected}) >= 3
        check_same(model.generate_batch(requests, max_new_tokens=64, stop=stop), expected)

    letters = sorted(set("".join(row.text for row in plain)))
    letter = max(letters, key=lambda one: len({row.text.find(one) for row in plain}))
    stop = [letter]
    check_ends(lambda row: row.text.find(letter), "stop")

    def place(row: Generation, token: int) -> int:
        return row.token_ids.index(token) if token in row.token_ids else -1

    tokens = sorted({token for row in plain for token in row.token_ids})
    token = max(tokens, key=lambda one: len({place(row, one) for row in plain}))
    with_eos(model, monkeypatch, token)
    stop = []
    check_ends(lambda row: place(row, token), "eos")


def test_rows_that_fill_their_sequence(
    model: edgept.Model, prompts: list[edgept.LoadedPrompt]
) -> None:
    longest = model.max_length
    requests: list[tuple[Any, Any]] = [
        ([5] * (longest - 4), None),
        (TEXT, prompts[0]),
        ([6] * (longest - 20), prompts[0]),
        ([7] * longest, None),
    ]
    expected = alone(model, requests, max_new_tokens=30)
    assert [row.finish_reason for row in expected] == ["full", "length", "full", "full"]
    check_same(model.generate_batch(requests, max_new_tokens=30), expected)
    with pytest.raises(EdgeptError, match="longest"):
        model.generate_batch(requests, max_new_tokens=30, on_full="error")


def test_rows_that_fill_a_sequence_of_learned_positions(bundle_of: Callable[..., Path]) -> None:
    """GPT-Neo has a table of positions and a square mask: neither has a place past the last."""
    model = edgept.load(bundle_of("gpt_neo"), threads=1)
    longest = model.max_length
    requests: list[tuple[Any, Any]] = [
        ([5] * (longest - 3), None),
        ([9, 8, 7], model.load_prompt(prompt_of(model, 1))),
        ([6] * (longest - 20), None),
        ([7] * longest, None),
    ]
    expected = alone(model, requests, max_new_tokens=30)
    assert [row.finish_reason for row in expected] == ["full", "length", "full", "full"]
    check_same(model.generate_batch(requests, max_new_tokens=30), expected)


def test_batches_of_none_and_of_one(model: edgept.Model) -> None:
    assert model.generate_batch([]) == []
    one = model.generate_batch(iter([(TEXT, None)]), max_new_tokens=9)
    check_same(one, alone(model, [(TEXT, None)], max_new_tokens=9))
    with pytest.raises(UsageError, match="positions"):
        model.generate_batch([(TEXT, None), ([5] * 1000, None)])
    with pytest.raises(UsageError, match="empty"):
        model.generate_batch([(TEXT, None), ([], None)])


# Threads


def test_four_threads_under_different_prompts(
    model: edgept.Model, prompts: list[edgept.LoadedPrompt]
) -> None:
    requests = rows_of(prompts)
    expected = [row.token_ids for row in alone(model, requests, max_new_tokens=COUNT)]
    barrier = threading.Barrier(4)

    def work(worker: int) -> list[tuple[int, list[int]]]:
        barrier.wait()
        order = [(worker + step) % len(requests) for step in range(2 * len(requests))]
        found = []
        for index in order:
            content, prompt = requests[index]
            result = model.generate(content, prompt=prompt, max_new_tokens=COUNT)
            found.append((index, result.token_ids))
        return found

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, range(4)):
            for index, tokens in found:
                assert tokens == expected[index]


def test_200_swaps_while_another_thread_generates(
    model: edgept.Model, prompts: list[edgept.LoadedPrompt]
) -> None:
    kinds = [None, *prompts]
    expected = [model.generate(TEXT, prompt=p, max_new_tokens=3).token_ids for p in kinds]
    steady = model.generate(TEXT, prompt=prompts[1], max_new_tokens=100).token_ids
    done = threading.Event()
    wrong: list[list[int]] = []

    def keep_generating() -> None:
        while not done.is_set():
            tokens = model.generate(TEXT, prompt=prompts[1], max_new_tokens=100).token_ids
            if tokens != steady:
                wrong.append(tokens)

    thread = threading.Thread(target=keep_generating)
    thread.start()
    try:
        for swap in range(200):
            which = swap % len(kinds)
            result = model.generate(TEXT, prompt=kinds[which], max_new_tokens=3)
            assert result.token_ids == expected[which], swap
            if swap % 20 == 0:  # a prompt may also be loaded meanwhile
                fresh = model.load_prompt(prompt_of(model, 1))
                tokens = model.generate(TEXT, prompt=fresh, max_new_tokens=3).token_ids
                assert tokens == expected[1]
    finally:
        done.set()
        thread.join()
    assert wrong == []


# Memory


def test_200_tokens_keep_no_memory(
    model: edgept.Model, prompts: list[edgept.LoadedPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token leaves its id and its text behind, not its keys and values, nor larger arrays."""
    with_eos(model, monkeypatch)
    kv = model.manifest.kv
    assert kv is not None
    kv_bytes = 2 * kv.num_layers * kv.num_kv_heads * kv.head_dim * 4
    stream = model.stream([5, 6], prompt=prompts[0], max_new_tokens=240)
    samples: list[tuple[int, int, int]] = []  # tokens so far, bytes held, bytes for a moment
    tracemalloc.start()
    try:
        while not samples or samples[-1][0] < 230:
            next(stream)
            held, peak = tracemalloc.get_traced_memory()
            samples.append((len(stream._row.token_ids), held, peak - held))
            tracemalloc.reset_peak()
    finally:
        tracemalloc.stop()
        stream.close()
    warm = [sample for sample in samples if 20 < sample[0] < 60]
    late = [sample for sample in samples if sample[0] > 190]
    tokens = late[-1][0] - warm[0][0]
    assert tokens > 160
    assert (late[-1][1] - warm[0][1]) / tokens < kv_bytes / 4
    # while a step runs: the logits, and a mask that is 8 bytes longer
    assert max(sample[2] for sample in late) - max(sample[2] for sample in warm) < 8 * 1024


def test_requests_keep_no_memory(model: edgept.Model, prompts: list[edgept.LoadedPrompt]) -> None:
    def run(count: int) -> None:
        for index in range(count):
            prompt = prompts[index % len(prompts)]
            model.generate([5, 6, 7], prompt=prompt, max_new_tokens=4)

    run(8)
    tracemalloc.start()
    try:
        run(8)
        before = tracemalloc.get_traced_memory()[0]
        run(100)
        growth = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert growth < 32 * 1024, growth


# Perplexity


def test_perplexity_is_that_of_peft(model: edgept.Model, tmp_path: Path) -> None:
    base = shared("stories260K") if model.manifest.source == "stories260K" else None
    if base is None:
        folder = tmp_path / "llama"
        tiny_model("llama").save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        base = folder
    adapter = make_adapter("prompt_tuning", base, tmp_path / "a")
    prompt = model.load_prompt(adapter)
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside."

    def expected(reference: Any, ids: list[int]) -> float:
        logits = peft_logits(reference, ids).astype(np.float64)[:-1]
        logits -= logits.max(1, keepdims=True)
        chosen = logits[np.arange(len(ids) - 1), ids[1:]]
        return math.exp(float((np.log(np.exp(logits).sum(1)) - chosen).mean()))

    ids = token_ids(base, text)
    plain = expected(base_model(base), ids)
    tuned = expected(load_adapter(base, adapter), ids)
    assert model.perplexity(text) == pytest.approx(plain, rel=1e-4)
    assert model.perplexity(text, prompt=prompt) == pytest.approx(tuned, rel=1e-4)
    assert plain != pytest.approx(tuned, rel=1e-3)
    long = model.perplexity(text * 40)  # several windows
    assert 0 < long < 1e6
    with pytest.raises(UsageError):
        model.perplexity("")


# Loading


def test_load_says_what_it_uses(model: edgept.Model) -> None:
    assert model.providers == ["CPUExecutionProvider"]
    assert model.threads == 1
    assert model.load_ms > 0
    two = edgept.load(
        model.bundle, threads=2, providers=["CPUExecutionProvider"], check_hashes=False
    )
    assert two.threads == 2
    assert two.generate(TEXT, max_new_tokens=9).token_ids == (
        model.generate(TEXT, max_new_tokens=9).token_ids
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"threads": 0}, "threads is 0"),
        ({"threads": -3}, "threads is -3"),
        ({"threads": 100_000}, "threads is 100000"),
        ({"threads": 1 << 40}, "threads is"),
        ({"threads": "2"}, "threads is 2"),
        ({"providers": ["ToasterExecutionProvider"]}, "no ToasterExecutionProvider"),
        ({"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]}, "no CUDAExec"),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_length": -1}, "max_length is -1"),
        ({"max_length": 100_000}, "max_length is 100000"),
    ],
)
def test_load_refuses(arguments: dict[str, Any], words: str, model: edgept.Model) -> None:
    with pytest.raises(UsageError, match=words):
        edgept.load(model.bundle, **arguments)


def test_load_finds_the_bundle(
    model: edgept.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGEPT_BUNDLE", raising=False)
    for nowhere in (None, "nowhere", tmp_path, "x" * 300):
        with pytest.raises(UsageError, match="no bundle at"):
            edgept.load(nowhere)
    shutil.copytree(model.bundle, tmp_path / "bundle")
    assert edgept.load(threads=1).bundle == Path("bundle")
    monkeypatch.setenv("EDGEPT_BUNDLE", str(model.bundle))
    assert edgept.load(threads=1).bundle == model.bundle
    assert edgept.load(str(tmp_path / "bundle"), threads=1).bundle == tmp_path / "bundle"


# Chat

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def chat_bundle(model: edgept.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle with a chat template, listed in its manifest."""
    folder: Path = tmp_path_factory.mktemp("chat") / "bundle"
    shutil.copytree(model.bundle, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    manifest = read_manifest(folder)
    template = folder / "chat_template.jinja"
    listed = {template.name: BundleFile(template.stat().st_size, hash_file(template))}
    manifest = dataclasses.replace(manifest, files={**manifest.files, **listed})
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    return folder


def test_chat_ids_are_those_of_transformers(chat_bundle: Path) -> None:
    from transformers import AutoTokenizer

    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Once upon a time, <s> there was"},
        {"role": "assistant", "content": "a dog"},
        {"role": "user", "content": "And then? 😀"},
    ]
    model = edgept.load(chat_bundle, threads=1)
    tokenizer: Any = AutoTokenizer.from_pretrained(chat_bundle)
    for add in (False, True):
        expected = tokenizer.apply_chat_template(
            messages, add_generation_prompt=add, return_dict=False
        )
        assert model.chat(messages, add_generation_prompt=add) == [expected]
    assert expected[:2] != [1, 1]
    content = model.chat(messages)
    assert model._compose(content, None).ids.tolist()[:2] != [1, 1]
    result = model.generate(content, max_new_tokens=5)
    assert result.token_ids == model.generate(expected, max_new_tokens=5).token_ids


def test_chat_with_prompts_inside_messages(chat_bundle: Path) -> None:
    model = edgept.load(chat_bundle, threads=1)
    assert model.tokenizer is not None
    first, second = model.load_prompt(prompt_of(model, 1)), model.load_prompt(prompt_of(model, 2))
    messages = [
        {"role": "system", "content": [first]},
        {"role": "user", "content": [second, "Where is it?"]},
    ]
    content = model.chat(messages)
    encode = model.tokenizer.encode
    texts = ["<s>[system] ", "\n[user] ", "Where is it?\n[assistant]"]
    before, between, after = (encode(text, special_tokens=False) for text in texts)
    assert content == [before, first, between, second, after]
    assert before[0] == 1
    result = model.generate(content, max_new_tokens=9)
    assert result.latency.virtual_tokens == 12
    plain = model.chat([{"role": "user", "content": "Where is it?"}])
    under = model.generate(plain, prompt=first, max_new_tokens=9)
    assert under.prompt == "rows-1"
    assert under.token_ids != model.generate(plain, max_new_tokens=9).token_ids


def test_chat_refuses(model: edgept.Model, chat_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no chat template"):
        model.chat([{"role": "user", "content": "hi"}])
    chat = edgept.load(chat_bundle, threads=1)
    with pytest.raises(UsageError, match="Path"):
        chat.chat([{"role": "user", "content": [Path("spanish.pt"), "hi"]}])
    with pytest.raises(UsageError, match="no messages"):
        chat.chat([])
    foreign = model.load_prompt(prompt_of(model, 1))
    with pytest.raises(UsageError, match="another model"):
        chat.generate(chat.chat([{"role": "user", "content": [foreign, "hi"]}]))
