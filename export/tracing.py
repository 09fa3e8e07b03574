"""torch.onnx on a module whose inputs say which of their dimensions are free.

Dimensions are left to the exporter (Dim.AUTO) and attention is scaled-dot-product: with named
dimensions and eager attention a 12-layer GPT-Neo took 460 s, so it takes 30.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import onnx_ir as ir
import torch
from torch import nn

from edgept.errors import ExportError
from edgept.export.kept_modules import TRACED_MODULES

__all__ = ["Dims", "GraphInput", "trace"]

Dims: TypeAlias = Sequence[str | int]
"""A shape: the name of each dimension that is free, the size of each that is not."""


@dataclass(frozen=True)
class GraphInput:
    """An input of the graph.

    Attributes:
        name: in the graph.
        dims: its shape.
        example: a tensor to trace with; free dimensions of another size than 1, where that matters.
    """

    name: str
    dims: Dims
    example: torch.Tensor


def trace(
    module: nn.Module,
    arguments: Sequence[GraphInput | Sequence[GraphInput]],
    outputs: Mapping[str, Dims],
    *,
    name: str,
    opset: int = 20,
) -> ir.Model:
    """Export a module.

    Args:
        module: in evaluation mode.
        arguments: of its forward; one that takes a list of tensors has a list here.
        outputs: names and shapes of what forward returns, in order; a dimension "" keeps its size.
        name: of the model, for errors.
        opset: of the graph; 23 and later have attention as one operator.

    Returns:
        A model with weights in memory.

    Raises:
        ExportError: torch cannot trace the module, or fixed a dimension that must be free.
    """
    flat = [
        item
        for argument in arguments
        for item in ([argument] if isinstance(argument, GraphInput) else argument)
    ]
    try:
        traced = torch.export.export(
            module,
            tuple(_each(argument, lambda item: item.example) for argument in arguments),
            dynamic_shapes=tuple(_each(argument, _free_dims) for argument in arguments),
            strict=False,
        )
        program = torch.onnx.export(
            traced,
            (),
            dynamo=True,
            opset_version=opset,
            verbose=False,
            input_names=[item.name for item in flat],
            output_names=list(outputs),
        )
    except Exception as error:  # torch raises many kinds here, none of them documented
        raise ExportError(
            f"torch could not export {name}: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        ) from error
    if program is None:
        raise ExportError(f"torch.onnx gave no program for {name}.")
    model: ir.Model = program.model
    shapes = {**{item.name: item.dims for item in flat}, **outputs}
    for value in (*model.graph.inputs, *model.graph.outputs):
        _name_dimensions(value, shapes[value.name or ""])
    model.meta[TRACED_MODULES] = dict(module.named_modules(remove_duplicate=False))
    return model


def _each(argument: GraphInput | Sequence[GraphInput], function: Any) -> Any:
    if isinstance(argument, GraphInput):
        return function(argument)
    return [function(item) for item in argument]


def _free_dims(item: GraphInput) -> dict[int, Any]:
    auto = torch.export.Dim.AUTO
    return {axis: auto for axis, dim in enumerate(item.dims) if isinstance(dim, str)}


def _name_dimensions(value: ir.Value, wanted: Dims) -> None:
    """Replace torch's symbols (s43, s70) by names, after checking that each is still free."""
    if value.shape is None:
        return
    dims: list[int | str] = []
    for axis, (label, dim) in enumerate(zip(wanted, value.shape, strict=True)):
        if isinstance(label, str) and label and isinstance(dim, int):
            raise ExportError(
                f"torch fixed dimension {axis} of {value.name} to {dim}; it must be free "
                f"({label}). This model needs support of its own: please report its config.json."
            )
        dims.append(label if label != "" else int(dim))  # type: ignore[arg-type]  # a size, not free
    value.shape = ir.Shape(dims)
