"""The C library: what it adds from a program's start to its first request, its memory, its speed beside Python.

    python -m benchmarks.c_runtime [FOLDER] [--quick]

Needs a C compiler and what runtime/c/setup.sh gets. Start and memory are those of runtime/c/test/measure.c, a C
program; times per token are those of both engines in processes of their own, in turn.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from benchmarks.claim import (
    Claim,
    Goal,
    Setting,
    goal_at_most,
    goal_of_ratio,
    paired,
    random_ids,
    run_script,
    say_ratio,
    spread,
    table,
)
from benchmarks.files import Files
from benchmarks.peers import Side, close_all, interleave, prepare, start_sides
from benchmarks.runtimes import Answer
from edgept.bench.ratio import ratio_of_pairs

__all__ = ["measure"]

_ROOT = Path(__file__).parents[1]
_SOURCE = _ROOT / "runtime" / "c"
_REAL = _ROOT.parent / "shared" / "data" / "stories260K"  # where it is at hand
_THREADS = (1, 2)
_INPUT = 16
_STARTS = 20
_READY_MS, _STRIPPED_KB, _TIMES_FILE = 5, 200, 2
_SIZE = (
    "The library is {:.0f} kB stripped. That it allocates nothing for a token is counted by "
    "`make -C runtime/c test` (check allocations)."
)
_FIXED_BYTES = 8192  # what a reader takes whatever the file, and malloc's rounding to pages
_LARGEST = (16 << 20) - 4096  # bytes of a prompt's values: as much as a file may hold


def measure(setting: Setting) -> Claim:
    """Build the library, then start, read and generate."""
    setting.say("building the C library")
    stripped = _build()
    shapes = dict.fromkeys((_REAL.name, setting.small, setting.shapes[0]))
    files = {shape: setting.files(shape) for shape in shapes}
    files = {shape: its for shape, its in files.items() if _is_here(shape, its)}
    goals = [goal_at_most("the library, stripped", _STRIPPED_KB, stripped / 1e3, "kB")]
    starts, speeds, raw = [], [], dict[str, Any](stripped_bytes=stripped)
    for shape, its in files.items():
        prepare("edgept", its)
        setting.say(f"starting on {shape}")
        found = [_run(its.bundle, its.prompts[0]) for _ in range(_starts(setting))]
        raw[f"{shape} starts"] = found
        keys = ("to_main_ms", "session_ms", "run_ms", "own_ms", "start_to_ready_ms")
        starts.append((shape, *(spread([run[key] for run in found]) for key in keys)))
        own = median(run["own_ms"] for run in found)
        goals.append(goal_at_most(f"ready, session apart, {shape}", _READY_MS, own, "ms"))
        for threads in _THREADS:
            row, goal, samples = _speeds(setting, shape, its, threads)
            speeds.append(row)
            goals.append(goal)
            raw[f"{shape} {threads} threads"] = samples
    rows, more, raw["memory"] = _memory(next(iter(files.values())))
    goals += more
    header = ("Model", "to main", "session", "prompt's run", "the rest", "start to ready")
    body = "\n\n".join(
        (
            table(header, starts),
            table(("Prompt file", "bytes", "peak while it is read", "over the file"), rows),
            table(("Model", "threads", "C", "Python", "C over Python"), speeds),
            _SIZE.format(stripped / 1e3),
        )
    )
    about = (
        f"A C program on libedgept opens a bundle, loads a prompt of 20 virtual tokens and creates a session, "
        f"{_starts(setting)} times: milliseconds to main (the system loads onnxruntime's library), in "
        "onnxruntime's CreateEnv and CreateSession, in its Run (the prompt's keys and values, and the check "
        "that it has an effect), and in all else, which is the library's own; 1 thread. The peak is of the "
        "library's own allocations, to the byte. Then milliseconds per token after the first, of "
        f"{_new_tokens(setting)} after {_INPUT} tokens of input, in {setting.effort.rounds} rounds of both "
        "engines in turn. Median (quartiles)."
    )
    return Claim("The C runtime", about, body, goals, raw=raw)


def _starts(setting: Setting) -> int:
    return min(_STARTS, max(setting.effort.starts, 3))


def _new_tokens(setting: Setting) -> int:
    return max(setting.effort.new_tokens, 8)


def _is_here(shape: str, files: Files) -> bool:
    if shape != _REAL.name or files.model.exists():
        return True
    if _REAL.is_dir():
        files.folder.mkdir(parents=True, exist_ok=True)
        files.model.symlink_to(_REAL)
    return _REAL.is_dir()


def _build() -> int:
    """Build library and program; bytes of the library, stripped."""
    command = ["make", "-C", str(_SOURCE), f"PYTHON={sys.executable}"]
    if not (_SOURCE / "build" / "onnxruntime" / "lib" / "libonnxruntime.so").exists():
        subprocess.run(
            [_SOURCE / "setup.sh"], env={**os.environ, "PYTHON": sys.executable}, check=True
        )
    done = subprocess.run(
        [*command, "all", "build/measure", "size"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return (_SOURCE / "build" / "stripped.so").stat().st_size


def _run(bundle: Path, prompt: Path, read: Path | None = None) -> dict[str, float]:
    """One start of the program; `read` is a prompt file that is only read."""
    environment = {**os.environ, "STARTED_NS": str(time.monotonic_ns())}
    command = [str(path) for path in (_SOURCE / "build" / "measure", bundle, prompt, 1)]
    command += [] if read is None else [str(read)]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _memory(files: Files) -> tuple[list[tuple[str, ...]], list[Goal], dict[str, Any]]:
    """Peak memory of reading the prompt, and the largest ones that a reader takes."""
    metadata = {
        "format": "edgept-prompt",
        "format_version": "1",
        "fingerprint": "0" * 64,
        "method": "prompt_tuning",
        "task": "text-generation",
        "name": "large",
    }
    rows, goals, raw = list[tuple[str, ...]](), list[Goal](), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        paths = {"20 virtual tokens, float32": files.prompts[0]}
        for kind in ("float32", "float16"):
            path = Path(folder) / f"{kind}.safetensors"
            count = _LARGEST // np.dtype(kind).itemsize // 64
            save_file({"prompt_embeds": np.zeros((count, 64), kind)}, path, metadata)
            paths[f"the largest, {kind}"] = path
        for name, path in paths.items():
            found = _run(files.bundle, files.prompts[0], path)
            size, peak = found["read_file_bytes"], found["read_peak_bytes"]
            raw[name] = found
            rows.append((name, f"{size}", f"{peak}", f"{peak / size:.3f}"))
            what = f"peak memory over the prompt file, {_FIXED_BYTES // 1024} kB apart, {name}"
            goals.append(goal_at_most(what, _TIMES_FILE, (peak - _FIXED_BYTES) / size, "times"))
    return rows, goals, raw


def _speeds(
    setting: Setting, shape: str, files: Files, threads: int
) -> tuple[tuple[str, ...], Goal, dict[str, list[float]]]:
    sides, missing = start_sides(["edgept", "edgept-c"], files, threads, setting.say)
    if missing:
        raise SystemExit(missing)
    setting.say(f"tokens of {shape}, {threads} threads")

    def asked(side: Side) -> Callable[[int], Answer]:
        return lambda number: side.ask(random_ids(_INPUT, number + 99), None, _new_tokens(setting))

    try:
        for side in sides.values():
            side.call("load_tasks", 1)
        requests = {name: asked(side) for name, side in sides.items()}
        answers = interleave(setting.effort.rounds, requests, missing, often=tuple(sides))
    finally:
        close_all(sides)
    ours, theirs = paired(answers["edgept-c"], answers["edgept"])
    if any(one.token_ids != other.token_ids for one, other in zip(ours, theirs, strict=True)):
        raise AssertionError("the engines' tokens differ")
    pairs = [
        (one.tpot_ms, other.tpot_ms)
        for one, other in zip(ours, theirs, strict=True)
        if len(one.token_ids) > 1
    ]
    in_c, in_python = [list(side) for side in zip(*pairs, strict=True)]
    row = (
        *(shape, str(threads), spread(in_c), spread(in_python)),
        say_ratio(ratio_of_pairs(in_c, in_python)),
    )
    what = f"time per output token, {shape}, {threads} threads, C over Python"
    return row, goal_of_ratio(what, 1.0, in_c, in_python), {"c": in_c, "python": in_python}


if __name__ == "__main__":
    run_script(measure, __doc__)
