"""`edgept demo`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgept.cli.options import json_option
from edgept.cli.workstation import import_export
from edgept.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from edgept.demo import Demo
    from edgept.demo.look import VisionDemo

__all__ = ["demo"]


@click.command()
@click.argument("part", type=click.Choice(["text", "vision"]), default="text")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for the bundle and the prompt files; an earlier demo's is replaced.  "
    "[default: edgept-demo, edgept-demo-vision]",
)
@click.option("--question", help="Ask something else, in English, Spanish, German or Japanese.")
@json_option
def demo(part: str, output: Path | None, question: str | None, as_json: bool) -> None:
    """Export a small model that comes with edgept, and change its task with prompt files.

    Needs no network. Of `text`, a support assistant of a few million parameters is exported to ONNX,
    prompts of a few kilobytes are packed for it, and one question is answered under each of them. Of
    `vision`, an image model of less than a million parameters classifies, segments and detects; the
    folder holds what it saw as pictures.
    """
    from edgept.cli.progress import steps
    from edgept.demo import run_demo
    from edgept.demo.look import run_vision_demo

    if part == "vision" and question is not None:
        raise UsageError("--question is for the text demo. Leave it out.")
    import_export()

    with steps() as progress:
        if part == "vision":
            seen = run_vision_demo(output or "edgept-demo-vision", progress=progress)
        else:
            chosen = {} if question is None else {"question": question}
            result = run_demo(output or "edgept-demo", progress=progress, **chosen)
    if as_json:
        shown = (seen if part == "vision" else result).to_json()
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
    elif part == "vision":
        _show_seen(seen)
    else:
        _show(result)


def _show(result: "Demo") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    manifest = result.manifest
    console.print(f"\n[bold]Customer:[/bold] {result.question}\n")
    table = Table(box=None, pad_edge=False)
    _add_columns(table, "prompt", ("file", "swap", "first token"), "the frozen model answers")
    for answer in result.answers:
        if answer.prompt is None:
            row = ["[dim]none[/dim]", "", "", f"{answer.ttft_ms:.1f} ms"]
        else:
            row = [answer.prompt, f"{answer.file_bytes / 1e3:.1f} kB"]
            row += [f"{answer.swap_us:.0f} µs", f"{answer.ttft_ms:.1f} ms"]
        table.add_row(*row, answer.text)
    console.print(table)
    paces = [answer.tpot_ms for answer in result.answers if answer.tpot_ms]
    console.print(
        f"\nOne model of {result.bundle_bytes / 1e6:.1f} MB, loaded once in {result.load_ms:.0f} ms, on "
        f"{result.threads} threads: {sorted(paces)[len(paces) // 2]:.2f} ms per token. {result.swaps} "
        f"swaps, the slowest 1 % over {result.swap_p99_us:.0f} µs.\n"
        f"Its logits differ from PyTorch's by {manifest.parity['max_rel']:.0e} of the largest; "
        f"{manifest.parity['greedy_equal']} of {manifest.parity['greedy_total']} greedy tokens are equal. "
        f"All of this took {result.seconds:.0f} s.\n"
    )
    folder = result.folder
    console.print("By hand:")
    for line in (
        f"edgept export {_model_folder()} --precision fp32 -o {folder}/again",
        f"edgept prompt pack {_model_folder().parent}/prompts/spanish -b {folder}/bundle -o es.safetensors",
        f'edgept run -b {folder}/bundle --chat --prompt es.safetensors "Where is my parcel?"',
    ):
        console.print(f"  {line}", soft_wrap=True, style="bold")


def _show_seen(result: "VisionDemo") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    _add_columns(table, "prompt", ("file", "swap", "a picture"), "the frozen model sees")
    for answer in result.answers:
        row = [answer.prompt, f"{answer.file_bytes / 1e3:.1f} kB", f"{answer.swap_us:.0f} µs"]
        seen = [f"{number}: {found}" for number, found in enumerate(answer.found, 1)]
        table.add_row(*row, f"{answer.picture_ms:.1f} ms", "\n".join(seen))
    console.print()
    console.print(table)
    console.print(
        f"\nOne model of {result.bundle_bytes / 1e6:.1f} MB, loaded once in {result.load_ms:.0f} ms, on "
        f"{result.threads} threads. {result.swaps} swaps, the slowest 1 % over {result.swap_p99_us:.0f} µs. "
        f"{result.mixed} requests under three prompts in one batch: {result.mixed_ms:.1f} ms.\n"
        f"Its outputs differ from PyTorch's by {result.manifest.parity['max_rel']:.0e} of the largest. "
        f"All of this took {result.seconds:.0f} s.\n\n"
        f"The pictures, and what was found in them: {click.format_filename(result.sheet)}\n",
        soft_wrap=True,
    )
    console.print("By hand:")
    folder = result.folder
    run = f"edgept run -b {folder}/bundle --prompt {folder}"
    for line in (
        f"{run}/detect.safetensors {folder}/pictures/1.png",
        f"{run}/segment.safetensors {folder}/pictures/?.png --save found",
    ):
        console.print(f"  {line}", soft_wrap=True, style="bold")


def _add_columns(table: "Table", first: str, figures: Sequence[str], last: str) -> None:
    table.add_column(first, no_wrap=True)
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(last)


def _model_folder() -> Path:
    from edgept.demo.show import MODEL

    return MODEL
