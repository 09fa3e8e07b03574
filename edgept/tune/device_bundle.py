"""The bundle that a prompt is for: it is measured there, and, where that is quantised, tuned against its weights."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgept.bundle import find_bundle, read_manifest
from edgept.errors import IncompatibleError
from edgept.export.dequantize import is_quantized
from edgept.manifest import Manifest
from edgept.tune.backbone import Backbone
from edgept.tune.bundle_weights import bundle_weights
from edgept.tune.settings import Settings

__all__ = ["DeviceBundle", "find_device_bundle", "trained_against"]


@dataclass(frozen=True)
class DeviceBundle:
    """An exported bundle that is to run the prompt.

    Attributes:
        folder: of the bundle.
        manifest: what it says of itself.
        gives_weights: whether the frozen model takes on its weights while the prompt is trained.
    """

    folder: Path
    manifest: Manifest
    gives_weights: bool

    @property
    def weights_sha256(self) -> str | None:
        """Of the graphs that weights are taken from, by the manifest; None where none are."""
        if not self.gives_weights:
            return None
        digest = hashlib.sha256()
        for name, entry in sorted(self.manifest.files.items()):
            if name.startswith(self.manifest.graphs):
                digest.update(f"{name} {entry.sha256}".encode())
        return digest.hexdigest()

    def check(self, backbone: Backbone, task: str, virtual_tokens: int) -> None:
        """Refuse one that could not run the prompt, before anything is trained.

        Raises:
            IncompatibleError: it is another model's or another task's, or takes no prompt of this length.
        """
        folder, manifest = self.folder, self.manifest
        if task not in manifest.prompt_tasks:
            raise IncompatibleError(
                f"{folder} was exported for {manifest.task}, and the prompt is to be tuned for {task}. Export "
                f"the model with --task {task}, or tune with --task {manifest.task}."
            )
        if manifest.fingerprint != backbone.fingerprint:
            raise IncompatibleError(
                f"{folder} is another model's bundle: its fingerprint ({manifest.source}) is "
                f"{manifest.fingerprint[:12]}…, this model's is {backbone.fingerprint[:12]}…. Export this model."
            )
        if virtual_tokens > manifest.max_virtual_tokens:
            raise IncompatibleError(
                f"{folder} takes prompts of {manifest.max_virtual_tokens} virtual tokens, this one is to have "
                f"{virtual_tokens}. Export again with --max-virtual-tokens {virtual_tokens}."
            )


def find_device_bundle(
    bundle: str | os.PathLike[str] | None, settings: Settings
) -> DeviceBundle | None:
    """Read the manifest of a bundle; None where the run is for none.

    Raises:
        UsageError: there is no bundle.
        InvalidFileError: its manifest is malformed.
    """
    if bundle is None:
        return None
    folder = find_bundle(bundle)
    gives_weights = settings.weights == "bundle" and is_quantized(folder)
    return DeviceBundle(folder, read_manifest(folder), gives_weights)


@contextmanager
def trained_against(model: Any, bundle: DeviceBundle | None) -> Iterator[dict[str, Any]]:
    """Give the model the bundle's weights where it is to have them, and its own back behind the block.

    Yields:
        What the record says of the weights. Activations are float in training, whatever the kernels do.

    Raises:
        ExportError: a matrix of the bundle is none of the model's, or is not read by this version.
        UntrustedError: a file of the bundle is not the one that was exported.
    """
    if bundle is None or not bundle.gives_weights:
        yield {"weights": "float"}
        return
    with bundle_weights(model, bundle.folder) as replaced:
        yield {
            "weights": "bundle",
            "precision": bundle.manifest.precision,
            "matrices": replaced.matrices,
            "relative_error": replaced.relative_error,
            "largest_error": replaced.largest_error,
            "activations": "float",
        }
