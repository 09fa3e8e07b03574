"""Buffers between requests: which one a request gets, and what is kept."""

import weakref
from typing import Any

import numpy as np

from edgept.manifest import KVGeometry
from edgept.prompt import Prompt
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.kv_pool import KVPool

GEOMETRY = KVGeometry(2, 3, 4, shared_buffer=True)


def prompt(name: str) -> LoadedPrompt:
    return LoadedPrompt(Prompt({}, name), None, None, 0.0, None)


def pool(max_length: int = 256, geometry: KVGeometry = GEOMETRY) -> KVPool:
    return KVPool(geometry, np.float32, max_length)


def mark(buffer: Any, owner: LoadedPrompt) -> Any:
    buffer.prefix = weakref.ref(owner)
    return buffer


def test_a_buffer_has_room_and_is_used_again() -> None:
    free = pool()
    buffer = free.take(1, 70)
    assert buffer.array.shape == (4, 1, 3, 128, 4)
    free.give(buffer)
    assert free.take(1, 128) is buffer
    free.give(buffer)
    assert free.take(1, 129) is not buffer  # too short
    assert free.take(2, 10) is not buffer  # other rows


def test_no_buffer_is_longer_than_the_model() -> None:
    assert pool(max_length=100).take(1, 70).capacity == 100


def test_a_prompt_gets_the_buffer_that_begins_with_it() -> None:
    free, first, second = pool(), prompt("first"), prompt("second")
    left = mark(free.take(1, 10, first), first)
    right = mark(free.take(1, 10, second), second)
    free.give(left)
    free.give(right)
    assert free.take(1, 10, first) is left
    assert left.begins_with(first)
    free.give(left)
    assert free.take(1, 10, second) is right


def test_a_third_prompt_does_not_take_what_others_begin_with_while_there_is_room() -> None:
    free, first = pool(), prompt("first")
    buffer = mark(free.take(1, 10, first), first)
    free.give(buffer)
    assert free.take(1, 10, prompt("second")) is not buffer
    assert free.take(1, 10) is not buffer


def test_when_full_the_oldest_is_taken_and_forgets_its_prompt() -> None:
    free = pool()
    owners = [prompt(str(index)) for index in range(4)]
    buffers = [mark(free.take(1, 10, owner), owner) for owner in owners]
    for buffer in buffers:
        free.give(buffer)
    taken = free.take(1, 10, prompt("fifth"))
    assert taken is buffers[0]
    assert not taken.begins_with(owners[0])
    assert free.take(1, 10, owners[3]) is buffers[3]


def test_keeps_four_at_most_and_no_more_bytes_than_it_may() -> None:
    free = pool()
    buffers = [free.take(1, 10) for _ in range(6)]
    for buffer in buffers:
        free.give(buffer)
    assert [free.take(1, 10) for _ in range(4)] == buffers[2:]
    assert free.take(1, 10) not in buffers


def test_a_buffer_larger_than_all_that_may_be_kept_is_not_kept() -> None:
    large = pool(geometry=KVGeometry(1, 1, 1 << 20, shared_buffer=True))  # 8 MB a column
    buffer = large.take(1, 7)
    large.give(buffer)
    assert large.take(1, 7) is not buffer


def test_prefixes_can_be_forgotten() -> None:
    free, first = pool(), prompt("first")
    buffer = mark(free.take(1, 10, first), first)
    free.give(buffer)
    free.forget_prefixes()
    assert free.take(1, 10, first) is buffer
    assert not buffer.begins_with(first)


def test_a_prompt_that_is_gone_is_not_kept_alive_and_its_buffer_is_used() -> None:
    free, owner = pool(), prompt("gone")
    watch = weakref.ref(owner)
    buffer = mark(free.take(1, 10, owner), owner)
    free.give(buffer)
    del owner
    assert watch() is None
    assert free.take(1, 10, prompt("other")) is buffer
