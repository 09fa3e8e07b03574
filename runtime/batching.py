"""Which requests run together, and the one table that the prompts of all of them share."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgept.runtime.content import Input

__all__ = ["pieces", "shared_table"]

# What is run together, so that the memory of a long batch has a bound: rows, and their positions.
_MAX_ROWS = 16
_MAX_POSITIONS = 16 * 512


def pieces(group: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Requests that are run together: of similar length, so that there is little padding."""
    piece: list[int] = []
    for index in sorted(group, key=lambda index: lengths[index]):
        positions = (len(piece) + 1) * lengths[index]
        if piece and (len(piece) == _MAX_ROWS or positions > _MAX_POSITIONS):
            yield piece
            piece = []
        piece.append(index)
    yield piece


def shared_table(rows: Sequence[Input]) -> tuple[npt.NDArray[Any] | None, list[int]]:
    """The rows of all prompts, (virtual tokens, hidden), each once, and where each request's begin."""
    begins: dict[tuple[int, ...], int] = {}
    tables: list[npt.NDArray[Any]] = []
    firsts: list[int] = []
    end = 0
    for row in rows:
        # one prompt may be a prefix here and stand inside the text there
        key = (id(row.prefix), *map(id, row.prompts))
        if row.table is not None and key not in begins:
            begins[key] = end
            tables.append(row.table)
            end += len(row.table)
        firsts.append(begins.get(key, 0))
    if len(tables) < 2:
        return next(iter(tables), None), firsts
    return np.concatenate(tables), firsts
