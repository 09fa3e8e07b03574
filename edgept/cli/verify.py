"""`edgept verify`."""

import json
from pathlib import Path
from typing import Any

import click

from edgept.cli.options import (
    bundle_option,
    data_options,
    json_option,
    read_columns,
    read_labels,
)
from edgept.cli.workstation import import_export

__all__ = ["verify"]


@click.command()
@bundle_option
@click.option("--model", required=True, help="The model that was exported: a folder or a hub id.")
@click.option(
    "--prompt",
    type=click.Path(path_type=Path),
    help="Compare under this prompt; a peft folder is run by peft itself.",
)
@click.option("--task-index", type=click.IntRange(min=0), help="Task of a multitask prompt.")
@click.option(
    "--verify-text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Also compare perplexity on this text.",
)
@data_options
@click.option(
    "--labels",
    help="Names of the classes of the prompt's head, in order, for rows with labels: a,b,c, or @FILE with "
    "one a line. [default: the prompt's own]",
)
@json_option
def verify(
    bundle: Path | None,
    model: str,
    prompt: Path | None,
    task_index: int | None,
    verify_text: Path | None,
    verify_data: Path | None,
    labels: str | None,
    as_json: bool,
    **columns: Any,
) -> None:
    """Compare a bundle with PyTorch, or with peft.

    Without --prompt, under random prompts, as every export does. Exits with 1 when the difference is
    above the precision's tolerance. What a precision costs the task itself is measured by

    \N{BACKSPACE}
      edgept verify --model MODEL --prompt PROMPT --verify-data test.csv
    """
    from edgept.cli.progress import steps

    if prompt and verify_text:
        raise click.UsageError("--verify-text compares the plain model; leave --prompt out.")
    import_export()  # or the error that says what to install
    named = read_columns(columns)
    if named is not None and verify_data is None:
        raise click.UsageError("the columns are those of --verify-data, which is missing.")
    if labels is not None and prompt is None:
        raise click.UsageError("--labels names the classes of a prompt's head; give --prompt, too.")
    text = verify_text.read_text(encoding="utf-8", errors="replace") if verify_text else None
    with steps() as progress:
        parity = import_export().verify_bundle(
            bundle,
            model,
            prompt=prompt,
            task_index=task_index,
            verify_text=text,
            verify_data=verify_data,
            columns=named,
            labels=None if labels is None else read_labels(labels),
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(parity.to_manifest(), indent=2))
    else:
        click.echo(f"reference: {parity.reference}")
        click.echo(f"parity: {parity}")
        if parity.tolerance is None:
            click.echo("verdict: measured; quantised weights have no tolerance")
        else:
            verdict = "equal" if parity.passed else "DIFFERENT"
            click.echo(f"verdict: {verdict} (tolerance {parity.tolerance:g} relative)")
    if not parity.passed:
        raise click.exceptions.Exit(1)
