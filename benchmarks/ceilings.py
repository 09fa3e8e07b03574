"""How near decoding comes to what the machine's memory allows, and prefill to its arithmetic.

python -m benchmarks.ceilings [FOLDER] [--quick]
"""

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from benchmarks.claim import Claim, Goal, Setting, goal_at_most, random_ids, run_script, table
from benchmarks.peers import start_sides

__all__ = ["measure"]

_INPUT = 64  # tokens
_LIMIT = 1.7
_TRIES = 15


def measure(setting: Setting) -> Claim:
    """On each shape: bandwidth and products first, then requests."""
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    raw: dict[str, object] = {}
    effort = setting.effort
    for shape in setting.shapes:
        sides, _ = start_sides(["edgept"], setting.files(shape), setting.threads, setting.say)
        setting.say(f"ceilings of {shape}")
        with sides["edgept"] as side:
            found = side.call("ceilings", _INPUT, _INPUT + effort.new_tokens // 2)
            read = read_bandwidth(int(found["token_bytes"]), setting.threads)
            answers = [
                side.ask(random_ids(_INPUT, number + 99), None, effort.new_tokens)
                for number in range(effort.rounds)
            ]
        best = max(read, found["read_bytes_per_s"])
        tpot = median(answer.tpot_ms for answer in answers)
        ttft = median(answer.ttft_ms for answer in answers)
        ceiling = found["token_bytes"] / best * 1e3
        operations = found["prefill_operations"] / ttft * 1e3
        rows.append(
            (
                shape,
                f"{found['token_bytes'] / 1e6:.0f}",
                f"{best / 1e9:.1f}",
                f"{ceiling:.2f}",
                f"{tpot:.2f}",
                f"{tpot / ceiling:.2f}",
                f"{found['operations_per_s'] / 1e9:.0f}",
                f"{operations / 1e9:.0f}",
            )
        )
        raw[shape] = {**found, "read": read, "tpot_ms": tpot, "ttft_ms": ttft}
        what = f"time per output token, {shape}, over the memory-read ceiling"
        why = "the product is held up by unpacking 4-bit weights, not by memory (NOTES.md)"
        goals.append(goal_at_most(what, _LIMIT, tpot / ceiling, "times", why))
    header = (
        *("", "MB read per token", "memory read, GB/s", "ceiling, ms per token"),
        *("measured, ms", "times the ceiling", "float32 products, GFLOP/s", "in prefill"),
    )
    about = (
        "Memory read is the best of several passes over as many bytes as a token reads (weights, keys "
        f"and values), {setting.threads} threads; products are onnxruntime's of 1,024 by 1,024. int4 "
        "prefill multiplies in 8-bit integers, so float32's throughput is no limit to it."
    )
    return Claim("Ceilings", about, table(header, rows), goals, raw=raw)


def read_bandwidth(size: int, threads: int) -> float:
    """Bytes per second that all threads read together, of a buffer of that size, at best.

    libc's memchr looks through memory with the widest loads there are, and ctypes lets the other
    threads run meanwhile. The same buffer is read again, as weights are: what caches keep of it counts.
    """
    memchr = ctypes.CDLL(None).memchr
    memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    memchr.restype = ctypes.c_void_p
    part = size // threads
    buffers = [ctypes.create_string_buffer(b"\1" * part, part) for _ in range(threads)]

    def read(buffer: "ctypes.Array[ctypes.c_char]") -> None:
        if memchr(buffer, 0, part) is not None:
            raise AssertionError("there is no zero in it")

    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_TRIES):
            begin = time.perf_counter()
            list(pool.map(read, buffers))
            best = min(best, time.perf_counter() - begin)
    return part * threads / best


if __name__ == "__main__":
    run_script(measure, __doc__)
