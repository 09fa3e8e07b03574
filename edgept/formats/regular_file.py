"""Open a file that a stranger may have put there: a regular file of a bounded size, or nothing."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader

from edgept.errors import InvalidFileError, UsageError
from edgept.formats.reason import Reason

__all__ = ["open_regular"]


@contextmanager
def open_regular(
    path: str | os.PathLike[str],
    *,
    max_bytes: int,
    min_bytes: int = 0,
    follow_links: bool = False,
) -> Iterator[tuple[BufferedReader, int]]:
    """Open a regular file for reading, once, and give the stream and its size in bytes.

    Everything is asked of the open file, not of the path, so nobody can swap it in between.

    Args:
        path: the file.
        max_bytes: the largest size to accept.
        min_bytes: the smallest.
        follow_links: whether the path's last component may be a symbolic link.

    Raises:
        UsageError: there is no such file, or it may not be read.
        InvalidFileError: it is a link, not a regular file, too small or too large.
    """
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    if not follow_links:
        flags |= os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags)
    except ValueError as error:  # a NUL in the path
        raise UsageError(f"{str(path)!r} is not a path: {error}. Check the argument.") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidFileError(
                Reason.FILE_IS_LINK,
                f"{path} is a symbolic link; a regular file is expected. Give the file it points to.",
            ) from error
        if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket, a device without a driver
            raise _not_regular(path) from error
        raise UsageError(f"cannot read {path}: {error.strerror}. Check the path.") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _not_regular(path)
        stream = os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
    with stream:
        size = status.st_size
        if size < min_bytes:
            raise InvalidFileError(
                Reason.FILE_TOO_SMALL,
                f"{path} has {size} bytes, the smallest such file has {min_bytes}. It was probably "
                "cut short: copy it again.",
            )
        if size > max_bytes:
            raise InvalidFileError(
                Reason.FILE_TOO_LARGE,
                f"{path} has {size} bytes, the limit is {max_bytes}. Is it a whole model instead of "
                "a prompt?",
            )
        yield stream, size


def _not_regular(path: str | os.PathLike[str]) -> InvalidFileError:
    return InvalidFileError(
        Reason.FILE_NOT_REGULAR,
        f"{path} is a folder, pipe, socket or device; a regular file is expected. Check the path.",
    )
