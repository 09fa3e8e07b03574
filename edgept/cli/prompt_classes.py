"""`edgept prompt classes`: a prompt from the names of classes alone."""

import json
from pathlib import Path

import click

from edgept.cli.options import json_option, read_labels
from edgept.cli.workstation import import_export

__all__ = ["classes"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.option(
    "--labels",
    metavar="NAME,NAME,…|@FILE",
    required=True,
    help="The classes, or what is looked for.",
)
@click.option(
    "--template",
    "templates",
    multiple=True,
    help='A text with {} where a name belongs; of several, their mean counts.  [default: "a photo of a {}."]',
)
@click.option(
    "-b", "--bundle", type=click.Path(path_type=Path), help="Check that it fits this bundle."
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="File to write."
)
@click.option("--name", help="What to call the task.  [default: the file's name]")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@json_option
def classes(
    model: str,
    labels: str,
    templates: tuple[str, ...],
    bundle: Path | None,
    output: Path,
    name: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Make a prompt of MODEL from the names of classes alone (zero-shot).

    MODEL is a whole CLIP or SigLIP model, whose prompt classifies pictures, or OWL-ViT or OWLv2, whose prompt
    finds things: a transformers folder or a hub id. Its text side is read here, once; the device reads a matrix.
    Of a name, "_" is read as a space.

    \N{BACKSPACE}
      edgept prompt classes CLIP --labels cat,dog -o pets.safetensors
    """
    import_export()  # or the error that says what to install
    from edgept.bundle import find_bundle, read_manifest
    from edgept.export.class_head import PLAIN_TEMPLATE
    from edgept.export.class_prompt import class_prompt
    from edgept.prompt_file import write_prompt
    from edgept.tune.backbone import silent

    names = read_labels(labels)
    manifest = None if bundle is None else read_manifest(find_bundle(bundle))
    with silent():
        made = class_prompt(
            model,
            names,
            templates=templates or (PLAIN_TEMPLATE,),
            name=name or output.stem,
            manifest=manifest,
        )
    write_prompt(made, output, overwrite=force)
    if as_json:
        found = {"file": str(output), "task": made.task, "labels": list(made.labels)}
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        size = output.stat().st_size
        click.echo(
            f"{output}: {made.task} of {len(names)} classes by their names, {size} bytes, for {made.base_model}"
        )
