"""edgept prompt: pack, inspect and export prompts; prompt_classes.py makes them of names."""

# ruff: noqa: PTH112  # unlike Path's, these answer False for a path that cannot be examined

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgept.cli.answer import warn_of_other_base
from edgept.cli.options import read_labels
from edgept.cli.prompt_classes import classes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgept.prompt import Prompt

__all__ = ["prompt"]

_HELP = {"help_option_names": ["-h", "--help"]}


@click.group(context_settings=_HELP)
def prompt() -> None:
    """Pack, inspect and export prompts: the task in a kilobyte file."""


prompt.add_command(classes)


@prompt.command(context_settings=_HELP)
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-b",
    "--bundle",
    type=click.Path(path_type=Path),
    help="Bundle of the model that it was trained for; default: $EDGEPT_BUNDLE, else ./bundle.",
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="File to write."
)
@click.option("--name", help="What to call the task; default: the source's own name.")
@click.option("--task-index", type=click.IntRange(min=0), help="Which task of a multitask prompt.")
@click.option(
    "--labels",
    metavar="NAME,NAME,…|@FILE",
    help="Names of a head's classes in order, or a file with one a line; peft records none. "
    "[default: the source's own, else LABEL_0, LABEL_1, …]",
)
@click.option(
    "--task",
    metavar="TASK",
    help="What a prompt for an image model is for: image-classification, image-segmentation or "
    "object-detection; bare tensors with a head and no boxes need it. [default: the source's own]",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def pack(
    source: Path,
    bundle: Path | None,
    output: Path,
    name: str | None,
    task_index: int | None,
    labels: str | None,
    task: str | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Bind a trained prompt to a bundle and write it as one .safetensors file.

    SOURCE is a peft adapter folder, .safetensors, .pt, .pth, .bin or .npy; for an image model, tensors
    prompt_embeds (layers or 1, virtual tokens, hidden), head.weight, head.bias, box.weight and box.bias,
    those that its task needs. Packing claims that the prompt was trained for the bundle's model: nothing
    in them proves it.
    """
    from edgept.bundle import find_bundle, read_manifest
    from edgept.prompt_file import write_prompt
    from edgept.prompt_source import bind, load_prompt_source

    names = None if labels is None else read_labels(labels)
    manifest = read_manifest(find_bundle(bundle))
    if task is not None and task not in manifest.prompt_tasks:
        raise click.UsageError(
            f"--task {task}: prompts for {manifest.source} are for {', '.join(manifest.prompt_tasks)}."
        )
    loaded = load_prompt_source(source, manifest, task_index=task_index, name=name, task=task)
    if names is not None:
        if "head.weight" not in loaded.tensors:
            raise click.UsageError(
                f"--labels name the classes of a head, and {source} has none. Leave them out."
            )
        loaded = replace(loaded, labels=names)
    if task is not None:
        loaded = replace(loaded, task=task)
    warn_of_other_base(loaded, manifest)
    packed = bind(loaded, manifest)
    write_prompt(packed, output, overwrite=force)
    if as_json:
        click.echo(
            json.dumps({"file": click.format_filename(output), **_describe(packed)}, indent=2)
        )
    else:
        size = output.stat().st_size
        click.echo(
            f"{click.format_filename(output)}: {packed.name}, {_size(packed)}, {size} bytes, "
            f"for {manifest.source}"
        )


@prompt.command(context_settings=_HELP)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--bundles", type=click.Path(path_type=Path), help="Say which bundles in this folder it fits."
)
@click.option("--task-index", type=click.IntRange(min=0), help="Which task of a multitask prompt.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def inspect(file: Path, bundles: Path | None, task_index: int | None, *, as_json: bool) -> None:
    """Show what a prompt holds. FILE is a prompt file or anything that pack reads.

    A row norm far from those of the model's own embeddings is a sign of a training that diverged.
    """
    from edgept.prompt_source import load_prompt_source

    loaded = load_prompt_source(file, task_index=task_index)
    description = _describe(loaded)
    if bundles is not None:
        description["bundles"] = list(_fits(file, bundles, task_index))
    if as_json:
        click.echo(json.dumps(description, indent=2))
    else:
        _print_description(description)


@prompt.command(context_settings=_HELP)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(["onnx-adapter", "peft"]),
    help="onnx-adapter: a file for onnxruntime and onnxruntime-genai. peft: a folder for PeftModel.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="File or folder to write.",
)
@click.option(
    "-b",
    "--bundle",
    type=click.Path(path_type=Path),
    help="Bundle that it is for; an onnx-adapter needs one. [default: $EDGEPT_BUNDLE, then ./bundle]",
)
@click.option("--task-index", type=click.IntRange(min=0), help="Which task of a multitask prompt.")
@click.option("--force", is_flag=True, help="Replace what is there.")
def export(
    file: Path, form: str, output: Path, bundle: Path | None, task_index: int | None, *, force: bool
) -> None:
    """Write a prompt in another program's form. FILE is a prompt file or anything that pack reads."""
    from edgept.bundle import find_bundle, read_manifest
    from edgept.onnx_adapter import write_onnx_adapter
    from edgept.peft_writer import write_peft_folder
    from edgept.prompt import check_fits
    from edgept.prompt_source import load_prompt_source

    # An adapter has the bundle's float type, and nothing in it says what model it is for.
    needs_bundle = bundle is not None or form == "onnx-adapter"
    manifest = read_manifest(find_bundle(bundle)) if needs_bundle else None
    loaded = load_prompt_source(file, manifest, task_index=task_index)
    if manifest is not None:
        check_fits(loaded, manifest)
    write = write_onnx_adapter if form == "onnx-adapter" else write_peft_folder
    write(loaded, manifest, output, overwrite=force)
    click.echo(f"{click.format_filename(output)}: {loaded.name}, {_size(loaded)}")


def _size(loaded: "Prompt") -> str:
    size = f"{loaded.num_virtual_tokens} virtual tokens"
    rows = loaded.tensors.get("prompt_embeds")
    if rows is not None and rows.ndim == 3 and len(rows) > 1:
        size += f" in each of {len(rows)} layers"
    if "head.weight" in loaded.tensors:
        size += f", {len(loaded.tensors['head.weight'])} classes"
    return size


def _describe(loaded: "Prompt") -> dict[str, Any]:
    return {
        "name": loaded.name,
        "method": loaded.method,
        "task": loaded.task,
        "labels": list(loaded.labels),
        "fingerprint": loaded.fingerprint,
        "base_model": loaded.base_model,
        "created_by": loaded.created_by,
        "virtual_tokens": loaded.num_virtual_tokens,
        "bytes": loaded.nbytes,
        "tensors": {
            key: {"shape": list(tensor.shape), "row_norm": _row_norms(tensor)}
            for key, tensor in loaded.tensors.items()
        },
    }


def _row_norms(tensor: "npt.NDArray[np.float32]") -> dict[str, float]:
    import numpy as np

    norms = np.linalg.norm(tensor.astype(np.float64), axis=-1)
    return {"mean": float(norms.mean()), "min": float(norms.min()), "max": float(norms.max())}


def _fits(file: Path, bundles: Path, task_index: int | None) -> Iterator[dict[str, Any]]:
    from edgept.bundle import MANIFEST_NAME, read_manifest
    from edgept.errors import IncompatibleError, InvalidFileError, UsageError
    from edgept.prompt import check_fits
    from edgept.prompt_source import load_prompt_source

    if not os.path.isdir(bundles):
        raise UsageError(f"{bundles} is no folder. Name the folder that holds the bundles.")
    for folder in sorted(path.parent for path in bundles.glob(f"*/{MANIFEST_NAME}")):
        try:
            manifest = read_manifest(folder)
            # Loaded anew: what a bare tensor is depends on the bundle. A bare head fits as any task's.
            any_task = manifest.prompt_tasks[0]
            loaded = load_prompt_source(file, manifest, task_index=task_index, task=any_task)
            check_fits(loaded, manifest)
        except (IncompatibleError, InvalidFileError) as error:
            yield {"bundle": str(folder), "fits": False, "why": str(error)}
        else:
            proof = "shape only" if loaded.fingerprint is None else "fingerprint"
            yield {"bundle": str(folder), "fits": True, "why": proof}


def _print_description(description: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    facts = Table(show_header=False, box=None)
    for key, value in description.items():
        if key not in ("tensors", "bundles"):
            shown = ", ".join(value) if isinstance(value, list) else value
            facts.add_row(key.replace("_", " "), escape("-" if shown in (None, "") else str(shown)))
    console.print(facts)
    tensors = Table("tensor", "shape", "row norm: mean", "min", "max")
    for key, tensor in description["tensors"].items():
        norm = tensor["row_norm"]
        shape = " × ".join(map(str, tensor["shape"]))
        tensors.add_row(key, shape, *(f"{norm[which]:.4g}" for which in ("mean", "min", "max")))
    console.print(tensors)
    if "bundles" in description:
        fits = Table("bundle", "fits", "why")
        for row in description["bundles"]:
            fits.add_row(escape(row["bundle"]), "yes" if row["fits"] else "no", escape(row["why"]))
        console.print(fits)
