"""Every claim, measured, and the page that says what was found.

    python -m benchmarks [FOLDER] [--quick]

writes benchmarks/RESULTS.md, and the samples to FOLDER/results.json. Needs the extras `cpu` and
`export`; llama.cpp joins with the packages llama-cpp-python and gguf, OpenVINO with openvino-genai.
"""

import importlib.metadata
import json
import platform
import sys
import time
from importlib import import_module
from pathlib import Path

from benchmarks.claim import Claim, Setting, goals_table, parse_setting
from benchmarks.disturbance import Disturbance
from benchmarks.peers import Missing
from edgept.runtime.device import read_cpu, read_memory

__all__: list[str] = []

RESULTS = Path(__file__).parent / "RESULTS.md"
# the quickest first: what they prepare serves all others
SCRIPTS = ("ceilings", "memory", "cold_start", "prefill", "batch", "swap", "first_table", "decode")
_PACKAGES = (
    *("edgept", "onnxruntime", "onnxruntime-genai", "llama-cpp-python", "openvino-genai"),
    *("peft", "torch", "transformers", "numpy"),
)
# measured on two cores, everything prepared: minutes
_QUICK_MINUTES, _FULL_MINUTES = 14, 45
_PREPARE_MINUTES = 6


def main() -> None:
    setting = parse_setting(__doc__)
    quick = "--quick" in sys.argv
    sys.stderr.write(
        f"about {_QUICK_MINUTES if quick else _FULL_MINUTES} minutes, and once {_PREPARE_MINUTES} more to "
        f"make models in {setting.folder}; leave the machine alone meanwhile\n"
    )
    command = "python -m benchmarks" + (" --quick" if quick else "")
    began = time.monotonic()
    claims: list[Claim] = []
    notes: list[str] = []
    raw = {}
    for script in SCRIPTS:
        start, disturbance = time.monotonic(), Disturbance.begin()
        try:
            claim: Claim = import_module(f"benchmarks.{script}").measure(setting)
        except Missing as why:
            # a side that has died meanwhile: the rest is worth having
            claim = Claim(script, f"Not finished: {why}", "", [])
        claims.append(claim)
        raw[script] = claim.raw
        took = time.monotonic() - start
        others = 100 * disturbance.share()
        notes.append(
            f"`python -m benchmarks.{script}`: {took:.0f} s, in which other programs took {others:.0f} % of "
            "the cores."
        )
        # after each: whoever ends it early keeps what there is
        samples = json.dumps(raw, default=vars)
        (setting.folder / "results.json").write_text(samples, encoding="utf-8")
        page = make_page(setting, command, claims, notes, time.monotonic() - began)
        RESULTS.write_text(page, encoding="utf-8")
    print(goals_table([goal for claim in claims for goal in claim.goals]))


def make_page(
    setting: Setting, command: str, claims: list[Claim], notes: list[str], seconds: float
) -> str:
    """RESULTS.md."""
    cpu, memory = read_cpu(), read_memory()
    versions = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    size = "" if memory is None else f", {memory.total_bytes / 2**30:.0f} GiB of memory"
    goals = [goal for claim in claims for goal in claim.goals]
    met = sum(goal.verdict == "met" for goal in goals)
    lines = [
        "# Results",
        "",
        f"`{command}` writes this page; this one took {seconds / 60:.0f} minutes. {cpu.model}, "
        f"{cpu.cores} cores ({', '.join(cpu.flags)}){size}; {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {setting.threads} threads for every side. "
        + ", ".join(versions)
        + ".",
        "",
        (
            "Models have random weights of the real shapes: speed does not depend on what they know. Every "
            "side runs in a process of its own that waits while another works; rounds are interleaved. A "
            "ratio below 1 means that edgept takes less time; a goal for a ratio is met when the whole 95 % "
            "interval is within it, and not certain when the interval holds it."
        ),
        "",
        f"## Goals: {met} of {len(goals)} met",
        "",
        goals_table(goals),
        "",
    ]
    for claim, note in zip(claims, notes, strict=True):
        lines += [claim.page(), note, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
