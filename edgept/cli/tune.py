"""`edgept tune`: a data set to a prompt file."""

import json
from pathlib import Path
from typing import Any

import click

from edgept.cli.options import json_option, read_labels
from edgept.cli.tune_news import bar, show_tasks, show_tuned
from edgept.cli.workstation import import_export

__all__ = ["tune"]

_METHODS = (
    *("prompt-tuning", "p-tuning", "prefix-tuning", "multitask", "cpt", "head"),
    *("vpt-shallow", "vpt-deep", "coop"),
)
_TASKS = (
    *("auto", "text-generation", "text2text-generation", "text-classification"),
    *("image-classification", "image-segmentation", "object-detection"),
)


@click.command()
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Prompt file to write; a folder where DATA is a file of tasks.",
)
@click.option(
    "--eval",
    "evaluation",
    type=click.Path(path_type=Path),
    help="Rows to validate on; the prompt with the lowest loss there is kept.",
)
@click.option("--eval-split", type=float, help="Or this share of DATA, 0.1 for a tenth.")
@click.option(
    "--method",
    type=click.Choice(_METHODS),
    help="prefix-tuning moves a model furthest, prompt-tuning makes the smallest file; head trains a "
    "head alone. For pictures, vpt-deep puts virtual tokens before every layer, vpt-shallow before the "
    "first; coop learns what stands before a class's name for CLIP.  [default: prompt-tuning; vpt-deep for "
    "pictures]",
)
@click.option(
    "--task",
    type=click.Choice(_TASKS),
    help="text-classification trains a head beside the prompt.  [default: what the model was saved "
    "for; text-classification for an encoder; for pictures what DATA has, and of COCO's file its boxes]",
)
@click.option("--virtual-tokens", type=int, help="Positions that the prompt takes.  [default: 16]")
@click.option("--description", help='The task in a sentence: "Answer in Spanish:".')
@click.option(
    "--init",
    metavar="text:…|vocab|kv:…|examples|random|prompt:FILE",
    help="Where the prompt starts. kv is for prefix-tuning, examples for cpt; prompt:FILE goes on from "
    "a prompt.  [default: the description, else vocab]",
)
@click.option(
    "--projection",
    type=int,
    help="Learn a visual prompt's rows this wide, and a layer that makes them the model's width.",
)
@click.option(
    "--flip", is_flag=True, default=None, help="Mirror half of the pictures while learning."
)
@click.option(
    "--template",
    help='Of coop: the words before the class, {}, are where it begins: "a photo of a {}."  [default: random]',
)
@click.option(
    "--labels",
    metavar="NAME,NAME,…|@FILE",
    help="Names of the classes that .npz and masks only number.  [default: the numbers]",
)
@click.option("--learning-rate", type=float, help="[default: the method's, measured]")
@click.option(
    "--head-learning-rate",
    type=float,
    help="Of a classifier's head.  [default: measured, by the size of what it reads]",
)
@click.option("--warmup", type=float, help="Share of the steps with a rising rate.  [default: 0.1]")
@click.option("--steps", type=int, help="Updates of the prompt.  [default: 500]")
@click.option("--epochs", type=float, help="Passes over the data, instead of --steps.")
@click.option("--batch-size", type=int, help="Rows of a forward pass.  [default: 8]")
@click.option("--accumulate", type=int, help="Forward passes of an update.  [default: 1]")
@click.option(
    "--checkpoint-activations",
    is_flag=True,
    default=None,
    help="Less memory, a third slower.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    help="Of the frozen model.  [default: bf16 on a GPU that has it]",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="[default: auto]")
@click.option("--seed", type=int, help="Equal seeds give equal files.  [default: 0]")
@click.option("--eval-every", type=int, help="Steps.  [default: a twentieth of all]")
@click.option(
    "--patience", type=int, help="Validations without a better loss; 0 is off.  [default: 5]"
)
@click.option(
    "--metric-rows", type=int, help="Rows that a validation generates for.  [default: 100]"
)
@click.option("--max-length", type=int, help="Longest row in tokens.  [default: up to 1024]")
@click.option("--drop-long", is_flag=True, default=None, help="Leave longer rows out.")
@click.option("--name", help="Of the prompt.  [default: the file's]")
@click.option("--input-column", help="[default: input]")
@click.option("--output-column", help="[default: output]")
@click.option("--text-column", help="[default: text]")
@click.option("--label-column", help="[default: label]")
@click.option("--image-column", help="Path of a picture, in a CSV.  [default: image]")
@click.option("--messages-column", help="[default: messages]")
@click.option("--task-column", help="Task of a row, for multitask.  [default: task]")
@click.option(
    "-b",
    "--bundle",
    type=click.Path(path_type=Path),
    help="Validate on this exported bundle, too, and show the gap. Where it is quantised, train against "
    "its weights.",
)
@click.option(
    "--weights",
    type=click.Choice(["bundle", "float"]),
    help="float trains against the model's own weights though --bundle is quantised.  [default: bundle]",
)
@click.option("--resume", is_flag=True, help="Go on where a killed run was.")
@click.option("--force", is_flag=True, help="Replace the prompt file; start over.")
@json_option
def tune(
    model: str,
    data: Path,
    output: Path,
    evaluation: Path | None,
    bundle: Path | None,
    resume: bool,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Tune a prompt for MODEL on DATA.

    \N{BACKSPACE}
      edgept tune MODEL train.jsonl -o spanish.safetensors --eval-split 0.1
      edgept tune MODEL intents.csv -o intent.safetensors --text-column question
      edgept tune MODEL tasks.yaml -o prompts/
      edgept tune MODEL train.jsonl -o es4.safetensors --eval-split 0.1 -b int4/ --init prompt:es.safetensors

    DATA is .jsonl or .csv with the columns input and output, text and label, messages (the model's
    chat template), or text alone; or a .yaml file of tasks. The model stays as it is. The prompt file
    runs on every bundle of it; a curve and a record of the run stand beside it.

    With text and label, a model that generates learns to answer with the label. An encoder, or any
    model with --task text-classification, gets a head with a row for each label, in the same file.

    For an image model, DATA is a folder with a sub-folder of pictures for each class, a .csv with image
    and label, an .npz (train_images, train_labels, val_images, …; archive.npz:test names a split), a COCO
    .json with boxes or masks, or a folder with images/ and masks/. Paths in the .csv are relative to it or
    absolute; those of the COCO .json stay below its folder.

    \N{BACKSPACE}
      edgept tune VIT photos/ -o species.safetensors --eval-split 0.1 --virtual-tokens 10
      edgept tune VIT instances.json -o parts.safetensors --eval val.json --task image-segmentation
    """
    import_export()  # or the error that says what to install
    from edgept.tune import Columns, Settings
    from edgept.tune import tune as tune_one

    columns = {
        name: options.pop(f"{name}_column")
        for name in ("input", "output", "text", "label", "messages", "task", "image")
    }
    columns = {name: value for name, value in columns.items() if value is not None}
    given = {name: value for name, value in options.items() if value is not None}
    if "labels" in given:
        given["labels"] = read_labels(given["labels"])
    if data.suffix.lower() in (".yaml", ".yml"):
        if given or columns or evaluation is not None:
            named = next(iter([*given, *columns, "eval"])).replace("_", "-")
            raise click.UsageError(
                f"--{named} stands in the file of tasks, under defaults or a task."
            )
        _tune_tasks(model, data, output, bundle, resume, force, as_json)
        return
    settings = Settings(**given, columns=Columns(**columns))
    with bar() as report:
        tuned = tune_one(
            model,
            data,
            output,
            settings,
            evaluation=evaluation,
            bundle=bundle,
            resume=resume,
            force=force,
            report=lambda update: report("", update),
        )
    if as_json:
        click.echo(json.dumps(tuned.record, indent=1, ensure_ascii=False))
    else:
        show_tuned(tuned)


def _tune_tasks(
    model: str,
    data: Path,
    output: Path,
    bundle: Path | None,
    resume: bool,
    force: bool,
    as_json: bool,
) -> None:
    from edgept.errors import EdgeptError
    from edgept.tune import tune_tasks

    with bar() as report:
        results = tune_tasks(
            model, data, output, bundle=bundle, resume=resume, force=force, report=report
        )
    failed = {name: made for name, made in results.items() if isinstance(made, EdgeptError)}
    if as_json:
        shown = {
            name: {"error": str(made)} if isinstance(made, EdgeptError) else made.record
            for name, made in results.items()
        }
        click.echo(json.dumps(shown, indent=1, ensure_ascii=False))
    else:
        show_tasks(results)
    for name, error in failed.items():
        click.echo(f"error: {name}: {error}", err=True)
    if failed:
        raise click.exceptions.Exit(1)
