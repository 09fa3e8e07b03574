"""Time from the start of a process to its first answer."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import edgept
from edgept.errors import EdgeptError

__all__ = ["start_to_first_answer"]

_TIMEOUT_S = 600


def start_to_first_answer(
    bundle: Path,
    prompt: str,
    message: Mapping[str, object],
    threads: int | None,
    providers: Sequence[str] | None,
) -> tuple[float, int]:
    """Start a Python process that answers one request; the system's file cache is warm.

    Args:
        bundle: its folder.
        prompt: path of the prompt file.
        message: what is asked: the content of a text, or the path of a picture.
        threads: as in `edgept.load`.
        providers: as in `edgept.load`.

    Returns:
        Milliseconds from before the process is made to its first token on a pipe, and that token's id;
        of a picture, to its result, and what `edgept.bench.sightings.first_number` says of it.

    Raises:
        EdgeptError: the process failed; the message is its own.
    """
    request = {
        "bundle": str(bundle),
        "prompt": prompt,
        **message,
        "threads": threads,
        "providers": providers and list(providers),
    }
    # -P: nothing is imported from the folder that the user happens to be in
    command = [sys.executable, "-P", "-m", "edgept.bench.first_answer"]
    own_copy = str(Path(edgept.__file__).parents[1])
    paths = [own_copy, *filter(None, [os.environ.get("PYTHONPATH")])]
    began = time.perf_counter_ns()
    with subprocess.Popen(  # noqa: S603 - this interpreter, with fixed arguments
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    ) as process:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise AssertionError("all three are pipes")
        try:
            process.stdin.write(json.dumps(request))
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has died; what it says stands below
        line = process.stdout.readline()
        ended = time.perf_counter_ns()
        said = process.stderr.read(1 << 16)
        try:
            process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
    if not line.strip().isdecimal():
        last = (said.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise EdgeptError(
            f"a process of its own did not come to its first answer: {last}. "
            "Run 'edgept run' on the bundle to see why."
        )
    return (ended - began) / 1e6, int(line)
