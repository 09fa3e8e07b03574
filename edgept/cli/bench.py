"""`edgept bench`: measure a bundle's latency, phase by phase."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgept.cli.options import bundle_option, json_option
from edgept.errors import EdgeptError, UsageError

if TYPE_CHECKING:
    from edgept.bench.report import Report

__all__ = ["bench"]

_WRONG = (
    "answers differed from the first ones under the same prompt ('answers' in the report has the counts), so "
    "the times are of no use. Check the machine's memory and the provider."
)


@click.command()
@bundle_option
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    metavar="[NAME=]FILE",
    help="Prompt file, peft folder, or .pt/.bin/.safetensors/.npy with the tensor. Several take "
    "turns. Without one, random prompts do.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="At least 10 requests and 3 s, to see whether all works. Percentiles need more. "
    "[default: 1,024 requests and 60 s]",
)
@click.option(
    "--time",
    "seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds of the series of requests; ends it whatever its samples. What is measured beside "
    "it takes about as long again.",
)
@click.option("--samples", type=click.IntRange(min=1), help="Requests in the series.")
@click.option(
    "--prompt-length",
    type=click.IntRange(min=1),
    help="Tokens of the request's text, where text is generated. [default: 64, or as in --compare]",
)
@click.option(
    "--new-tokens",
    type=click.IntRange(min=1),
    help="Tokens that a request asks for, where text is generated. [default: 64, or as in --compare]",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    help="Picture for a bundle that looks at pictures. [default: as in --compare, or one of 640 x 480 pixels, made "
    "here]",
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Rows of a request."
)
@click.option("--threads", type=click.IntRange(min=1), help="[default: every core]")
@click.option(
    "--provider", "providers", multiple=True, help="onnxruntime provider. [default: the bundle's]"
)
@click.option(
    "--resident",
    type=click.IntRange(min=2),
    help="Keep so many prompts resident, copies of those given, and swap among them.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Send so many requests a second on a Poisson schedule, as users of a server do, and count "
    "from the scheduled moment. [default: one after the other, service time]",
)
@click.option(
    "--compare",
    type=click.Path(path_type=Path),
    metavar="REPORT.json",
    help="Compare with another report: interleaved where its bundle is at hand and can run the same "
    "way, otherwise sample by sample.",
)
@click.option(
    "--power",
    type=click.Choice(["auto", "off"]),
    default="auto",
    show_default=True,
    help="Energy of a request, where tegrastats, jtop or RAPL tells.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the report as JSON.")
@click.option(
    "--html", type=click.Path(path_type=Path), help="Write the report as one page with plots."
)
@click.option("--force", is_flag=True, help="Replace existing files of --output and --html.")
@json_option
def bench(
    bundle: Path | None,
    prompts: tuple[str, ...],
    quick: bool,
    seconds: float | None,
    samples: int | None,
    prompt_length: int | None,
    new_tokens: int | None,
    picture: Path | None,
    batch: int,
    threads: int | None,
    providers: tuple[str, ...],
    resident: int | None,
    rate: float | None,
    compare: Path | None,
    power: str,
    output: Path | None,
    html: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure latency phase by phase, so that the figures can be believed.

    What is measured is text that is generated, or pictures that are looked at.

    \N{BACKSPACE}
      edgept bench --prompt spanish.pt --prompt german.pt --quick
      edgept bench --prompt spanish.pt -o before.json
      edgept bench --prompt spanish.pt --compare before.json --html report.html

    Warms up until it is steady, watches for throttling, flags outliers and drops none, and prints a
    percentile only where there are samples for it. Every answer is checked: with a wrong one, it
    exits with 1.
    """
    from edgept.bench.earlier import read_earlier
    from edgept.bench.measurement import measure
    from edgept.bench.plan import Plan, length_of_run
    from edgept.bundle import find_bundle

    _check_targets([path for path in (output, html) if path is not None], force=force)
    earlier = None if compare is None else read_earlier(compare)
    plan = Plan(
        bundle=find_bundle(bundle),
        prompts=tuple(map(_name_and_path, prompts)),
        length=length_of_run(quick=quick, seconds=seconds, samples=samples),
        quick=quick or (seconds is not None and samples is None),
        prompt_length=prompt_length,
        new_tokens=new_tokens,
        picture=picture,
        batch=batch,
        threads=threads,
        providers=providers or None,
        resident=resident,
        rate=rate,
        power=power == "auto",
    )
    with _progress() as progress:
        report = measure(plan, earlier=earlier, progress=progress)
    _write(report, output, html, force=force)
    if as_json:
        click.echo(report.to_json(), nl=False)
    else:
        from edgept.cli.bench_table import show

        show(report)
    if not report.answers.right or (report.comparison and report.comparison.different):
        raise EdgeptError(_WRONG)


def _name_and_path(given: str) -> tuple[str | None, Path]:
    name, separator, path = given.partition("=")
    # os.path's, unlike Path's, is False for a name that is too long
    if not separator or os.path.exists(given):  # noqa: PTH110
        return None, Path(given)
    return name or None, Path(path)


def _check_targets(paths: list[Path], *, force: bool) -> None:
    """Before the measurement, not after it."""
    for path in paths:
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise UsageError(f"{path} is no place for a file. Name one in a folder that exists.")
        if os.path.lexists(path) and not force:
            raise UsageError(
                f"{path} exists already. Choose another name, or replace it with --force."
            )
    if len(set(paths)) < len(paths):
        raise UsageError("--output and --html name the same file. Choose another name for one.")


def _write(report: "Report", output: Path | None, html: Path | None, *, force: bool) -> None:
    from edgept.atomic import write_bytes
    from edgept.bench.html import to_html

    if output is not None:
        write_bytes(output, report.to_json().encode(), overwrite=force)
    if html is not None:
        write_bytes(html, to_html(report).encode(), overwrite=force)


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr, gone at the end; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # drawn twice a second: drawing takes a core's time from what is measured
    with Progress(
        *columns, console=Console(stderr=True), transient=True, refresh_per_second=2
    ) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda title, share: bar.update(task, description=title, completed=share)
