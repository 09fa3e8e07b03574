"""Write a file or a folder so that a reader, or a power cut, finds the old one or the new one whole."""

# ruff: noqa: PTH112, PTH113, PTH114  # unlike Path's, these answer False for a path that cannot be examined

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgept.errors import UsageError

__all__ = ["atomic_folder", "write_bytes"]


def write_bytes(path: str | os.PathLike[str], data: bytes, *, overwrite: bool = False) -> None:
    """Write a file through a temporary one beside it, flushed to the disk before it is renamed.

    Raises:
        UsageError: the file exists and may not be replaced, or the folder cannot be written.
    """
    target = Path(path)
    if os.path.isdir(target):
        raise UsageError(f"{target} is a folder, a file name is expected. Add one.")
    if not overwrite and os.path.lexists(target):
        raise _exists(target)
    temporary = _beside(target)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _flush_folder(target.parent)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        with suppress(OSError):  # gone after the rename, never there if it could not be made
            temporary.unlink()


@contextmanager
def atomic_folder(
    path: str | os.PathLike[str], *, marker: str, overwrite: bool = False
) -> Iterator[Path]:
    """Fill a new folder that takes its name only when the block ends without an error.

    Args:
        path: the folder's final name.
        marker: name of the file by which a folder of this kind is known ("edgept.json"). An existing
            folder without it is never replaced, `overwrite` or not: it may be somebody's home.
        overwrite: whether an existing folder may be replaced.

    Yields:
        An empty temporary folder beside the final one.

    Raises:
        UsageError: something else is there, or the folder cannot be written.
    """
    target = Path(path)
    _check_replaceable(target, marker, overwrite=overwrite)
    temporary, old = _beside(target), _beside(target)
    try:
        temporary.mkdir()
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        yield temporary
        try:
            _flush_tree(temporary)
            _check_replaceable(target, marker, overwrite=overwrite)
            if os.path.isdir(target):
                target.rename(old)
            temporary.rename(target)
            _flush_folder(target.parent)
        except OSError as error:
            raise _cannot_write(target, error) from error
    finally:
        if os.path.lexists(old) and not os.path.lexists(target):
            old.rename(target)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(target: Path, marker: str, *, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if os.path.islink(target) or not os.path.isdir(target):
        raise UsageError(f"{target} is no folder. Choose another name, or remove it.")
    try:
        is_empty = next(target.iterdir(), None) is None
    except OSError as error:
        raise _cannot_write(target, error) from error
    if is_empty:
        return
    if not overwrite:
        raise _exists(target)
    if not os.path.isfile(target / marker):
        raise UsageError(
            f"{target} is a folder without {marker}, so it is not replaced. Choose another name, or "
            "remove it yourself."
        )


def _beside(target: Path) -> Path:
    # The same folder, so that the rename stays within one file system.
    return target.absolute().with_name(f".{target.absolute().name}.{secrets.token_hex(6)}.tmp")


def _flush_tree(folder: Path) -> None:
    for entry in sorted(folder.rglob("*")):
        if entry.is_file():
            with entry.open("rb") as file:
                os.fsync(file.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exists(target: Path) -> UsageError:
    return UsageError(f"{target} exists already. Choose another name, or replace it with --force.")


def _cannot_write(target: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot write {target}: {error.strerror or error}. Check the folder and the free space."
    )
