"""How a text's vector is made of its tokens', as sentence-transformers writes it beside a model."""

import json
from pathlib import Path
from typing import Any

from edgept.errors import ExportError

__all__ = ["read_pooling"]

# By the name in its configuration; mean and cls are run, the others are known and refused.
_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def read_pooling(folder: Path) -> tuple[str, bool]:
    """Read modules.json and the configuration of its pooling.

    Args:
        folder: of the transformers model.

    Returns:
        "mean" or "cls", and whether the vector is scaled to length one. A mean that is not scaled
        where the folder says nothing.

    Raises:
        ExportError: the vector is made in a way that is not run.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return "mean", False
    pooling, normalize = "mean", False
    for module in _read(path):
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Normalize":
            normalize = True
        elif kind == "Pooling":
            pooling = _read_mode(folder / str(module.get("path", "")) / "config.json")
        elif kind != "Transformer":
            raise ExportError(
                f"{path} has a module {kind!r} behind the model; this version makes vectors by pooling "
                "and normalising alone. Remove it from modules.json if vectors without it are wanted."
            )
    return pooling, normalize


def _read_mode(path: Path) -> str:
    config = _read(path)
    chosen = config.get("pooling_mode")  # newer files name it, older ones have a switch for each
    modes = [str(chosen)] if chosen else [mode for key, mode in _MODES.items() if config.get(key)]
    if modes not in (["mean"], ["cls"]):
        raise ExportError(
            f"{path} pools by {' and '.join(modes) or 'nothing'}; this version pools by mean or by cls. "
            "Give another model, or change the file if one of these is wanted."
        )
    return modes[0]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{path} cannot be read: {error}. Copy the model's folder again, with its subfolders."
        ) from error
