"""The two caches on a graph that is none: what they hold, where they write, what they cost."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgept.manifest import KVGeometry
from edgept.prompt import Prompt
from edgept.runtime.cache import Cache, GrowingCache, SharedCache
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.kv_pool import KVBuffer

LAYERS, HEADS, WIDTH = 2, 3, 4


class Tensor:
    """A tensor of the fake graph: on the host over the array's own memory, elsewhere a copy."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array

    def numpy(self) -> npt.NDArray[Any]:
        return self.array.copy()


class FakeGraph:
    """The part of a graph that a cache needs."""

    float_type = np.dtype(np.float32)

    def __init__(self, *, on_host: bool) -> None:
        self.on_host = on_host

    def value(self, array: npt.NDArray[Any], *, resident: bool = False) -> Tensor:
        return Tensor(array if self.on_host or not resident else array.copy())

    def empty(self, shape: Any) -> Tensor:
        return Tensor(np.full(tuple(shape), np.nan, np.float32))


def geometry(*, shared: bool) -> KVGeometry:
    return KVGeometry(LAYERS, HEADS, WIDTH, shared_buffer=shared)


def past(tokens: int, value: float) -> npt.NDArray[np.float32]:
    """Keys and values (2 · layers, kv_heads, tokens, head_dim), each its own number."""
    shape = (2 * LAYERS, HEADS, tokens, WIDTH)
    numbers: npt.NDArray[np.float32] = value * 1000 + np.arange(np.prod(shape), dtype=np.float32)
    return numbers.reshape(shape)


def make(shared: bool, capacity: int, pasts: list[Any], *, on_host: bool = True) -> Cache:
    """A cache with a row for each past, the longest put first, as a decoder does."""
    graph: Any = FakeGraph(on_host=on_host)
    cache: Cache
    if shared:
        shape = (2 * LAYERS, len(pasts), HEADS, capacity, WIDTH)
        cache = SharedCache(graph, KVBuffer(np.zeros(shape, np.float32)))
    else:
        cache = GrowingCache(graph, geometry(shared=False), len(pasts), capacity)
    filled = [(row, item) for row, item in enumerate(pasts) if item is not None]
    for row, item in sorted(filled, key=lambda pair: -pair[1].shape[2]):
        cache.put(row, item)
    return cache


def run(cache: Cache, new: npt.NDArray[np.float32]) -> None:
    """What a graph does: present is past with `new` (2 · layers, batch, heads, tokens, width) behind."""
    count = new.shape[3]
    before = [value.array for value in cache.past()]
    after = [value.array for value in cache.present(count)]
    if isinstance(cache, SharedCache):
        for target, source in zip(after, new, strict=True):
            for row, length in enumerate(cache.lengths):
                target[row, :, length : length + count] = source[row]
    else:
        for target, source, tokens in zip(after, before, new, strict=True):
            assert not np.shares_memory(target, source)
            target[:] = np.concatenate([source, tokens], axis=2)
    cache.advance(count)


@pytest.fixture(params=[True, False], ids=["host", "device"])
def on_host(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[True, False], ids=["shared", "growing"])
def shared(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_holds_what_was_put(shared: bool, on_host: bool) -> None:
    pasts = [past(3, 1), None, past(5, 2)]
    cache = make(shared, 8, pasts, on_host=on_host)
    for row, expected in enumerate(pasts):
        held = cache.held(row)
        np.testing.assert_array_equal(held, past(0, 0) if expected is None else expected)


def test_masks_say_where_tokens_are() -> None:
    pasts = [past(3, 1), None, past(5, 2)]
    shared_mask = make(True, 8, pasts).mask(2)
    # a shared row begins in column 0, whatever the others hold
    assert shared_mask.tolist() == [
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1],
    ]
    growing_mask = make(False, 8, pasts).mask(2)
    # a growing row ends where the longest ends, so that its next token is next to its last
    assert growing_mask.tolist() == [
        [0, 0, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 1, 1],
        [1, 1, 1, 1, 1, 1, 1],
    ]
    for mask in (shared_mask, growing_mask):
        assert mask.dtype == np.int64
        assert mask.flags.c_contiguous


def test_grows_by_what_the_graph_wrote(shared: bool, on_host: bool) -> None:
    pasts = [past(2, 1), past(4, 2)]
    cache = make(shared, 9, pasts, on_host=on_host)
    expected = [item.copy() for item in pasts]
    for step, count in enumerate([1, 3, 1]):
        new = np.stack([past(count, 10 + step), past(count, 20 + step)], axis=1)
        cache.mask(count)
        run(cache, new)
        for row in range(2):
            expected[row] = np.concatenate([expected[row], new[:, row]], axis=2)
            np.testing.assert_array_equal(cache.held(row), expected[row])


def test_ended_rows_stay_as_they_are() -> None:
    cache = make(True, 8, [past(2, 1), past(3, 2)])
    assert isinstance(cache, SharedCache)
    cache.advance(1, np.array([True, False]))
    assert cache.lengths.tolist() == [3, 3]
    # it is run with the others, over its last token, since it may have no room for another
    assert cache.mask(1, np.array([True, False])).tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    cache.advance(1, np.array([False, False]))
    assert cache.lengths.tolist() == [3, 3]


