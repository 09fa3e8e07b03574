"""Time from the start of a process to its first token."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import edgept
from edgept.errors import EdgeptError
from edgept.runtime.content import Content

__all__ = ["start_to_first_token"]

_TIMEOUT_S = 600


def start_to_first_token(
    bundle: Path,
    prompt: str,
    content: Content,
    threads: int | None,
    providers: Sequence[str] | None,
) -> tuple[float, int]:
    """Start a Python process that answers one request; the system's file cache is warm.

    Returns:
        Milliseconds from before the process is made to its first token on a pipe, and that token's id.

    Raises:
        EdgeptError: the process failed; the message is its own.
    """
    request = {
        "bundle": str(bundle),
        "prompt": prompt,
        "content": content,
        "threads": threads,
        "providers": providers and list(providers),
    }
    # -P: nothing is imported from the folder that the user happens to be in
    command = [sys.executable, "-P", "-m", "edgept.bench.first_token"]
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
            f"a process of its own did not come to its first token: {last}. "
            "Run 'edgept run' on the bundle to see why."
        )
    return (ended - began) / 1e6, int(line)
