"""What a bundle is checked for before its model runs: a task of this version's, and the weights' hash."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from edgept.bundle import check_weights
from edgept.errors import IncompatibleError, InvalidFileError
from edgept.manifest import SEQ2SEQ_TASK, Manifest
from edgept.runtime.calls import CALLS
from edgept.runtime.sights import CLASSIFIES, EMBEDS

__all__ = ["check_task", "checking_weights"]

# The fields without which a manifest says too little of its task.
_NEEDED = {
    "text-generation": ("kv",),
    "feature-extraction": ("pooling",),
    SEQ2SEQ_TASK: ("kv", "decoding"),
    CLASSIFIES: ("image", "head_size"),
    EMBEDS: ("image", "head_size"),
    "zero-shot-object-detection": ("image", "head_size"),
}


@contextmanager
def checking_weights(bundle: Path, manifest: Manifest) -> Iterator[None]:
    """Compare the weights' hash, which takes longest, while the graph is loaded.

    Nothing parses weights, and no request runs before the hash is known. What a wrong file made fail
    meanwhile is not the news: its hash is.
    """
    with ThreadPoolExecutor(1, "edgept-check") as pool:
        check = pool.submit(check_weights, bundle, manifest)
        try:
            yield
        finally:
            check.result()


def check_task(manifest: Manifest, bundle: Path) -> None:
    """See that this version runs bundles of this task, and that the manifest says enough of it.

    Raises:
        IncompatibleError: it does not.
        InvalidFileError: the manifest lacks a field that the task needs.
    """
    if manifest.task not in CALLS:
        raise IncompatibleError(
            f"{bundle} is a bundle for {manifest.task}; this version runs {', '.join(CALLS)}. Use "
            "the edgept version that exported it."
        )
    for needed in _NEEDED.get(manifest.task, ("head_size",)):
        if getattr(manifest, needed) is None:
            raise InvalidFileError(
                "manifest-malformed",
                f"{bundle}: the manifest of a bundle for {manifest.task} lacks its {needed}. Export the "
                "model again.",
            )
