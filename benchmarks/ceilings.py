"""How near decoding comes to what the machine's memory allows, and prefill to its arithmetic.

python -m benchmarks.ceilings [FOLDER] [--quick]
"""

import ctypes
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median
from typing import Any

from benchmarks.claim import (
    Claim,
    Goal,
    Setting,
    goal_of_ratio,
    paired,
    random_ids,
    run_script,
    spread,
    table,
)
from benchmarks.peers import Side, interleave, start_sides
from benchmarks.runtimes import Answer

__all__ = ["measure"]

_INPUT = 64  # tokens
_LIMIT = 1.7
_TRIES = 5


def measure(setting: Setting) -> Claim:
    """On each shape: memory read and a request in every round."""
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    raw: dict[str, object] = {}
    effort = setting.effort
    for shape in setting.shapes:
        sides, _ = start_sides(["edgept"], setting.files(shape), setting.threads, setting.say)
        setting.say(f"ceilings of {shape}")
        with sides["edgept"] as side:
            found = side.call("ceilings", _INPUT, _INPUT + effort.new_tokens // 2)
            with memory_reader(int(found["token_bytes"]), setting.threads) as read:
                asked: dict[str, Callable[[int], Any]] = {
                    "edgept": _asker(side, effort.new_tokens),
                    "memory": read,
                }
                series = interleave(effort.rounds, asked, {})
        # an end of text as the first token leaves nothing to time
        whole = {at: item for at, item in series["edgept"].items() if len(item.token_ids) > 1}
        answers, reads = paired(whole, series["memory"])
        tpots = [answer.tpot_ms for answer in answers]
        ceilings = [found["token_bytes"] / read * 1e3 for read in reads]
        tpot, ceiling = median(tpots), median(ceilings)
        ttft = median(answer.ttft_ms for answer in answers)
        operations = found["prefill_operations"] / ttft * 1e3
        rows.append(
            (
                shape,
                f"{found['token_bytes'] / 1e6:.0f}",
                f"{median(reads) / 1e9:.1f}",
                spread(ceilings),
                spread(tpots),
                f"{tpot / ceiling:.2f}",
                f"{found['operations_per_s'] / 1e9:.0f}",
                f"{operations / 1e9:.0f}",
            )
        )
        raw[shape] = {**found, "read": reads, "requests": answers}
        what = f"time per output token, {shape}, over the memory-read ceiling"
        why = "onnxruntime's product takes about five 4-bit weights a cycle and core (NOTES.md)"
        goals.append(goal_of_ratio(what, _LIMIT, tpots, ceilings, why))
    header = (
        *("", "MB read per token", "memory read, GB/s", "ceiling, ms per token"),
        *("measured, ms", "times the ceiling", "float32 products, GFLOP/s", "in prefill"),
    )
    about = (
        f"Memory read is the best of {_TRIES} passes over as many bytes as a token reads (weights, keys "
        f"and values), between requests of {_INPUT} tokens and {effort.new_tokens} new ones, "
        f"{effort.rounds} rounds, {setting.threads} threads; products are onnxruntime's of 1,024 by 1,024. "
        "int4 prefill multiplies in 8-bit integers, so float32's throughput is no limit to it; attention's "
        "own products are not counted. Median (quartiles) in ms."
    )
    return Claim("Ceilings", about, table(header, rows), goals, raw=raw)


def _asker(side: Side, new_tokens: int) -> Callable[[int], Answer]:
    return lambda number: side.ask(random_ids(_INPUT, number + 99), None, new_tokens)


@contextmanager
def memory_reader(size: int, threads: int) -> Iterator[Callable[[int], float]]:
    """What measures, given a round's number, the bytes per second that all threads read together at best.

    libc's memchr looks through memory with the widest loads there are, and ctypes lets the other
    threads run meanwhile. The same buffer of `size` bytes is read again, as weights are: what caches keep of it counts.
    """
    memchr = ctypes.CDLL(None).memchr
    memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    memchr.restype = ctypes.c_void_p
    part = size // threads
    buffers = [ctypes.create_string_buffer(b"\1" * part, part) for _ in range(threads)]

    def read(buffer: "ctypes.Array[ctypes.c_char]") -> None:
        if memchr(buffer, 0, part) is not None:
            raise AssertionError("there is no zero in it")

    with ThreadPoolExecutor(threads) as pool:

        def measure_once(_: int) -> float:
            best = float("inf")
            for _ in range(_TRIES):
                begin = time.perf_counter()
                list(pool.map(read, buffers))
                best = min(best, time.perf_counter() - begin)
            return part * threads / best

        yield measure_once


if __name__ == "__main__":
    run_script(measure, __doc__)
