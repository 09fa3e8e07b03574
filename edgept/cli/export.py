"""`edgept export`."""

from pathlib import Path
from typing import Any

import click

from edgept.cli.options import data_options, json_option, read_columns
from edgept.cli.workstation import import_export

__all__ = ["export"]


@click.command()
@click.argument("model")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("bundle"),
    show_default=True,
    help="Folder of the bundle; it appears when all is done.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8", "int8-dynamic", "int4"]),
    help="Of the weights. fp32 is PyTorch's result to 1e-4; int4 is smallest and quickest, at a cost "
    "in quality that --verify-text measures; int8-dynamic is for encoders, where it is quickest. [default: int4 for cpu, fp32 for encoders and "
    "encoder-decoders there, fp16 otherwise]",
)
@click.option(
    "--block-size",
    type=click.Choice(["16", "32", "64", "128", "256"]),
    default="32",
    show_default=True,
    help="Weights that share a scale in int4 and int8. 64 is smaller and quicker (a tenth of the time "
    "of a request), and keeps less of the model.",
)
@click.option(
    "--exclude-modules",
    metavar="PATTERN",
    multiple=True,
    help="Modules that keep float weights in int4 and int8, as PyTorch's named_modules calls them: "
    "'*.mlp.down_proj', 'model.layers.0'. May be given several times.",
)
@click.option(
    "--head-precision",
    type=click.Choice(["int8"]),
    help="Of a language model's head, where the rest is int4: twice the head's bytes.  [default: int4]",
)
@click.option(
    "--task",
    help="Task as transformers names it: text-generation, text2text-generation (translation, "
    "summarization), text-classification, token-classification, question-answering, "
    "feature-extraction. [default: found from the config]",
)
@click.option(
    "--target",
    type=click.Choice(["cpu", "cuda", "jetson"]),
    default="cpu",
    show_default=True,
    help="What will run it: decides execution provider and float type.",
)
@click.option(
    "--max-virtual-tokens",
    type=click.IntRange(min=1),
    help="Longest prompt that the bundle takes. [default: 1024, or what the model leaves]",
)
@click.option(
    "--verify-text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A text like those of your users: its perplexity before and after is reported.",
)
@data_options
@click.option("--no-verify", is_flag=True, help="Skip the comparison with PyTorch.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@json_option
def export(
    model: str,
    output: Path,
    precision: str | None,
    block_size: str,
    exclude_modules: tuple[str, ...],
    head_precision: str | None,
    task: str | None,
    target: str,
    max_virtual_tokens: int | None,
    verify_text: Path | None,
    verify_data: Path | None,
    no_verify: bool,
    force: bool,
    as_json: bool,
    **columns: Any,
) -> None:
    """Export MODEL to a bundle: ONNX with the prompt as an input of its own.

    MODEL is a folder that transformers' save_pretrained wrote, or a hub id. Every export is compared
    with PyTorch under random prompts; one that differs in fp32 leaves nothing behind.
    """
    from edgept.cli.progress import steps

    for option, given in (("--verify-text", verify_text), ("--verify-data", verify_data)):
        if no_verify and given:
            raise click.UsageError(f"{option} measures in the comparison that --no-verify skips.")
    import_export()  # or the error that says what to install
    named = read_columns(columns)
    if named is not None and verify_data is None:
        raise click.UsageError("the columns are those of --verify-data, which is missing.")
    text = verify_text.read_text(encoding="utf-8", errors="replace") if verify_text else None
    with steps() as progress:
        result = import_export().export_model(
            model,
            output,
            precision=precision,
            block_size=int(block_size),
            exclude_modules=exclude_modules,
            head_precision=head_precision,
            task=task,
            target=target,
            max_virtual_tokens=max_virtual_tokens,
            verify=not no_verify,
            verify_text=text,
            verify_data=verify_data,
            columns=named,
            force=force,
            progress=progress,
        )
    manifest = result.manifest
    if as_json:
        click.echo(manifest.to_json(), nl=False)
        return
    size = sum(entry.size for entry in manifest.files.values())
    click.echo(f"{result.bundle}: {manifest.source}, {manifest.precision}, {size / 1e6:.1f} MB")
    if result.parity is None:
        click.echo("parity: skipped (--no-verify)")
    else:
        click.echo(f"parity: {result.parity}")
        if result.parity.is_costly:
            click.echo(f"quality is lost: {_levers(manifest.precision, manifest.task)}")
    bundle = "" if str(result.bundle) == "bundle" else f"-b {result.bundle} "
    if manifest.head_size is not None:
        own = ", ".join(manifest.labels) or "none; prompts bring theirs"
        click.echo(f"head of its own: {own}")
    asked = '"your text"' if manifest.image is None else "picture.jpg"
    click.echo(f"next: edgept run {bundle}--prompt PROMPT {asked}")


def _levers(precision: str, task: str) -> str:
    """What gets quality back for bytes, best first; benchmarks/QUANTISATION.md has what each gives."""
    ways = ["--exclude-modules PATTERN", "another --block-size"]
    if precision != "int4":
        ways.append("--precision fp32")
    else:
        ways.append("--precision int8")
        if task.endswith("generation"):
            ways.insert(0, "--head-precision int8")
    return f"{', '.join(ways[:-1])} or {ways[-1]} may give it back."
