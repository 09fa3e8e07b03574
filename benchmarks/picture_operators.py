"""Which operators an image model's time goes to, as onnxruntime's own profile says.

    python -m benchmarks.picture_operators BUNDLE... [--threads N] [--runs N]

A node's time is its median over the runs; those of one operator are added up.
"""

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

import click
import numpy as np
import onnxruntime

from edgept.bundle import read_manifest
from edgept.manifest import GRAPH_NAME
from edgept.runtime.graph import _SLOWER_FUSED  # as edgept runs it

__all__ = ["shares"]

_WARM_UP = 5


def shares(bundle: Path, *, threads: int, runs: int) -> dict[str, float]:
    """Milliseconds of a run by operator, most first: medians of each node over the runs, summed.

    Args:
        bundle: of an image model; it gets one picture of noise.
        threads: that compute one operator.
        runs: that are counted.
    """
    image = read_manifest(bundle).image
    if image is None:
        raise click.UsageError(f"{bundle} is no bundle of an image model.")
    noise = np.random.default_rng(0).standard_normal((1, 3, image.height, image.width))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_profiling = True
    options.log_severity_level = 3
    options.add_session_config_entry(
        "optimization.disable_specified_optimizers", ";".join(_SLOWER_FUSED)
    )
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(
            str(bundle / GRAPH_NAME), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(_WARM_UP + runs):
            session.run(["logits"], {"pixel_values": noise.astype(np.float32)})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    took: dict[tuple[str, str], list[float]] = defaultdict(list)  # of each node, microseconds
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            took[event["args"]["op_name"], event["name"]].append(event["dur"])
    found: dict[str, float] = defaultdict(float)
    for (operator, _), times in took.items():
        found[operator] += median(times[_WARM_UP:]) / 1e3
    return dict(sorted(found.items(), key=lambda item: -item[1]))


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--threads", default=2, show_default=True)
@click.option("--runs", default=40, show_default=True)
def _main(bundles: tuple[Path, ...], threads: int, runs: int) -> None:
    for bundle in bundles:
        found = shares(bundle, threads=threads, runs=runs)
        total = sum(found.values())
        click.echo(f"{bundle}: {total:.2f} ms")
        for operator, took_ms in found.items():
            if took_ms > total / 100:
                click.echo(f"  {operator:24} {took_ms:8.2f} ms {took_ms / total:6.0%}")


if __name__ == "__main__":
    _main()