def test_ended_rows_of_a_growing_cache_do_not_count() -> None:
    """Their positions would pass the model's last one."""
    cache = make(False, 9, [past(2, 1), past(3, 2)])
    assert cache.mask(1, np.array([False, True])).tolist() == [[0, 1, 1, 0], [1, 1, 1, 1]]
    run(cache, np.stack([past(1, 8), past(1, 9)], axis=1))
    np.testing.assert_array_equal(cache.held(0), past(2, 1))
    np.testing.assert_array_equal(cache.held(1), np.concatenate([past(3, 2), past(1, 9)], axis=2))


def test_columns_of_a_longer_row_that_has_ended_are_given_up(on_host: bool) -> None:
    """Some graphs have no column past the longest sequence, which the ended row has filled."""
    cache = make(False, 6, [past(6, 1), past(2, 2), past(1, 3)], on_host=on_host)
    assert isinstance(cache, GrowingCache)
    expected = [past(2, 2), past(1, 3)]
    running = np.array([False, True, True])
    for step in range(4):
        mask = cache.mask(1, running)
        assert mask.shape[1] <= 6
        assert mask[1:].sum(axis=1).tolist() == [3 + step, 2 + step]
        new = np.stack([past(1, 30), past(1, 40 + step), past(1, 50 + step)], axis=1)
        run(cache, new)
        expected = [
            np.concatenate([before, new[:, row]], axis=2)
            for row, before in enumerate(expected, start=1)
        ]
        for row, held in enumerate(expected, start=1):
            np.testing.assert_array_equal(cache.held(row), held)


def test_a_prompt_is_copied_into_a_shared_buffer_once(on_host: bool) -> None:
    """The buffer keeps it at its start, whatever the request behind it was."""
    graph: Any = FakeGraph(on_host=on_host)
    buffer = KVBuffer(np.zeros((2 * LAYERS, 1, HEADS, 8, WIDTH), np.float32))
    prompt = LoadedPrompt(Prompt({}, "spanish"), None, None, 0.0, None)
    for new in (1, 2):
        cache = SharedCache(graph, buffer)
        cache.begin_with(prompt, past(3, 1) if new == 1 else past(3, 9))  # 9 would be a second copy
        np.testing.assert_array_equal(cache.held(0), past(3, 1))
        run(cache, past(2, new)[:, None])
        expected = np.concatenate([past(3, 1), past(2, new)], axis=2)
        np.testing.assert_array_equal(cache.held(0), expected)
    other = LoadedPrompt(Prompt({}, "german"), None, None, 0.0, None)
    cache = SharedCache(graph, buffer)
    cache.begin_with(other, past(2, 5))
    run(cache, past(1, 6)[:, None])
    np.testing.assert_array_equal(cache.held(0), np.concatenate([past(2, 5), past(1, 6)], axis=2))


def test_a_growing_cache_reads_a_prompt_where_it_is(on_host: bool) -> None:
    graph: Any = FakeGraph(on_host=on_host)
    cache = GrowingCache(graph, geometry(shared=False), 1, 6)
    prompt = past(2, 1)
    cache.begin_with(prompt)
    np.testing.assert_array_equal(cache.held(0), prompt)
    if on_host:
        assert all(np.shares_memory(value.array, prompt) for value in cache.past())
    for step in range(3):
        assert cache.mask(1).tolist() == [[1] * (3 + step)]
        run(cache, past(1, 7 + step)[:, None])
    rest = [past(1, 7 + step) for step in range(3)]
    np.testing.assert_array_equal(cache.held(0), np.concatenate([past(2, 1), *rest], axis=2))
    np.testing.assert_array_equal(prompt, past(2, 1))


def test_shared_past_and_present_are_one_buffer(on_host: bool) -> None:
    cache = make(True, 6, [past(2, 1)], on_host=on_host)
    before = cache.past()
    assert len(before) == 2 * LAYERS
    assert before[0].array.shape == (1, HEADS, 6, WIDTH)
    for step in range(3):
        assert all(a is b for a, b in zip(cache.present(1), before, strict=True)), step
        cache.advance(1)


def test_growing_buffers_take_turns() -> None:
    """Two buffers serve every step: none is made later."""
    cache = make(False, 6, [past(2, 1)])
    assert isinstance(cache, GrowingCache)
    seen = []
    for _ in range(4):
        array = cache.present(1)[0].array
        assert array.shape == (1, HEADS, cache.columns + 1, WIDTH)
        assert array.flags.c_contiguous
        seen.append(array.__array_interface__["data"][0])
        cache.advance(1)
    assert seen[0] == seen[2] != seen[1] == seen[3]
    assert len(cache._slabs) == 2


def test_columns_that_no_row_uses_hold_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask hides them from attention by a sum, and the sum with what is not a number is none."""
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, np.nan, dtype))
    cache = make(False, 64, [past(3, 1), past(40, 2)])
    assert all(np.isfinite(value.array).all() for value in cache.past())


def test_capacity_is_filled_to_the_last_column(shared: bool) -> None:
    cache = make(shared, 4, [past(3, 1)])
    cache.mask(1)
    run(cache, past(1, 9)[:, None])
    np.testing.assert_array_equal(cache.held(0), np.concatenate([past(3, 1), past(1, 9)], axis=2))
    assert cache.mask(0).shape == (1, 4)
