"""Keep the exporters' own messages off the screen: they go to a log that an error can name."""

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgept.errors import EdgeptError, ExportError

__all__ = ["logged"]


@contextmanager
def logged() -> Iterator[Path]:
    """Send everything that is written to stdout and stderr, by any library, to a log file.

    File descriptors are redirected, since progress bars and native code do not ask Python. The log
    is removed when the block succeeds; when it fails, the error names it.

    Yields:
        The log's path.

    Raises:
        ExportError: whatever failed inside, with the log's path.
    """
    created, name = tempfile.mkstemp(prefix="edgept-", suffix=".log")
    os.close(created)
    log = Path(name)
    # appending, since a child process that we start writes to the same file
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    try:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # shown in the log, also where they are errors
            yield log
    except EdgeptError as error:
        if log.stat().st_size == 0:
            log.unlink()
            raise
        error.args = (f"{error} Log: {log}",)
        raise
    except Exception as error:
        raise ExportError(
            f"the export stopped with {type(error).__name__}: {error}. Log: {log}"
        ) from error
    except BaseException:
        log.unlink(missing_ok=True)
        raise
    else:
        log.unlink(missing_ok=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for target, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, target)
            os.close(copy)
        os.close(descriptor)
