"""What is being done, on stderr, while it is being done."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["steps"]


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Show the current step with its seconds, and leave a line for each that is done.

    It keeps a copy of stderr's descriptor: while an exporter runs, stderr itself goes to a log.

    Yields:
        A function to call with the next step's name.
    """
    from rich.console import Console

    with os.fdopen(os.dup(2), "w", encoding="utf-8") as stderr:
        console = Console(file=stderr, highlight=False)
        current: list[str] = []
        began = [0.0]

        def close() -> None:
            if current:
                seconds = time.monotonic() - began[0]
                console.print(f"  {current.pop()} [dim]{seconds:.1f} s[/dim]", soft_wrap=True)

        with console.status("starting") as status:

            def begin(step: str) -> None:
                close()
                current.append(step)
                began[0] = time.monotonic()
                status.update(step)

            yield begin
            close()
