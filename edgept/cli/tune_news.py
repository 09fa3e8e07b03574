"""What `edgept tune` shows: a bar while it runs, and its results."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgept.errors import EdgeptError
    from edgept.tune import Tuned, Update

__all__ = ["bar", "show_tasks", "show_tuned"]


@contextmanager
def bar() -> Iterator[Callable[[str, "Update"], None]]:
    """A bar on stderr with loss, gradient and pace; messages and warnings above it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[news]}"),
        console=console,
        transient=True,
    ) as progress:
        task_id = progress.add_task("", total=None, news="")

        def report(task: str, update: "Update") -> None:
            label = f"{task}: " if task else ""
            if update.is_warning:
                console.print(f"warning: {label}{update.message}", soft_wrap=True, markup=False)
            elif update.message:
                progress.update(task_id, description=f"{label}{update.message}", news="")
            progress.update(task_id, completed=update.step, total=update.steps or None)
            if update.loss is not None:
                progress.update(task_id, news=_news(update))

        yield report


def _news(update: "Update") -> str:
    parts = [
        f"loss {update.loss:.3f}",
        f"gradient {update.gradient_norm:.2g}",
        f"{update.per_second:.0f} {update.unit}/s",
    ]
    if update.validation is not None:
        parts.append(f"validation {update.validation.loss:.3f}{_metric(update.validation.metric)}")
    return " · ".join(parts)


def _metric(metric: dict[str, float]) -> str:
    return "".join(f", {name.replace('_', ' ')} {value:.1%}" for name, value in metric.items())


def show_tuned(tuned: "Tuned") -> None:
    """Files, validation, the gap on the device, and what to do next."""
    record = tuned.record
    for path, prompt in zip(tuned.prompts, record["prompts"], strict=True):
        click.echo(
            f"{path}: {_contents(record, prompt['virtual_tokens'])}, {prompt['bytes'] / 1e3:.1f} kB, "
            f"{record['settings']['method']} for {record['model']}"
        )
    best, device = record["best"], record["bundle"]
    if best is None:
        click.echo(f"trained {record['step']} steps, without validation (--eval, --eval-split)")
    else:
        click.echo(
            f"validation: {_baseline(record)}loss {best['loss']:.3f}{_metric(best['metric'])} with it "
            f"(step {best['step']} of {record['settings']['steps']}, {record['ended']})"
        )
    against = record["trained_against"]
    if against["weights"] == "bundle":
        click.echo(
            f"trained against the bundle's {against['precision']} weights, which differ by "
            f"{against['relative_error']:.1%} from the model's; activations were float"
        )
    if device is not None:
        first = device["before"]
        before = f"loss {first['loss']:.3f}{_metric(first['metric'])} before, " if first else ""
        click.echo(
            f"on {device['bundle']} ({device['precision']}): {before}loss {device['loss']:.3f}"
            f"{_metric(device['metric'])}{' now' if first else ''}; gap "
            + ", ".join(
                f"{name.replace('_', ' ')} {gap:+.4f}" for name, gap in device["gap"].items()
            )
        )
    given = "picture.png" if "pictures" in record else '"your text"'
    click.echo(f"next: edgept run --prompt {tuned.prompts[0]} {given}")


def _contents(record: dict[str, Any], virtual_tokens: int) -> str:
    """What a prompt file holds."""
    parts = [f"{virtual_tokens} virtual tokens"] if virtual_tokens else []
    if record["labels"]:
        classes = len(record["labels"])
        parts.append(f"a head of {classes} class{'es' if classes > 1 else ''}")
    return " and ".join(parts)


def _baseline(record: dict[str, Any]) -> str:
    """What the run is to be compared with."""
    plain, majority = record["without_prompt"], record["majority"]
    if plain is not None:
        return f"loss {plain['loss']:.3f}{_metric(plain['metric'])} without the prompt, "
    if majority is None:  # of pixels and boxes there is no plain answer
        return ""
    return f"accuracy {majority['accuracy']:.1%} of always saying {majority['label']!r}, "


def show_tasks(results: "dict[str, Tuned | EdgeptError]") -> None:
    """One line for each task."""
    from rich.console import Console
    from rich.table import Table

    from edgept.errors import EdgeptError

    table = Table(box=None, pad_edge=False)
    for heading in ("task", "method", "steps", "loss without", "with", "metric", "on the bundle"):
        table.add_column(heading, no_wrap=True)
    for name, made in results.items():
        if isinstance(made, EdgeptError):
            table.add_row(name, "failed")
            continue
        record = made.record
        best, plain, device = record["best"], record["without_prompt"], record["bundle"]
        table.add_row(
            name,
            record["settings"]["method"],
            str(record["step"]),
            f"{plain['loss']:.3f}" if plain else "-",
            f"{best['loss']:.3f}" if best else "-",
            _metric(best["metric"]).removeprefix(", ") if best else "-",
            f"{device['loss']:.3f}{_metric(device['metric'])}" if device else "-",
        )
    Console(highlight=False, width=120).print(table)
