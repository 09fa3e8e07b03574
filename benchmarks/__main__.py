"""Every claim, measured, and the page that says what was found.

    python -m benchmarks [FOLDER] [--quick]

writes benchmarks/RESULTS.md, and the samples to FOLDER/results.json. Needs the extras `cpu` and
`export`; llama.cpp joins with the packages llama-cpp-python and gguf, OpenVINO with openvino-genai.
"""

import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path

from benchmarks.claim import Claim, Goal, Setting, goals_table, not_measured, parse_setting
from benchmarks.disturbance import Disturbance
from benchmarks.peers import Missing
from edgept.bench.ratio import FEWEST
from edgept.runtime.device import read_cpu, read_memory

__all__: list[str] = []

_DISTURBED = 0.1  # of all cores
RESULTS = Path(__file__).parent / "RESULTS.md"
# the quickest first: what they prepare serves all others
SCRIPTS = (
    *(
        "ceilings",
        "memory",
        "cold_start",
        "encoders",
        "pictures",
        "prefill",
        "batch",
        "swap",
        "first_table",
    ),
    "decode",
)
_PACKAGES = (
    *("edgept", "onnxruntime", "onnxruntime-genai", "llama-cpp-python", "openvino-genai"),
    *("peft", "torch", "transformers", "numpy"),
)
_NOT_QUICK = ("first_table",)  # it has no goal; the README's figures are a full run's
# estimated for two quiet cores, everything prepared: minutes. Quick, in seconds: ceilings 60, memory 30,
# cold_start 90, encoders 60, prefill 225, batch 50, swap 95, decode 105 on the small shape, 185 on the large
_QUICK_MINUTES, _FULL_MINUTES = 14, 70
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
        if quick and script in _NOT_QUICK:
            continue
        start, disturbance = time.monotonic(), Disturbance.begin()
        try:
            claim: Claim = import_module(f"benchmarks.{script}").measure(setting)
        except Missing as why:
            # only edgept's own end comes here, a peer's is in its claim; the other scripts are worth having
            text = f"edgept itself did not finish: {why}"
            goal = not_measured(f"all of python -m benchmarks.{script}", "–", text)
            claim = Claim(script, text, "", [goal])
            setting.say(text)
        took, others = time.monotonic() - start, disturbance.share()
        note = (
            f"`python -m benchmarks.{script}`: {took:.0f} s, in which other programs took "
            f"{100 * others:.0f} % of the cores."
        )
        if others > _DISTURBED:
            note += " **Disturbed**: measure again with nothing else running."
            claim = replace(claim, goals=[_disturbed(goal) for goal in claim.goals])
        claims.append(claim)
        notes.append(note)
        raw[script] = claim.raw
        # after each: whoever ends it early keeps what there is
        samples = json.dumps(raw, default=vars)
        (setting.folder / "results.json").write_text(samples, encoding="utf-8")
        page = make_page(setting, command, claims, notes, time.monotonic() - began)
        RESULTS.write_text(page, encoding="utf-8")
    print(goals_table([goal for claim in claims for goal in claim.goals]))


def _disturbed(goal: Goal) -> Goal:
    measured = goal.verdict != "not measured"
    return replace(goal, verdict=f"{goal.verdict}, disturbed") if measured else goal


@cache
def _llama_build() -> str:
    """What llama.cpp was built with, by its own word; in a process of its own, since some cannot start."""
    code = "import llama_cpp; print(llama_cpp.llama_print_system_info().decode())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    features = [part.split(":")[-1].strip() for part in done.stdout.split("|")]
    names = [feature.removesuffix(" = 1") for feature in features if feature.endswith(" = 1")]
    return f"llama.cpp is built with {', '.join(names)}, and nothing more." if names else ""


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
        + f". {_llama_build()}".rstrip(),
        "",
        (
            "Models have random weights of the real shapes: speed does not depend on what they know. Every "
            "side runs in a process of its own that waits while another works; rounds are interleaved. A "
            "ratio below 1 means that edgept takes less time; a goal for a ratio is met when the whole 95 % "
            "interval is within it, and not certain when the interval holds it. Neighbouring rounds that "
            f"resemble each other count as fewer; below {FEWEST} independent ones, nothing is called met. "
            f"Disturbed is what was measured while other programs took over {100 * _DISTURBED:.0f} % of the "
            "cores, and is not counted as met either."
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
