"""The public surface: what can be imported, that it says what it is, and what `-h` shows."""

import ast
import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest

import edgept
from edgept.cli import main

ROOT = Path(__file__).resolve().parents[1]
# A change here is a change that users see: note it in CHANGELOG.md.
PUBLIC = {
    "edgept": [
        "Answer",
        "Classification",
        "Detection",
        "Detections",
        "EdgeptError",
        "Embedding",
        "Entity",
        "ExportError",
        "Generation",
        "ImageClassification",
        "IncompatibleError",
        "InvalidFileError",
        "Latency",
        "LoadedPrompt",
        "MissingDependencyError",
        "Model",
        "Prompt",
        "Segmentation",
        "Span",
        "Tagging",
        "UntrustedError",
        "UsageError",
        "__version__",
        "load",
        "load_prompt_source",
        "read_prompt",
        "write_prompt",
    ],
    "edgept.cli": ["main"],
    "edgept.export": ["export_model", "verify_bundle"],
    "edgept.runtime": [
        "Answer",
        "Classification",
        "Detection",
        "Detections",
        "Embedding",
        "Entity",
        "GenerateOptions",
        "Generation",
        "GenerationStream",
        "ImageClassification",
        "LoadedPrompt",
        "Model",
        "Sampling",
        "Segmentation",
        "Span",
        "Tagging",
        "load",
    ],
}


def package(name: str) -> ModuleType:
    """A package of ours; edgept.export needs the workstation's dependencies."""
    if name == "edgept.export":
        pytest.importorskip("torch", reason="needs edgept[export]")
    return importlib.import_module(name)


def modules() -> list[Path]:
    """Every module that ships, links not followed; programs are not there to be imported."""
    found = []
    for folder in ("edgept", "export", "runtime"):
        for place, _, names in os.walk(ROOT / folder):
            found += [Path(place) / name for name in names if name.endswith(".py")]
    return sorted(path for path in found if '__name__ == "__main__"' not in path.read_text("utf-8"))


def module_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("name", PUBLIC)
def test_package_exports_what_is_agreed(name: str) -> None:
    assert sorted(package(name).__all__) == sorted(PUBLIC[name])


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_says_what_it_is(name: str) -> None:
    for public in PUBLIC[name]:
        if public != "__version__":
            _check_documented(public, getattr(package(name), public))


def _check_documented(name: str, item: object) -> None:
    """An own docstring, not the signature that a dataclass writes for itself."""
    doc = inspect.getdoc(item) if not inspect.isclass(item) else item.__dict__.get("__doc__")
    assert doc, f"{name} has no docstring"
    assert not doc.startswith(f"{name}("), f"{name} has a generated docstring"
    if not inspect.isclass(item):
        return
    for attribute, member in vars(item).items():
        is_method = inspect.isfunction(member) or isinstance(member, property)
        if is_method and not attribute.startswith("_"):
            assert inspect.getdoc(member), f"{name}.{attribute} has no docstring"


def test_the_package_is_all_that_it_re_exports() -> None:
    """What edgept/__init__.py imports for type checkers is what it loads on first use."""
    for name in edgept.__all__:
        assert getattr(edgept, name) is not None
    tree = ast.parse((ROOT / "edgept" / "__init__.py").read_text("utf-8"))
    imported = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("edgept.")
        for alias in node.names
    }
    homes = {}
    for name in set(edgept.__all__) - {"__version__"}:
        item = getattr(edgept, name)
        homes[name] = f"{item.__module__}.{name}"
    assert set(homes.values()) == imported
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        edgept.lod  # noqa: B018 - looking is the test


@pytest.mark.parametrize("path", modules(), ids=module_id)
def test_module_lists_its_public_functions_and_classes(path: Path) -> None:
    """`__all__` holds no private name, and names that exist; a constant may stay unlisted."""
    body = ast.parse(path.read_text("utf-8")).body
    listed = {name for node in body for name in _listed(node)}
    assert [name for name in listed if name.startswith("_") and name != "__version__"] == []
    defined = {
        node.name
        for node in body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    if path.name != "__init__.py":  # whose lists are above
        assert listed <= defined | {name for node in body for name in _assigned(node)}
    if path.parent.name not in (
        "cli",
        "demo",
    ):  # commands, found by their group, and their own parts
        assert defined <= listed


def _listed(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
        names: list[str] = ast.literal_eval(node.value)
        return names
    return []


def _assigned(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = (name for target in targets for name in ast.walk(target))
        return [name.id for name in names if isinstance(name, ast.Name)]
    return []


def commands() -> Iterator[list[str]]:
    """Every command and subcommand of edgept, as its words."""
    waiting: list[tuple[list[str], click.Command]] = [([], main)]
    while waiting:
        words, command = waiting.pop()
        yield words
        if isinstance(command, click.Group):
            waiting += [([*words, name], sub) for name, sub in command.commands.items()]


def find(words: list[str]) -> click.Command:
    """The command of these words."""
    command: click.Command = main
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    return command


def test_there_are_the_commands_that_the_readme_speaks_of() -> None:
    shown = {" ".join(words) for words in commands()}
    assert shown >= {"", "export", "run", "verify", "doctor"}
    assert shown >= {"prompt", "prompt pack", "prompt inspect", "prompt export"}


@pytest.mark.parametrize("words", list(commands()), ids=lambda words: " ".join(["edgept", *words]))
def test_help_of_every_command(words: list[str]) -> None:
    """As a user asks: in a process of its own, since click keeps a command's first help option."""
    shown = edgept_says(*words, "-h")
    assert shown.startswith(" ".join(["Usage: edgept", *words]))
    command = find(words)
    assert command.help, "a command says what it does"
    assert command.help.split()[0] in shown
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            for spelling in parameter.opts:
                assert spelling in shown
        else:
            assert parameter.make_metavar(click.Context(command)) in shown
    if isinstance(command, click.Group):
        for name in command.commands:
            assert f"\n  {name} " in shown


def edgept_says(*arguments: str) -> str:
    """What a command prints to stdout; it must succeed."""
    command = [sys.executable, "-m", "edgept", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_version() -> None:
    assert edgept_says("--version") == f"edgept, version {edgept.__version__}\n"
