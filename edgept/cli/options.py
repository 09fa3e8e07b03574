"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["bundle_option", "json_option"]

_F = TypeVar("_F", bound=Callable[..., Any])


def bundle_option(function: _F) -> _F:
    """`-b/--bundle`, whose default is resolved by `edgept.bundle.find_bundle`."""
    return click.option(
        "-b",
        "--bundle",
        type=click.Path(path_type=Path),
        help="Folder made by 'edgept export'. [default: $EDGEPT_BUNDLE, then ./bundle]",
    )(function)


def json_option(function: _F) -> _F:
    """`--json`, results as JSON on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(
        function
    )
