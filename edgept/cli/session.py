"""The interactive session of `edgept run`: type a request or a picture's path, swap the prompt, go on."""

import io
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from edgept.cli.answer import show, warn_of_other_base
from edgept.errors import EdgeptError

if TYPE_CHECKING:
    from edgept.runtime.content import Content, LoadedPrompt
    from edgept.runtime.model import Model

__all__ = ["converse"]

_HELP = """/prompt NAME   swap to a loaded prompt; /prompt FILE loads one first
/prompt none   the plain model
/prompts       the loaded ones
/quit          leave, as does Ctrl-D; Ctrl-C ends an answer"""


def converse(
    model: "Model",
    prompts: dict[str, "LoadedPrompt"],
    content: Callable[[str], "Content"],
    options: Mapping[str, Any],
) -> None:
    """Read requests from the terminal until it ends.

    Args:
        model: that answers.
        prompts: loaded ones by name; the first is active. Prompts loaded here are added.
        content: from a typed line to a request.
        options: of the task's call, such as `Model.stream`.
    """
    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() its history and editing
    if isinstance(sys.stdin, io.TextIOWrapper):  # a terminal may send what is not its encoding
        sys.stdin.reconfigure(errors="replace")
    active = next(iter(prompts), None)
    asks = " Type the path of a picture;" if model.manifest.image is not None else ""
    click.echo(
        f"{model.manifest.source}, {model.manifest.precision}.{asks} /help for commands.", err=True
    )
    while True:
        try:
            line = _ask(f"{active or 'no prompt'}> ").strip()
        except EOFError:
            click.echo(err=True)
            return
        except KeyboardInterrupt:
            click.echo("\n/quit to leave", err=True)
            continue
        if not line:
            continue
        command, _, argument = line.partition(" ")
        try:
            if command == "/quit":
                return
            if command == "/help":
                click.echo(_HELP)
            elif command == "/prompts":
                for name, prompt in prompts.items():
                    mark = "*" if name == active else " "
                    click.echo(f"{mark} {name}  {prompt.num_virtual_tokens} virtual tokens")
            elif command == "/prompt":
                active = _swap(model, prompts, argument.strip(), active)
            elif command.startswith("/") and model.manifest.image is None:  # a path begins so, too
                click.echo(f"no command {command}\n{_HELP}", err=True)
            else:
                show(model, content(line), prompts[active] if active is not None else None, options)
        except KeyboardInterrupt:
            click.echo(" (cancelled)", err=True)
        except EdgeptError as error:
            click.echo(f"error: {error}", err=True)


def _ask(prompt: str) -> str:
    """Read a line; stdout holds answers alone where it is no terminal."""
    if sys.stdout is not None and sys.stdout.isatty():
        return input(prompt)
    click.echo(prompt, nl=False, err=True)
    return input()


def _swap(
    model: "Model", prompts: dict[str, "LoadedPrompt"], wanted: str, active: str | None
) -> str | None:
    if not wanted:
        click.echo(f"active: {active or 'none'}; loaded: {', '.join(prompts) or 'none'}")
        return active
    if wanted == "none":
        return None
    if wanted not in prompts:
        prompt = model.load_prompt(wanted)
        warn_of_other_base(prompt.prompt, model.manifest)
        prompts[prompt.name] = prompt
        return prompt.name
    return wanted
