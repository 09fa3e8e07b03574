"""Ask a model that reads, request by request or many at a time, and say what it finds."""

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from edgept.cli.findings import find, lines, to_json, warning
from edgept.errors import UsageError

if TYPE_CHECKING:
    from edgept.runtime.content import Content, LoadedPrompt
    from edgept.runtime.model import Model

__all__ = ["read"]


def read(
    model: "Model",
    requests: Iterator[tuple[object, "Content"]],
    prompts: Sequence[tuple[str, "LoadedPrompt | None"]],
    options: dict[str, Any],
    size: int,
    *,
    as_json: bool,
    quiet: bool,
) -> list[Any]:
    """Ask and say what is found, `size` requests at a time.

    Returns:
        All findings of a quiet run, which says nothing on stdout; else none.
    """
    kept: list[Any] = []
    for shown, name, finding in _found(model, requests, prompts, options, size):
        cut = warning(finding)
        if cut is not None:
            click.echo(cut, err=True)
        if quiet:
            kept.append(finding)
        if as_json:
            click.echo(to_json(shown, finding))
        elif not quiet:
            for line in lines(finding):
                if len(prompts) > 1:
                    click.secho(f"{name}: ", bold=True, nl=False)
                click.echo(line)
            click.secho(f"[{finding.latency}]", dim=True, err=True)
    return kept


def _found(
    model: "Model",
    requests: Iterator[tuple[object, "Content"]],
    prompts: Sequence[tuple[str, "LoadedPrompt | None"]],
    options: dict[str, Any],
    size: int,
) -> Iterator[tuple[object, str, Any]]:
    """What is found, request by request under each prompt: the request as given, prompt's name, finding."""
    while batch := [*itertools.islice(requests, size)]:
        asked = [(shown, content, *prompt) for shown, content in batch for prompt in prompts]
        try:
            found = find(model, [(content, prompt) for _, content, _, prompt in asked], options)
        except UsageError:
            # one cannot be read; those in front of it are said, as if each had been asked alone
            for shown, content, name, prompt in asked:
                yield shown, name, find(model, [(content, prompt)], options)[0]
            continue
        for (shown, _, name, _), finding in zip(asked, found, strict=True):
            yield shown, name, finding
