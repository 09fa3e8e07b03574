"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgept.tune import Columns

__all__ = ["bundle_option", "data_options", "json_option", "read_columns", "read_labels"]

_COLUMNS = ("input", "output", "text", "label")

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


def data_options(function: _F) -> _F:
    """`--verify-data` and the names of its columns, which `read_columns` collects."""
    for name in reversed(_COLUMNS):
        option = click.option(f"--{name}-column", help=f"Of --verify-data.  [default: {name}]")
        function = option(function)
    return click.option(
        "--verify-data",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Rows as edgept tune takes them, .csv or .jsonl: the accuracy of their labels, or the "
        "perplexity of their answers, in PyTorch and in the bundle.",
    )(function)


def read_columns(options: dict[str, str | None]) -> "Columns | None":
    """The columns that were named, by `data_options`; None where none was."""
    given = {name: options[f"{name}_column"] for name in _COLUMNS if options[f"{name}_column"]}
    if not given:
        return None
    from edgept.tune import Columns

    return Columns(**{name: value for name, value in given.items() if value is not None})


def read_labels(given: str) -> tuple[str, ...]:
    """Names of classes: comma-separated, or @FILE with one a line."""
    names = given.split(",")
    if given.startswith("@"):
        try:
            with open(given[1:], encoding="utf-8") as file:  # noqa: PTH123 - "" is an error, not "."
                names = file.read().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--labels {given}: {error}.") from error
    labels = tuple(name.strip() for name in names)
    if not all(labels) or len(set(labels)) < len(labels) or not labels:
        raise click.UsageError(
            f"--labels {given}: found {len(labels)} names, one of them empty or twice. Give a name of its "
            "own to each class."
        )
    return labels
