"""The other report's side of a comparison, ready to run again, or why it cannot."""

from dataclasses import dataclass
from pathlib import Path

from edgept.bench.earlier import Earlier
from edgept.bench.plan import Plan
from edgept.bench.prompts import find_prompts
from edgept.bench.subject import Subject
from edgept.bundle import MANIFEST_NAME, hash_file, read_manifest
from edgept.errors import EdgeptError
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.device import Device
from edgept.runtime.model import Model, load

__all__ = ["Rival", "find_rival"]

_SAME_VERSIONS = ("edgept", "onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Rival:
    """The other report's model and its prompts."""

    model: Model
    pool: list[LoadedPrompt]


def find_rival(
    earlier: Earlier, model: Model, subject: Subject, device: Device, plan: Plan, folder: Path
) -> Rival | str:
    """The other report's bundle and prompts, loaded; or why they cannot run against this one here.

    Args:
        earlier: the other report.
        model: this side's.
        subject: this side's request.
        device: this machine.
        plan: this side's.
        folder: for random prompts that are made again.
    """
    ours = {name: device.packages.get(name) for name in _SAME_VERSIONS}
    theirs = {name: earlier.versions.get(name) for name in _SAME_VERSIONS}
    unlike = subject.unlike(earlier.request)
    checks: list[tuple[bool, str]] = [
        (plan.rate is not None, "requests come on a schedule here"),
        (earlier.rate is not None, "the other report has an open loop"),
        (
            device.cpu.model != earlier.cpu,
            f"the other report is of another machine ({earlier.cpu})",
        ),
        (ours != theirs, f"versions differ: {_list(ours)} here, {_list(theirs)} there"),
        (
            earlier.threads != model.threads,
            f"{model.threads} threads here, {earlier.threads} there",
        ),
        (earlier.batch != plan.batch, f"{plan.batch} rows here, {earlier.batch} there"),
        (bool(unlike), unlike),
    ]
    for differs, why in checks:
        if differs:
            return why
    try:
        if hash_file(earlier.bundle / MANIFEST_NAME) != earlier.manifest_sha256:
            return f"the bundle at {earlier.bundle} is not the one that was measured"
        manifest = read_manifest(earlier.bundle)
        given = [] if earlier.random else [(name, path) for name, path, _ in earlier.prompts]
        prompts = find_prompts(given, manifest, folder, earlier.seed)
        found = [facts.tensors_sha256 for facts, _ in prompts]
        if found != [sha256 for _, _, sha256 in earlier.prompts]:
            return "the other report's prompts have changed"
        other = load(earlier.bundle, threads=model.threads, providers=earlier.providers)
        loaded = [other.load_prompt(prompt) for _, prompt in prompts]
    except (EdgeptError, OSError) as error:
        return f"the other report's bundle or prompts are not at hand: {error}"
    return Rival(other, loaded)


def _list(versions: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)
