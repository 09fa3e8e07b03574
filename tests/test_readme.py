"""What the README and the pages tell a reader to type is what the command line takes."""

import re
import shlex
from pathlib import Path

import click
import pytest

from edgept.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    *(ROOT / "edgept" / name for name in ("prompt_file.md", "peft_quirks.md")),
]


def commands() -> list[str]:
    found: list[str] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
            found += [line for line in block.splitlines() if line.startswith("edgept ")]
        found += re.findall(r"`(edgept [^`]+)`", text)
    return sorted(set(found))


def test_there_are_commands() -> None:
    assert any(line.startswith("edgept export ") for line in commands())
    assert any(line.startswith("edgept run ") for line in commands())


@pytest.mark.parametrize("line", commands())
def test_command_is_understood(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group) and words:
        name, *words = words
        if "|" in name:  # edgept prompt pack|inspect|export
            return
        chosen = command.get_command(context, name)
        assert chosen is not None, f"{line}: no command {name}"
        command = chosen
    known = {option for item in command.params for option in item.opts}
    for word in words:
        if word.startswith("-") and word != "-":
            assert word.partition("=")[0] in known, f"{line}: no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
