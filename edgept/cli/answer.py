"""An answer on the screen: text to stdout as it comes, latency to stderr."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgept.runtime.content import Content, LoadedPrompt
    from edgept.runtime.model import Model

__all__ = ["show"]


def show(
    model: "Model", content: "Content", prompt: "LoadedPrompt | None", options: Mapping[str, Any]
) -> None:
    """Stream an answer to stdout and its latency to stderr. Ctrl-C ends the answer, not the program."""
    with model.stream(content, prompt=prompt, **options) as stream:
        try:
            for piece in stream:
                click.echo(piece, nl=False)
        except KeyboardInterrupt:
            stream.close()
            click.echo(" (cancelled)", nl=False, err=True)
    click.echo()
    if stream.result is not None:
        note = " · sequence full" if stream.result.finish_reason == "full" else ""
        click.secho(f"[{stream.result.latency}{note}]", dim=True, err=True)
