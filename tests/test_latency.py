"""Times of a request: that they are of what they say, and add up."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgept
from edgept.latency import Latency

TEXT = "where is my parcel"
EXAMPLE = Latency(
    load_ms=300.4,
    prompt_ms=1.234,
    swap_ms=0.0456,
    tokenize_ms=0.1,
    prefill_ms=12.34,
    ttft_ms=13.0,
    tpot_ms=2.5,
    total_ms=38.0,
    virtual_tokens=8,
    input_tokens=5,
    new_tokens=11,
)


@pytest.fixture(scope="module")
def model(bundle_of: Callable[..., Path]) -> edgept.Model:
    return edgept.load(bundle_of("llama"), threads=1)


@pytest.fixture(scope="module")
def prompt(model: edgept.Model) -> edgept.LoadedPrompt:
    rows = np.ones((5, model.manifest.hidden_size), np.float32)
    return model.load_prompt(edgept.Prompt({"prompt_embeds": rows}, name="es"))


def test_as_text() -> None:
    assert str(EXAMPLE) == (
        "load 300 ms · prompt 1.23 ms · swap 0.046 ms · tokenize 0.10 ms · prefill 12.3 ms "
        "(8 virtual + 5 tokens) · first token 13.0 ms · 2.50 ms/token · 400 tokens/s · 11 tokens "
        "in 38 ms"
    )
    one = dataclasses.replace(EXAMPLE, tpot_ms=None, new_tokens=1)
    assert "ms/token" not in str(one)
    assert "1 tokens in" in str(one)


def test_tokens_per_second() -> None:
    assert EXAMPLE.tokens_per_second == 400
    assert dataclasses.replace(EXAMPLE, tpot_ms=None).tokens_per_second is None
    assert dataclasses.replace(EXAMPLE, tpot_ms=0.0).tokens_per_second is None


def test_is_plain_data() -> None:
    assert json.loads(json.dumps(dataclasses.asdict(EXAMPLE))) == dataclasses.asdict(EXAMPLE)


def test_phases_of_a_request_add_up(model: edgept.Model, prompt: edgept.LoadedPrompt) -> None:
    before = time.perf_counter()
    found = model.generate(TEXT, prompt=prompt, max_new_tokens=20).latency
    elapsed_ms = (time.perf_counter() - before) * 1e3
    assert found.load_ms == model.load_ms > 0
    assert found.prompt_ms == prompt.load_ms > 0
    assert min(found.swap_ms, found.tokenize_ms, found.prefill_ms) > 0
    assert found.ttft_ms is not None
    assert found.tokenize_ms + found.swap_ms + found.prefill_ms <= found.ttft_ms
    assert found.tpot_ms is not None
    assert found.ttft_ms + found.tpot_ms * 19 == pytest.approx(found.total_ms)
    assert found.total_ms <= elapsed_ms
    assert (found.virtual_tokens, found.new_tokens) == (5, 20)
    assert model.tokenizer is not None
    assert found.input_tokens == len(model.tokenizer.encode(TEXT, special_tokens=True))


def test_without_a_prompt(model: edgept.Model) -> None:
    found = model.generate(TEXT, max_new_tokens=1).latency
    assert (found.prompt_ms, found.virtual_tokens) == (0, 0)
    assert (found.tpot_ms, found.tokens_per_second, found.new_tokens) == (None, None, 1)


def test_a_slow_reader_is_not_a_slow_model(model: edgept.Model) -> None:
    before = time.perf_counter()
    stream = model.stream(TEXT, max_new_tokens=8)
    time.sleep(0.1)
    pieces = 0
    for _ in stream:
        pieces += 1
        time.sleep(0.1)
    elapsed_ms = (time.perf_counter() - before) * 1e3
    assert stream.result is not None
    found = stream.result.latency
    assert found.ttft_ms is not None
    assert found.prefill_ms < found.ttft_ms < found.total_ms
    assert found.total_ms <= elapsed_ms - 100 * (pieces + 1)


def test_closed_before_its_first_token(model: edgept.Model) -> None:
    stream = model.stream(TEXT)
    stream.close()
    assert stream.result is not None
    found = stream.result.latency
    assert (found.new_tokens, found.ttft_ms, found.prefill_ms, found.tpot_ms) == (0, None, 0, None)


def test_rows_of_a_batch(model: edgept.Model, prompt: edgept.LoadedPrompt) -> None:
    before = time.perf_counter()
    rows = model.generate_batch([(TEXT, prompt), ([5, 6], None), (TEXT, None)], max_new_tokens=10)
    elapsed_ms = (time.perf_counter() - before) * 1e3
    latencies = [row.latency for row in rows]
    firsts = [found.ttft_ms or 0.0 for found in latencies]
    assert sorted(firsts) == firsts  # each row is prefilled after the one before it
    assert len({found.total_ms for found in latencies}) == 1
    for found in latencies:
        assert found.tpot_ms is not None
        assert found.tpot_ms > 0
        assert 0 < (found.ttft_ms or 0.0) < found.total_ms <= elapsed_ms
    assert [found.virtual_tokens for found in latencies] == [5, 0, 0]
    assert [found.input_tokens for found in latencies[1:2]] == [2]
