"""`edgept demo`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgept.cli.options import json_option
from edgept.cli.workstation import import_export

if TYPE_CHECKING:
    from edgept.demo import Demo

__all__ = ["demo"]


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("edgept-demo"),
    show_default=True,
    help="Folder for the bundle and the prompt files; an earlier demo's is replaced.",
)
@click.option("--question", help="Ask something else, in English, Spanish, German or Japanese.")
@json_option
def demo(output: Path, question: str | None, as_json: bool) -> None:
    """Export the small model that comes with edgept, and change its task with prompt files.

    Needs no network. A support assistant of a few million parameters is exported to ONNX, prompts of a
    few kilobytes are packed for it, and one question is answered under each of them.
    """
    from edgept.cli.progress import steps
    from edgept.demo import run_demo

    import_export()

    with steps() as progress:
        chosen = {} if question is None else {"question": question}
        result = run_demo(output, progress=progress, **chosen)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2, ensure_ascii=False))
    else:
        _show(result)


def _show(result: "Demo") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    manifest = result.manifest
    console.print(f"\n[bold]Customer:[/bold] {result.question}\n")
    table = Table(box=None, pad_edge=False)
    for name, options in (
        ("prompt", {"no_wrap": True}),
        ("file", {"justify": "right", "no_wrap": True}),
        ("swap", {"justify": "right", "no_wrap": True}),
        ("first token", {"justify": "right", "no_wrap": True}),
        ("the frozen model answers", {}),
    ):
        table.add_column(name, **options)
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


def _model_folder() -> Path:
    from edgept.demo.show import MODEL

    return MODEL
