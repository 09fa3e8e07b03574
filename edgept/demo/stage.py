"""What both demos do: export a model that ships, pack its prompts, and swap them in turns."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from edgept.atomic import atomic_folder
from edgept.latency import Latency
from edgept.manifest import Manifest

if TYPE_CHECKING:
    from edgept.runtime.content import LoadedPrompt
    from edgept.runtime.model import Model

__all__ = ["Packed", "Shown", "Stage", "set_stage"]

_MARKER = "demo.txt"
# A p99 takes 662 samples (order statistics at 99 % confidence; MLPerf's rule for early stopping).
_SWAPS = 700


@dataclass(frozen=True)
class Shown:
    """What a demo did and measured, of whatever its prompts do.

    Attributes:
        folder: where bundle and prompt files are.
        manifest: of the bundle, parity figures included.
        bundle_bytes: size of the bundle.
        load_ms: bundle to a session that is ready.
        threads: that computed.
        swaps: measured swaps over all prompts.
        swap_p99_us: their 99th percentile, in microseconds.
        seconds: that the whole demo took.
    """

    folder: str
    manifest: Manifest
    bundle_bytes: int
    load_ms: float
    threads: int
    swaps: int
    swap_p99_us: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON takes them."""
        return asdict(self)


@dataclass(frozen=True)
class Packed:
    """A prompt on the stage, with the latencies of its requests.

    Attributes:
        loaded: resident.
        file_bytes: size of its file.
        latencies: one a request.
    """

    loaded: "LoadedPrompt"
    file_bytes: int
    latencies: list[Latency]

    @property
    def swap_us(self) -> float:
        """Median time to make it the request's own, in microseconds."""
        return median(latency.swap_ms for latency in self.latencies) * 1e3


@dataclass(frozen=True)
class Stage:
    """A demo's folder while it is made.

    Attributes:
        folder: to write to; it has another name at the end.
        model: exported and loaded.
        prompts: its own, in order.
    """

    folder: Path
    model: "Model"
    prompts: list[Packed]
    _began: float
    _progress: Callable[[str], object]

    def swap(self, ask: "Callable[[int, LoadedPrompt], Latency]") -> None:
        """Ask under each prompt in turn, so that every request swaps: none finds what the last one left.

        Args:
            ask: runs a request of the round whose number it is given.
        """
        self._progress(f"swapping {_SWAPS} times")
        for number in range(-(-_SWAPS // len(self.prompts))):
            for prompt in self.prompts:
                prompt.latencies.append(ask(number, prompt.loaded))

    def shown(self, folder: str | os.PathLike[str]) -> Shown:
        """What was measured; the folder's own name."""
        swaps = sorted(one.swap_ms for prompt in self.prompts for one in prompt.latencies)
        manifest = self.model.manifest
        return Shown(
            folder=str(folder),
            manifest=manifest,
            bundle_bytes=sum(entry.size for entry in manifest.files.values()),
            load_ms=self.model.load_ms,
            threads=self.model.threads,
            swaps=len(swaps),
            swap_p99_us=swaps[int(len(swaps) * 0.99)] * 1e3,
            seconds=time.perf_counter() - self._began,
        )


@contextmanager
def set_stage(
    folder: str | os.PathLike[str],
    model: Path,
    sources: Mapping[str, Path],
    progress: Callable[[str], object],
) -> Iterator[Stage]:
    """Export a model, pack prompts for it, and load all of them.

    Args:
        folder: for the bundle and the prompt files; an earlier demo's is replaced, nothing else.
        model: that is exported.
        sources: of the prompts, by their names.
        progress: called with what is being done.

    Raises:
        UsageError: the folder holds something else.
        ExportError: the export failed.
    """
    from edgept.export import export_model
    from edgept.prompt_file import write_prompt
    from edgept.prompt_source import bind, load_prompt_source
    from edgept.runtime.model import load

    began = time.perf_counter()
    with atomic_folder(folder, marker=_MARKER, overwrite=True) as work:
        (work / _MARKER).write_text("Made by 'edgept demo', which replaces it.\n", encoding="utf-8")
        manifest = export_model(
            str(model), work / "bundle", precision="fp32", progress=progress
        ).manifest
        progress("packing the prompts")
        files = []
        for name, source in sources.items():
            files.append(work / f"{name}.safetensors")
            write_prompt(bind(load_prompt_source(source, manifest), manifest), files[-1])
        loaded = load(work / "bundle")
        packed = [Packed(loaded.load_prompt(path), path.stat().st_size, []) for path in files]
        yield Stage(work, loaded, packed, began, progress)
