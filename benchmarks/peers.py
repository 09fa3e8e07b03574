"""Each side of a comparison in a process of its own, which works only while it is asked to.

Two runtimes in one process would share or fight over the cores with their thread pools, and one that
spins while the other works slows it down. So every side waits for a line, answers with a line, and
the sides take turns.

`python -m benchmarks.peers NAME FOLDER THREADS` is such a side; with `--prepare` in place of THREADS it
makes what the side reads, so that a measured process has never imported an exporter.
"""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from benchmarks.files import Files
from benchmarks.runtimes import RUNTIMES, Answer

__all__ = [
    "Missing",
    "Side",
    "close_all",
    "interleave",
    "load_tasks",
    "prepare",
    "prepared_mark",
    "resident_bytes",
    "start_sides",
]

_ROOT = Path(__file__).parents[1]
T = TypeVar("T")

_GOAL_SIDES = ("edgept", "genai", "llama-q4")
_QUIET_S = 0.05  # thread pools spin for some milliseconds after their last work


class Missing(Exception):  # noqa: N818 - it is a finding, not an error
    """A side cannot run here; its text says why."""


class Side:
    """A running side. Use it in a `with` block.

    Attributes:
        name: a key of RUNTIMES.
        load_ms: that its model took to load, imports not counted.
        start_ms: from the start of its process to here.
    """

    def __init__(self, name: str, files: Files, threads: int) -> None:
        self.name = name
        began = time.perf_counter()
        self._process = _start(name, files, str(threads))
        self.load_ms: float = self._receive()
        self.start_ms = (time.perf_counter() - began) * 1e3

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the runtime and wait for what it returns.

        Raises:
            Missing: the side failed.
        """
        if self._process.stdin is None:
            raise AssertionError("it is a pipe")
        try:
            self._process.stdin.write(json.dumps([method, *arguments]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died; _receive says of what
        return self._receive()

    def ask(self, ids: list[int], task: int | None, new_tokens: int) -> Answer:
        """One request, see `benchmarks.runtimes`."""
        return Answer(**self.call("ask", ids, task, new_tokens))

    def close(self) -> None:
        """End the process."""
        with self._process as process:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    def _receive(self) -> Any:
        if self._process.stdout is None:
            raise AssertionError("it is a pipe")
        line = self._process.stdout.readline()
        if line:
            answer = json.loads(line)
            if "error" not in answer:
                return answer["result"]
            why = answer["error"]
        else:
            code = self._process.wait()
            why = (
                f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            )
        self.close()
        raise Missing(why)


def _start(name: str, files: Files, mode: str) -> "subprocess.Popen[str]":
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers", name, str(files.folder), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false"},
    )


def prepare(name: str, files: Files) -> None:
    """Make what a side reads, in a process of its own.

    Raises:
        Missing: it cannot be made here.
    """
    if prepared_mark(name, files).is_file():
        return
    files.folder.mkdir(parents=True, exist_ok=True)
    with _start(name, files, "--prepare") as process:
        said = (process.communicate()[0].splitlines() or ['{"error": "ended without a word"}'])[-1]
    if "error" in json.loads(said):
        raise Missing(json.loads(said)["error"])
    prepared_mark(name, files).touch()


def prepared_mark(name: str, files: Files) -> Path:
    """The file whose presence says that a side has all that it reads."""
    return files.folder / f".prepared-{RUNTIMES[name].module}"


def start_sides(
    names: list[str], files: Files, threads: int, say: Callable[[str], None]
) -> tuple[dict[str, Side], dict[str, str]]:
    """Prepare and start sides; those that cannot run here are returned with the reason.

    Returns:
        The running ones and the missing ones, by name.

    Raises:
        Missing: it is edgept itself.
    """
    sides: dict[str, Side] = {}
    missing: dict[str, str] = {}
    for name in names:
        say(f"starting {RUNTIMES[name].title}")
        try:
            prepare(name, files)
            side = Side(name, files, threads)
            # some load, and then end with an illegal instruction at their first product
            side.ask([3, 4, 5], None, 2)
            sides[name] = side
        except Missing as why:
            missing[name] = str(why)
            if name == "edgept":
                close_all(sides)
                raise
    return sides, missing


def close_all(sides: Mapping[str, Side]) -> None:
    """End all processes."""
    for side in sides.values():
        side.close()


def load_tasks(sides: dict[str, Side], count: int, missing: dict[str, str]) -> None:
    """Make tasks resident on every side; one that fails is moved to the missing ones.

    Raises:
        Missing: it is edgept itself.
    """
    for name in list(sides):
        try:
            sides[name].call("load_tasks", count)
        except Missing as why:
            del sides[name]
            _lose(name, why, missing)


def interleave(
    rounds: int,
    sides: Mapping[str, Callable[[int], T]],
    missing: dict[str, str],
    *,
    every: int = 1,
    often: Sequence[str] = _GOAL_SIDES,
    warm_up: int = 2,
) -> dict[str, dict[int, T]]:
    """Run every side once a round, each time in another order; none follows itself.

    Args:
        rounds: that are kept.
        sides: each is called with the number of its round.
        missing: told of a side that fails midway, which leaves nothing in the results.
        every: all sides but `often` take part in every so many rounds only, and in one of the warm-up.
        often: those that take part in all.
        warm_up: rounds before them.

    Returns:
        For each side its results by round.

    Raises:
        Missing: edgept itself failed.
    """
    results: dict[str, dict[int, T]] = {name: {} for name in sides}
    last = ""
    for number in range(-warm_up, rounds):
        order = [name for name in results if name in often or number == -1 or number % every == 0]
        if not order:
            continue
        turn = (number + warm_up) // 2 % len(order)
        order = (order[turn:] + order[:turn])[:: 1 if number % 2 else -1]
        if order[0] == last:
            order = [*order[1:], last]
        for name in order:
            time.sleep(_QUIET_S)
            try:
                result = sides[name](number)
            except Missing as why:
                del results[name]
                _lose(name, why, missing)
                continue
            last = name
            if number >= 0:
                results[name][number] = result
    return results


def _lose(name: str, why: Missing, missing: dict[str, str]) -> None:
    missing[name] = str(why)
    if name == "edgept":
        raise why


def resident_bytes(field: str) -> int:
    """Memory of this process: VmRSS is now, VmHWM the most it has been."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    match = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    if match is None:
        raise OSError(f"/proc/self/status has no {field}")
    return int(match[1]) * 1024


def _main() -> None:
    name, folder, mode = sys.argv[1:]
    runtime, files = RUNTIMES[name], Files(Path(folder))
    # what native libraries print goes to stderr; the pipe is for answers alone
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        if mode == "--prepare":
            runtime.prepare(files)
            send(result=None)
            return
        served = runtime.start(files, int(mode))
        send(result=served.load_ms)
        for line in sys.stdin:
            method, *arguments = json.loads(line)
            if method == "memory":
                result: Any = resident_bytes(*arguments)
            else:
                found = getattr(served, method)
                result = found(*arguments) if callable(found) else found
            send(result=dataclasses.asdict(result) if isinstance(result, Answer) else result)
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is what it is missing for
        send(error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


if __name__ == "__main__":
    _main()
