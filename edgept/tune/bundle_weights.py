"""The frozen model with a quantised bundle's weights: a prompt is then tuned against what will run it.

Which matrix of the graph is which parameter is found by value, not by name: exporters rename, transpose,
split and fuse (qkv_proj), and a matrix in 4 bits is still far nearer to its own floats than to any other's.
What is found is checked row by row, and what is not found is an error.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgept.errors import ExportError
from edgept.export.dequantize import QuantizedMatrix, read_quantized

__all__ = ["Replaced", "bundle_weights", "put_weights"]

# Rows of unrelated weights differ by 1.4 of their length, 4-bit ones from their own by 0.1.
_MATRIX_LIMIT, _ROW_LIMIT = 0.5, 1.0
_COMPARED_ROWS, _COMPARED_COLUMNS = 16, 64  # in the search; the check takes all

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Replaced:
    """What was put into the model.

    Attributes:
        matrices: of the bundle that are quantised; all of them were found.
        parameters: names of the model's parameters that now hold them.
        relative_error: of the quantised weights: length of the difference by length, over all.
        largest_error: the same of the matrix that differs most.
    """

    matrices: int
    parameters: tuple[str, ...]
    relative_error: float
    largest_error: float


@dataclass(eq=False)
class _Place:
    """A parameter that a matrix may be.

    Attributes:
        name: in the model.
        module: that has it as its weight.
        rows: (outputs, inputs) as the graph has them, float32; a view where it can be.
        transposed: whether the parameter is (inputs, outputs).
    """

    name: str
    module: Any
    rows: Array
    transposed: bool


@contextmanager
def bundle_weights(model: Any, bundle: str | os.PathLike[str]) -> Iterator[Replaced]:
    """Give the model the bundle's weights, and its own back, however the block ends.

    Args:
        model: the frozen transformers model that the bundle was exported from.
        bundle: folder of a quantised bundle.

    Raises:
        ExportError: a matrix of the bundle is none of the model's, or is not read by this version.
        UntrustedError: a file of the bundle is not the one that was exported.
    """
    modules = dict(model.named_modules())
    before = {
        name: module._parameters["weight"]
        for name, module in modules.items()
        if module._parameters.get("weight") is not None
    }
    try:
        yield put_weights(model, read_quantized(bundle))
    finally:
        for name, weight in before.items():
            modules[name]._parameters["weight"] = weight


def put_weights(model: Any, matrices: Sequence[QuantizedMatrix]) -> Replaced:
    """Put quantised matrices in the places of the parameters that they were made of.

    Args:
        model: the frozen transformers model; tied weights are untied where the graph has two.
        matrices: of its bundle.

    Raises:
        ExportError: a matrix is none of the model's. Nothing is replaced then.
    """
    made: dict[str, tuple[_Place, Array, npt.NDArray[np.bool_]]] = {}
    squares, errors = np.zeros(2), [0.0]
    for is_embedding in (False, True):
        places = _places(model, is_embedding=is_embedding)
        for matrix in matrices:
            if matrix.is_embedding != is_embedding:
                continue
            pieces = _pieces(matrix, places)
            sums = [
                _squares(rows, place.rows[begin : begin + len(rows)])
                for place, begin, rows in pieces
            ]
            squares += np.sum(sums, axis=0)
            errors.append(_error(*np.sum(sums, axis=0)))
            for place, begin, rows in pieces:
                _, values, known = made.setdefault(
                    place.name, (place, place.rows.copy(), np.zeros(len(place.rows), bool))
                )
                part = slice(begin, begin + len(rows))
                columns = rows[:, : values.shape[1]]
                if known[part].any() and not np.array_equal(values[part], columns):
                    raise ExportError(
                        f"{matrix.name} and another matrix of the bundle are both {place.name}, and differ. "
                        "Tune with --weights float, and please report the model's config.json."
                    )
                values[part], known[part] = columns, True
    for place, values, _ in made.values():
        own = place.module._parameters["weight"]
        weight = torch.from_numpy(np.ascontiguousarray(values.T if place.transposed else values))
        place.module._parameters["weight"] = torch.nn.Parameter(
            weight.to(device=own.device, dtype=own.dtype), requires_grad=False
        )
    return Replaced(len(matrices), tuple(sorted(made)), _error(*squares), max(errors))


def _places(model: Any, *, is_embedding: bool) -> list[_Place]:
    """The model's matrices: those that are looked up in, or those that are multiplied by."""
    places = []
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is None or weight.dim() != 2:
            continue
        if isinstance(module, torch.nn.Embedding) != is_embedding:
            continue
        rows = weight.detach().float().cpu().numpy()
        transposed = type(module).__name__ == "Conv1D"  # GPT-2's, (inputs, outputs)
        places.append(_Place(f"{name}.weight", module, rows.T if transposed else rows, transposed))
    return places


