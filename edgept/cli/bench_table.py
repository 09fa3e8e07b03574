"""What `edgept bench` prints on a terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from edgept.bench.report import Report

__all__ = ["show"]


def show(report: "Report") -> None:
    """One table of the phases, then what belongs to it."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    facts, settings = report.bundle, report.settings
    rows = f", {settings.batch} rows" if settings.batch > 1 else ""
    request = report.request.describe(report.prompts[0].virtual_tokens)
    console.print(
        Text(
            f"{facts.source}, {facts.precision}, {settings.threads} threads, "
            f"{settings.providers[0].removesuffix('ExecutionProvider')}; {request}{rows}; "
            f"{settings.loop}\n"
        ),
        soft_wrap=True,
    )
    _phases(console, report)
    _findings(console, report)
    _comparison(console, report)


def _findings(console: "Console", report: "Report") -> None:
    """Whether the phases are steady, and what is to be said of them."""
    from rich.text import Text

    style = "green" if report.verdict.word == "steady" else "yellow"
    console.print(Text(f"\n{report.verdict.word}", style=f"bold {style}"))
    lines = [*report.verdict.reasons, *report.notes]
    if report.answers.right:
        lines.append(f"A → B → A and {report.answers.checked} repeated answers are right")
    for line in [*lines, *_more(report)]:
        console.print(Text(f"  {line}"), soft_wrap=True)


def _phases(console: "Console", report: "Report") -> None:
    from rich.table import Table
    from rich.text import Text

    from edgept.bench.duration import format_duration, unit_of

    phases = report.phases
    with_p999 = any(phase.summary.p999 is not None for phase in phases.values())
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("phase", "n", "median", "p90", "p99", *(["p99.9"] if with_p999 else [])):
        table.add_column(name, justify="left" if name == "phase" else "right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("outliers", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for phase in phases.values():
        summary = phase.summary
        unit, factor = unit_of(summary.median)
        figures = [summary.median, summary.p90, summary.p99]
        figures += [summary.p999] if with_p999 else []
        table.add_row(
            phase.title,
            f"{summary.n:,}",
            *(Text(format_duration(figure, factor)) for figure in figures),
            unit,
            str(len(summary.outliers)),
            phase.verdict.word,
        )
    console.print(table)


def _more(report: "Report") -> list[str]:
    from edgept.bench.duration import format_duration, unit_of
    from edgept.bench.statistics import summarise

    lines = []
    medians = [(level, summarise(level.swap_ms).median) for level in report.residents]
    unit, factor = unit_of(medians[0][1])
    swaps = ", ".join(f"{level.prompts}: {format_duration(m, factor)}" for level, m in medians)
    lines.append(
        f"median swap by number of resident prompts, {unit}: {swaps} ({report.request.swaps})"
    )
    ceilings, phases = report.ceilings, report.phases
    if "tpot" in phases and ceilings.tpot_ms is not None and ceilings.token_bytes is not None:
        times = phases["tpot"].summary.median / ceilings.tpot_ms
        lines.append(
            f"time per output token is {times:.1f} times that of reading {ceilings.token_bytes / 1e6:.0f} MB "
            f"at the measured {ceilings.read_bytes_per_s / 1e9:.1f} GB/s"
        )
    forward = "prefill" if "prefill" in phases else "run"
    times = phases[forward].summary.median / ceilings.prefill_ms
    lines.append(
        f"{forward} is {times:.1f} times its {ceilings.prefill_operations / 1e9:.2f} G operations at the "
        f"measured {ceilings.operations_per_s / 1e9:.0f} G/s of float32 products"
    )
    if report.joules_per_request is not None:
        lines.append(
            f"{report.joules_per_request:.3g} J a request ({report.energy.source}, without the reference "
            "kernel's share)"
        )
    return lines


def _comparison(console: "Console", report: "Report") -> None:
    from rich.table import Table
    from rich.text import Text

    comparison = report.comparison
    if comparison is None:
        return
    why = f": {comparison.why}" if comparison.why else ""
    console.print(Text(f"\nagainst {comparison.report}, {comparison.kind}{why}"), soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("phase", "ratio", "95 % interval", "n", "this one is"):
        table.add_column(name, justify="left" if name in ("phase", "this one is") else "right")
    for name, item in comparison.phases.items():
        ratio = item.ratio
        title = report.phases[name].title if name in report.phases else name
        interval = f"{ratio.low:.3f}–{ratio.high:.3f}"
        table.add_row(title, f"{ratio.ratio:.3f}", interval, str(ratio.n), item.word)
    console.print(table)
    for note in comparison.notes:
        console.print(Text(f"  {note}"), soft_wrap=True)
