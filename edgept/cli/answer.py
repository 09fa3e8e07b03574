"""What several commands say: an answer, and a doubt about a prompt."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from edgept.cli.findings import find, lines, warning

if TYPE_CHECKING:
    from edgept.manifest import Manifest
    from edgept.prompt import Prompt
    from edgept.runtime.content import Content, LoadedPrompt
    from edgept.runtime.model import Model

__all__ = ["show", "warn_of_other_base"]


def show(
    model: "Model", content: "Content", prompt: "LoadedPrompt | None", options: Mapping[str, Any]
) -> None:
    """Say what is found in a text, or stream an answer, on stdout; latency on stderr.

    Options are those of the task's call, such as `Model.stream`.
    """
    if model.manifest.task not in ("text-generation", "text2text-generation"):
        found = find(model, [(content, prompt)], options)[0]
        cut = warning(found)
        if cut is not None:
            click.echo(cut, err=True)
        for line in lines(found):
            click.echo(line)
        click.secho(f"[{found.latency}]", dim=True, err=True)
        return
    with model.stream(content, prompt=prompt, **options) as stream:
        for piece in stream:
            click.echo(piece, nl=False)
    click.echo()
    if stream.result is not None:
        note = " · sequence full" if stream.result.finish_reason == "full" else ""
        click.secho(f"[{stream.result.latency}{note}]", dim=True, err=True)


def warn_of_other_base(prompt: "Prompt", manifest: "Manifest") -> None:
    """Say on stderr that an unbound prompt's training tool named another model than the bundle's."""
    from edgept.prompt import names_other_base

    if names_other_base(prompt, manifest):
        click.echo(
            f"warning: {prompt.name} was trained for {prompt.base_model!r}, the bundle was exported from "
            f"{manifest.source!r}. If these are not the same model, the prompt is meaningless here: use "
            "the bundle of its own model.",
            err=True,
        )
