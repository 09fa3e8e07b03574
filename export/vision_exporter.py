"""Image models through torch.onnx: the visual prompt, the head and the box are optional inputs of the graph."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from edgept.export import attention_layout
from edgept.export.graph import declare_input
from edgept.export.heads import find_layers
from edgept.export.prompted_vision import PromptedVision
from edgept.export.tracing import GraphInput, trace

__all__ = ["declare_vision_inputs", "export_vision", "own_head", "vision_labels"]

_OPSET = 23  # attention as one operator


def export_vision(model: Any) -> ir.Model:
    """Export an image model.

    Args:
        model: a frozen transformers model of a family in `VISION`; its float type becomes the graph's.

    Returns:
        A model with the inputs pixel_values (batch, 3, height, width), and, optional ones, prompt_embeds
        (layers or 1, batch or 1, virtual tokens, hidden), head.weight (classes, head_size), head.bias
        (classes,), box.weight (4, head_size) and box.bias (4,); and the outputs of `PromptedVision`.
        Weights in memory.

    Raises:
        ExportError: torch cannot trace the model, or fixed a dimension that must be free.
    """
    prompted = PromptedVision(model)
    image, hidden, width = prompted.geometry, prompted.hidden_size, prompted.head_size
    dtype = next(model.parameters()).dtype

    def zeros(*sizes: int) -> torch.Tensor:
        return torch.zeros(sizes, dtype=dtype)

    positions = "num_positions"
    traced = trace(
        prompted,
        [
            GraphInput(
                "pixel_values",
                ("batch_size", 3, image.height, image.width),
                zeros(2, 3, image.height, image.width),
            ),
            # rows of one table in the trace; the graph takes one for each picture as well, see below
            GraphInput(
                "prompt_embeds",
                ("num_tables", 1, "num_virtual_tokens", hidden),
                zeros(image.num_layers, 1, 5, hidden),
            ),
            GraphInput("head.weight", ("num_classes", width), zeros(7, width)),
            GraphInput("head.bias", ("num_classes",), zeros(7)),
            GraphInput("box.weight", (4, width), zeros(4, width)),
            GraphInput("box.bias", (4,), zeros(4)),
        ],
        {
            "logits": ("batch_size", positions, "num_classes"),
            "boxes": ("batch_size", positions, 4),
            "features": ("batch_size", positions, width),
        },
        name=type(model).__name__,
        opset=_OPSET,
    )
    attention_layout.join_heads(traced)
    _free_rows(traced.graph)
    return traced


def declare_vision_inputs(graph: ir.Graph, model: Any, dtype: ir.DataType) -> None:
    """Make all inputs but the picture optional ones: no prompt, the model's own head, no box."""
    inputs = {item.name: item for item in graph.inputs}
    hidden, width = _last_size(inputs["prompt_embeds"]), _last_size(inputs["head.weight"])
    defaults: dict[str, npt.NDArray[Any]] = {
        "prompt_embeds": np.zeros((1, 1, 0, hidden)),
        **own_head(model, width),
        "box.weight": np.zeros((4, width)),
        "box.bias": np.zeros(4),
    }
    for name, default in defaults.items():
        dims = [
            size if isinstance(size, int) else str(size.value) for size in inputs[name].shape or ()
        ]
        declare_input(graph, name, dims, default.astype(dtype.numpy()))


def own_head(model: Any, head_size: int) -> dict[str, npt.NDArray[np.float32]]:
    """A model's own head as the graph takes it; one class of zeros where it has none.

    Of two layers, DeiT's class and distillation token, the mean of their logits: side by side, halved.

    Args:
        model: the transformers model.
        head_size: width of what a head reads, `PromptedVision.head_size`.

    Returns:
        head.weight (classes, head_size) and head.bias (classes,).
    """
    layers = [*find_layers(model).values()]
    if not vision_labels(model):
        return {
            "head.weight": np.zeros((1, head_size), np.float32),
            "head.bias": np.zeros(1, np.float32),
        }
    weight = torch.cat([layer.weight for layer in layers], 1) / len(layers)
    bias = torch.stack([layer.bias for layer in layers]).mean(0)
    return {
        "head.weight": weight.detach().float().numpy(),
        "head.bias": bias.detach().float().numpy(),
    }


def vision_labels(model: Any) -> list[str]:
    """Class names of an image model's own head, in order; empty where it has none, or one of zeros."""
    layers = [*find_layers(model).values()]
    if not layers or layers[0].out_features < 2 or not layers[0].weight.any():
        return []
    names = model.config.id2label
    return [str(names.get(index, f"LABEL_{index}")) for index in range(layers[0].out_features)]


def _last_size(value: ir.Value) -> int:
    """Width of an input, which is not free."""
    return int((value.shape or (0,))[-1])  # type: ignore[arg-type]


def _free_rows(graph: ir.Graph) -> None:
    """Let each picture of a batch have a table of its own.

    All that is done with a table's rows broadcasts, so one table is as good as one for each picture. What
    torch noted of the shapes on the way is forgotten.
    """
    prompt = next(item for item in graph.inputs if item.name == "prompt_embeds")
    shape = list(prompt.shape or ())
    prompt.shape = ir.Shape([shape[0], "num_rows", *shape[2:]])
    outputs = {id(value) for value in graph.outputs}
    for node in graph:
        for value in node.outputs:
            if id(value) not in outputs:
                value.shape = None
