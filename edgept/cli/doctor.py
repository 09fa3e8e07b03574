"""`edgept doctor`: what this device offers, and what to change on it."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgept.manifest import Manifest
    from edgept.runtime.advice import Advice
    from edgept.runtime.device import Device


@dataclasses.dataclass(frozen=True)
class BundleVerdict:
    """Whether a bundle runs on a device.

    Attributes:
        bundle: its folder.
        runs: whether it does.
        reasons: why it does not; or, where it does, what will be slower than it was made for.
        size_bytes: of all its files.
        fits_memory: whether that is within the memory that is free; None where memory is unknown.
    """

    bundle: str
    runs: bool
    reasons: list[str]
    size_bytes: int
    fits_memory: bool | None


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for scripts.")
@click.option(
    "-b",
    "--bundle",
    type=click.Path(path_type=Path),
    help="Also say whether this bundle runs here.",
)
def doctor(as_json: bool, bundle: Path | None) -> None:
    """Say what this device offers and what to install or change.

    Run it first on a new device, and whenever a model is slower than expected. It changes nothing.
    Exits with 1 when onnxruntime is missing, or when the bundle cannot run here.
    """
    from edgept.bundle import read_manifest
    from edgept.runtime.advice import advice
    from edgept.runtime.device import read_device

    # Read first: a wrong --bundle should not wait for onnxruntime to load.
    manifest = None if bundle is None else read_manifest(bundle)
    device = read_device()
    advices = advice(device)
    verdict = None if manifest is None else judge(device, manifest, str(bundle))
    can_run = bool(device.onnxruntime.version) and (verdict is None or verdict.runs)
    if as_json:
        report = {
            "can_run": can_run,
            "device": dataclasses.asdict(device),
            "advice": [dataclasses.asdict(item) for item in advices],
            "bundle": None if verdict is None else dataclasses.asdict(verdict),
        }
        click.echo(json.dumps(report, indent=2))
    else:
        _print(device, advices, verdict)
    if not can_run:
        sys.exit(1)


def judge(device: "Device", manifest: "Manifest", bundle: str) -> BundleVerdict:
    """Say whether a device can run the bundle that a manifest describes."""
    from edgept.runtime.requirements import how_to_update, is_at_least

    runtime = device.onnxruntime
    size = sum(file.size for file in manifest.files.values())
    usable = [name for name in manifest.providers if name in runtime.working]
    reasons = []
    if not runtime.version:
        reasons.append("there is no onnxruntime")
    else:
        if not is_at_least(runtime.version, manifest.min_onnxruntime):
            reasons.append(
                f"it needs onnxruntime {manifest.min_onnxruntime} or newer, here is "
                f"{runtime.version}. "
                + how_to_update(manifest.min_onnxruntime, device.jetson, device.packages)
            )
        if not usable:
            reasons.append(
                f"it was made for {', '.join(manifest.providers)}; here work "
                f"{', '.join(runtime.working)}. Export it for this device with --target."
            )
    runs = not reasons
    if runs and usable[0] != manifest.providers[0]:
        reasons.append(f"it runs on {usable[0]}, slower than on {manifest.providers[0]}")
    fits = None if device.memory is None else size <= device.memory.available_bytes
    return BundleVerdict(bundle, runs, reasons, size, fits)


def _print(device: "Device", advices: "list[Advice]", verdict: BundleVerdict | None) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(show_header=False, box=None, pad_edge=False)
    # Text, so that "[N/A]" and the like are not taken for markup.
    for name, value in _rows(device, verdict):
        table.add_row(Text(name, style="bold"), Text(value))
    console.print(table)
    console.print()
    if not advices and (verdict is None or verdict.runs):
        console.print("nothing to change")
    for number, item in enumerate(advices, 1):
        console.print(Text(f"{number}. {item.found}", style="bold"))
        console.print(Padding(Text(f"{item.why}."), (0, 0, 0, 3)))
        # Not wrapped: it is there to be copied.
        console.print(Text(f"   {item.command}", style="cyan"), soft_wrap=True)


def _rows(device: "Device", verdict: BundleVerdict | None) -> list[tuple[str, str]]:
    cpu, memory, jetson, runtime = device.cpu, device.memory, device.jetson, device.onnxruntime
    clock = f", {cpu.mhz} of {cpu.max_mhz} MHz" if cpu.mhz and cpu.max_mhz else ""
    rows = [
        ("board", device.board),
        ("CPU", f"{cpu.model or 'unknown'}, {cpu.architecture}, {cpu.cores} cores usable{clock}"),
        ("instructions", " ".join(cpu.flags)),
        ("governor", cpu.governor or ""),
    ]
    if memory is not None:
        total, available = memory.total_bytes / 1e9, memory.available_bytes / 1e9
        rows.append(("memory", f"{available:.1f} of {total:.1f} GB free"))
    rows += [
        ("GPU", f"{gpu.name}, {_gigabytes(gpu.memory_bytes)}, driver {gpu.driver}")
        for gpu in device.gpus
    ]
    if jetson is not None:
        jetpack = f"JetPack {jetson.jetpack}, " if jetson.jetpack else ""
        release = f"{jetpack}L4T {jetson.l4t or 'unknown'}"
        rows.append(("Jetson", f"{release}, power mode {jetson.power_mode or 'unknown'}"))
    rows.append(("Python", device.python))
    rows.append(("packages", ", ".join(f"{name} {v}" for name, v in device.packages.items())))
    rows.append(("onnxruntime", runtime.version or runtime.error))
    rows += [
        ("provider", f"{name} (does not work here)" if name in runtime.broken else name)
        for name in runtime.providers
    ]
    if verdict is not None:
        fits = {True: "fits in", False: "does not fit in", None: "compared with unknown"}
        size = f"{verdict.size_bytes / 1e6:.1f} MB {fits[verdict.fits_memory]} free memory"
        runs = "runs here" if verdict.runs else "cannot run here"
        why = f" ({'; '.join(verdict.reasons)})" if verdict.reasons else ""
        rows.append(("bundle", f"{verdict.bundle} {runs}{why}; {size}"))
    return [(name, value) for name, value in rows if value]


def _gigabytes(memory_bytes: int | None) -> str:
    return "shared memory" if memory_bytes is None else f"{memory_bytes / 1e9:.1f} GB"
