"""Which modules keep float weights in a quantised bundle, and which products of a graph are theirs.

Users name modules as PyTorch's `named_modules` does. torch.onnx writes at every node which modules it came
from, by their names in the traced module; `tracing.trace` keeps those modules beside the graph.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import onnx_ir as ir
from torch import nn
from transformers.pytorch_utils import Conv1D

from edgept.errors import ExportError, UsageError
from edgept.export.heads import find_layers
from edgept.export.weights import WeightFormat

__all__ = [
    "TRACED_MODULES",
    "check_exclusions",
    "check_head",
    "head_module",
    "match_modules",
    "products_of_modules",
]

# In the graph's meta: the traced module's modules by name. It is in memory only, and not saved.
TRACED_MODULES = "edgept.traced_modules"
_SCOPES = "pkg.torch.onnx.name_scopes"
_SHOWN = 12


def match_modules(model: Any, patterns: Sequence[str]) -> dict[str, list[str]]:
    """Linear layers by the pattern that names them.

    Args:
        model: a transformers model.
        patterns: globs, as `fnmatch` reads them (`*` goes over dots, too), of a layer's name or of the
            name of a module that it is in.

    Raises:
        UsageError: a pattern names none.
    """
    names = _linear_names(model)
    found = {}
    for pattern in patterns:
        found[pattern] = [name for name in names if _matches(name, pattern)]
        if not found[pattern]:
            raise UsageError(_nothing(model, pattern, names))
    return found


def check_exclusions(model: Any, weights: WeightFormat) -> None:
    """Refuse modules to exclude that are not there, or that get a precision of their own.

    Raises:
        UsageError: with the reason.
    """
    for pattern, names in match_modules(model, weights.exclude_modules).items():
        if weights.head_precision is not None and head_module(model) in names:
            raise UsageError(
                f"--exclude-modules {pattern!r} keeps the head's float weights, and --head-precision makes "
                f"them {weights.head_precision}. Leave one of the two out."
            )


def check_head(graphs: Sequence[ir.Model], weights: WeightFormat) -> None:
    """Make sure that the head has the precision that was asked for.

    Raises:
        ExportError: no graph has such a head.
    """
    if weights.head_precision is None:
        return
    nodes = [node for graph in graphs for node in graph.graph if node.op_type == "MatMulNBits"]
    if not any(node.attributes["bits"].as_int() == 8 for node in nodes):
        raise ExportError(
            "the head's product is not in the graph by its name, so it did not become int8. Leave "
            "--head-precision out, and please report this model's config.json."
        )


def head_module(model: Any) -> str:
    """Name of the layer that gives a language model's logits, "lm_head".

    Raises:
        ExportError: there is none.
    """
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if module is head:
            return str(name)
    raise ExportError(
        f"{type(model).__name__} has no layer of its own that gives the logits, so its precision cannot "
        "be chosen. Leave --head-precision out."
    )


def products_of_modules(graph: ir.Model, model: Any) -> dict[str, str]:
    """Products of a graph with a linear layer's weight.

    Args:
        graph: of `tracing.trace`.
        model: that was traced, whole or in parts.

    Returns:
        The layer's name in the model by the node's name.
    """
    traced: Mapping[str, nn.Module] = graph.meta[TRACED_MODULES]
    names = {id(module): name for name, module in model.named_modules()}
    found = {}
    for node in graph.graph:
        if node.op_type not in ("MatMul", "Gemm") or node.name is None:
            continue
        for scope in ast.literal_eval(node.metadata_props.get(_SCOPES, "[]")):
            module = traced.get(scope)
            if isinstance(module, (nn.Linear, Conv1D)):
                found[node.name] = names[id(module)]
    return found


def _linear_names(model: Any) -> list[str]:
    """Layers that quantisation reaches: not a task's head, which is an input of the graph."""
    heads = find_layers(model)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and name not in heads
    ]


def _matches(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _nothing(model: Any, pattern: str, names: Sequence[str]) -> str:
    if pattern in find_layers(model):
        return (
            f"--exclude-modules {pattern!r} names the model's head, which is an input of the graph and "
            "float in every precision. Leave it out."
        )
    kinds = list(dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in names))
    more = ", …" if len(kinds) > _SHOWN else ""
    return (
        f"--exclude-modules {pattern!r} names none of the {len(names)} linear layers of "
        f"{type(model).__name__}. They are {', '.join(kinds[:_SHOWN])}{more}."
    )
