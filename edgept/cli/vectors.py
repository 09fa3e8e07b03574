"""Vectors that `edgept run --npy` writes."""

import io
from pathlib import Path
from typing import Any

import click

__all__ = ["write_vectors"]


def write_vectors(path: Path, vectors: list[Any], *, force: bool) -> None:
    """Write a .npy file of float32 (requests · prompts, hidden), or (pictures · prompts, head_size)."""
    import numpy as np

    from edgept.atomic import write_bytes

    if not vectors:
        raise click.UsageError("there is no text to make a vector of.")
    found = next(len(vector.vector) for vector in vectors if vector is not None)
    # a picture that could not be read keeps its row, so that row i is of picture i
    lacking = np.full(found, np.nan, np.float32)
    array = np.array([lacking if vector is None else vector for vector in vectors], np.float32)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue(), overwrite=force)
    click.echo(f"{path}: {' x '.join(map(str, array.shape))} float32", err=True)