def _pieces(matrix: QuantizedMatrix, places: Sequence[_Place]) -> list[tuple[_Place, int, Array]]:
    """The parameters that a matrix is made of: each with the first row that it takes, and its rows.

    Parameters that are equal all take the same rows.

    Raises:
        ExportError: some rows are no parameter's.
    """
    width = matrix.weight.shape[1]
    fitting = [
        place
        for place in places
        # an embedding's rows fill their last block
        if place.rows.shape[1] == width or (matrix.is_embedding and place.rows.shape[1] < width)
    ]
    pieces = []
    begin = 0
    while begin < len(matrix.weight):
        rest = matrix.weight[begin:]
        # whole parameters, one behind another (qkv_proj), or else a part of one (of gate_up_proj)
        found = _beginning(rest, fitting) or _inside(rest, fitting)
        if not found:
            raise _not_found(matrix, begin)
        first, same = found
        rows = rest[: len(same[0].rows) - first]
        if not _resembles(rows, same[0].rows[first : first + len(rows)]):
            raise _not_found(matrix, begin)
        pieces += [(place, first, rows) for place in same]
        begin += len(rows)
    return pieces


def _beginning(rest: Array, places: Sequence[_Place]) -> tuple[int, list[_Place]] | None:
    """The parameters that begin where the rest does, by a few of their rows; all that are equal."""
    best, same = _MATRIX_LIMIT, []
    for place in places:
        count = min(len(place.rows), len(rest))
        chosen = np.linspace(0, count - 1, num=min(count, _COMPARED_ROWS), dtype=int)
        error = _error(*_squares(rest[chosen], place.rows[chosen]))
        if error < best:
            best, same = error, [place]
        elif same and error == best and np.array_equal(place.rows, same[0].rows):
            same.append(place)
    return (0, same) if same else None


def _inside(rest: Array, places: Sequence[_Place]) -> tuple[int, list[_Place]] | None:
    """The parameter whose row resembles the rest's first one most, by its first columns, and which row."""
    best, found = np.inf, None
    for place in places:
        columns = min(_COMPARED_COLUMNS, place.rows.shape[1])
        distances = np.square(place.rows[:, :columns] - rest[0, :columns]).sum(axis=1)
        at = int(distances.argmin())
        if distances[at] < best:
            best, found = float(distances[at]), (at, [place])
    return found


def _resembles(rows: Array, own: Array) -> bool:
    """Whether rows are those of the model but for their quantisation: each by itself, and all together."""
    difference = np.linalg.norm(rows[:, : own.shape[1]] - own, axis=1)  # (rows,)
    lengths = np.linalg.norm(own, axis=1)
    return bool(
        (difference <= _ROW_LIMIT * lengths).all()
        and np.linalg.norm(difference) <= _MATRIX_LIMIT * np.linalg.norm(lengths)
    )


def _squares(rows: Array, own: Array) -> tuple[float, float]:
    """Sums of squares: of the difference from the model's own weights, and of those."""
    difference = rows[:, : own.shape[1]] - own
    return float(np.square(difference).sum()), float(np.square(own).sum())


def _error(difference: float, own: float) -> float:
    if not own:
        return 0.0 if not difference else np.inf
    return float(np.sqrt(difference / own))


def _not_found(matrix: QuantizedMatrix, begin: int) -> ExportError:
    outputs, inputs = matrix.weight.shape
    return ExportError(
        f"{matrix.name} ({outputs} × {inputs}, quantised to {matrix.bits} bits) resembles no weight of the "
        f"model from row {begin} on, so the model cannot be given the bundle's weights. Tune with --weights "
        "float, and please report the model's config.json."
    )
