"""A report as one self-contained page: it refers to nothing outside itself and runs no script."""

from collections.abc import Iterable, Sequence
from html import escape

from edgept.bench.duration import format_duration, unit_of
from edgept.bench.report import Phase, Report
from edgept.bench.statistics import summarise
from edgept.bench.svg import Axis, histogram, points

__all__ = ["to_html"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #d5dae1; --mark: #b3261e;
  --data: #2f6db5; --band: #f3c7c2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --paper: #15181c; --soft: #3a4048;
  --mark: #ff8a80; --data: #7fb2ef; --band: #5a2a27; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { padding: .2rem .5rem; border-bottom: 1px solid var(--soft); text-align: right; }
td:first-child, th:first-child, td.text { text-align: left; }
figure { margin: 1.5rem 0; } svg { width: 100%; height: auto; fill: var(--data); }
svg text { fill: var(--ink); font-size: 11px; } .axis { stroke: var(--ink); fill: none; }
.grid { stroke: var(--soft); } .mark { stroke: var(--mark); } .band { fill: var(--band); }
.flag { fill: none; stroke: var(--mark); } polyline { fill: none; stroke: var(--data); }
.bad { color: var(--mark); }
"""


def to_html(report: Report) -> str:
    """The page."""
    facts = report.bundle
    title = f"edgept bench: {facts.source}, {facts.precision}"
    body = [
        f"<h1>{escape(title)}</h1>",
        _verdict(report),
        _list(report.notes),
        _phases(report),
        _comparison(report),
        "<h2>Latency over time</h2>",
        _over_time(report),
        "<h2>Swap time against resident prompts</h2>",
        _residents(report),
        "<h2>Distributions</h2>",
        *(_distribution(phase) for phase in report.phases.values()),
        "<h2>Measured on</h2>",
        _table(("", ""), _conditions(report)),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )


def _verdict(report: Report) -> str:
    verdict = report.verdict
    style = "good" if verdict.word == "steady" else "bad"
    said = (
        f'<p class="{style}"><b>{escape(verdict.word)}</b> {escape("; ".join(verdict.reasons))}</p>'
    )
    if report.answers.right:
        return said
    return said + '<p class="bad"><b>Answers were wrong</b>: the times are of no use.</p>'


def _phases(report: Report) -> str:
    rows = []
    for phase in report.phases.values():
        summary = phase.summary
        unit, factor = unit_of(summary.median)
        figures = (summary.median, summary.p90, summary.p99, summary.p999)
        rows.append(
            [
                phase.title,
                str(summary.n),
                *(format_duration(figure, factor) for figure in figures),
                unit,
                str(len(summary.outliers)),
                "; ".join([phase.verdict.word, *phase.verdict.reasons]),
            ]
        )
    names = ("phase", "n", "median", "p90", "p99", "p99.9", "unit", "outliers", "verdict")
    return _table(names, rows)


def _comparison(report: Report) -> str:
    comparison = report.comparison
    if comparison is None:
        return ""
    rows = [
        [
            report.phases[name].title if name in report.phases else name,
            f"{item.ratio.ratio:.3f}",
            f"{item.ratio.low:.3f} to {item.ratio.high:.3f}",
            str(item.ratio.n),
            item.word,
        ]
        for name, item in comparison.phases.items()
    ]
    why = f" ({comparison.why})" if comparison.why else ""
    return (
        f"<h2>Against {escape(comparison.report)}</h2><p>{escape(comparison.kind + why)}</p>"
        + _list(comparison.notes)
        + _table(("phase", "ratio", "95 % interval", "n", "this one is"), rows)
    )


def _over_time(report: Report) -> str:
    phase = report.phases["end_to_end"]
    unit, factor = unit_of(phase.summary.median)
    values = [(at, sample * factor) for at, sample in zip(report.at_s, phase.samples, strict=True)]
    x = Axis("seconds", 0, max(report.seconds, values[-1][0]))
    y = Axis(f"end to end, {unit}", 0, max(value for _, value in values))
    flagged = [values[index] for index in phase.summary.outliers]
    begins = [0.0, *(check.at_s for check in report.checks)]
    bands = [
        (begin, check.at_s)
        for begin, check in zip(begins, report.checks, strict=False)
        if check.throttled
    ]
    plot = points(x, y, values, flagged=flagged, bands=bands)
    worst = max((check.ratio for check in report.checks), default=1.0)
    return _figure(
        plot,
        f"Rings are outliers, shaded stretches are throttled. The reference kernel took at most "
        f"{worst:.2f} times its {report.kernel_ms:.2f} ms at the start.",
    )


def _residents(report: Report) -> str:
    levels = [(level, summarise(level.swap_ms)) for level in report.residents]
    unit, factor = unit_of(min(summary.median for _, summary in levels))
    values = [(float(level.prompts), summary.median * factor) for level, summary in levels]
    last = max(values[-1][0], values[0][0] + 1)
    numbers = tuple(number for number, _ in values)
    x = Axis("resident prompts", values[0][0], last, log=True, at=numbers)
    y = Axis(f"median swap, {unit}", 0, 1.2 * max(value for _, value in values))
    rows = [
        [
            str(level.prompts),
            f"{level.nbytes / 1e6:.2f}",
            str(summary.n),
            *(format_duration(f, factor) for f in (summary.median, summary.p90, summary.p99)),
        ]
        for level, summary in levels
    ]
    names = ("resident prompts", "MB", "n", f"median, {unit}", "p90", "p99")
    caption = f"Of these swaps, {report.request.swaps}."
    return _figure(points(x, y, values, line=True), caption) + _table(names, rows)


def _distribution(phase: Phase) -> str:
    summary = phase.summary
    unit, factor = unit_of(summary.median)
    named = (("median", summary.median), ("p90", summary.p90), ("p99", summary.p99))
    marks = [(name, value * factor) for name, value in named if value is not None]
    samples = [sample * factor for sample in phase.samples]
    return _figure(histogram(samples, f"{phase.title}, {unit}", marks), "")


def _conditions(report: Report) -> Iterable[list[str]]:
    device, settings = report.device, report.settings
    before, after = report.before, report.checks[-1].conditions
    yield ["made", report.created]
    yield ["processor", f"{device.cpu.model}, {device.cpu.architecture}, {device.cpu.cores} cores"]
    yield ["GPU", ", ".join(gpu.name for gpu in device.gpus) or "none"]
    if device.jetson is not None:
        yield ["power mode", device.jetson.power_mode or "unknown"]
    yield ["threads", str(settings.threads)]
    yield ["providers", ", ".join(settings.providers)]
    yield ["packages", ", ".join(f"{name} {v}" for name, v in device.packages.items())]
    yield ["governor", before.governor or "unknown"]
    yield ["clock", f"{before.mhz or 'unknown'} to {after.mhz or 'unknown'} MHz"]
    yield [
        "temperature",
        f"{before.temperature_c or 'unknown'} to {after.temperature_c or 'unknown'} °C",
    ]
    yield ["load", f"{before.load:.2f} to {after.load:.2f}"]
    yield ["bundle", f"{report.bundle.path}, edgept.json SHA-256 {report.bundle.manifest_sha256}"]
    for prompt in report.prompts:
        digest = f"tensors SHA-256 {prompt.tensors_sha256}"
        yield ["prompt", f"{prompt.name}, {prompt.virtual_tokens} virtual tokens, {digest}"]
    shape = report.request.describe(report.prompts[0].virtual_tokens)
    yield ["request", f"{shape}, {settings.batch} rows; {settings.loop}"]
    if report.joules_per_request is not None:
        source = f"{report.energy.source}, without the reference kernel's share"
        yield ["energy", f"{report.joules_per_request:.3g} J a request ({source})"]
    else:
        yield ["energy", report.energy.reason]


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>" if items else ""


def _figure(plot: str, caption: str) -> str:
    return f"<figure>{plot}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
