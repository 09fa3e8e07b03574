"""`edgept demo`: export the shipped model, pack its prompts, ask one question under each."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgept.atomic import atomic_folder
from edgept.latency import Latency
from edgept.manifest import Manifest

__all__ = ["QUESTION", "Answer", "Demo", "run_demo"]

HERE = Path(__file__).parent
MODEL = HERE / "model"
PROMPTS = HERE / "prompts"
QUESTION = "Hi, this is Marta. Where is my order 58213? It should have arrived on March 3."

_MARKER = "demo.txt"
# A p99 takes 662 samples (order statistics at 99 % confidence; MLPerf's rule for early stopping).
_SWAPS = 700


@dataclass(frozen=True)
class Answer:
    """What the frozen model answers under one prompt.

    Attributes:
        prompt: the task's name; None for the plain model.
        text: the answer.
        file_bytes: size of the prompt file.
        virtual_tokens: of the prompt.
        cold_ms: file to resident prompt, every check included.
        swap_us: median time to make a resident prompt the request's own, in microseconds.
        ttft_ms: median time to first token.
        tpot_ms: time per output token of this answer; None with fewer than two tokens.
    """

    prompt: str | None
    text: str
    file_bytes: int
    virtual_tokens: int
    cold_ms: float
    swap_us: float
    ttft_ms: float
    tpot_ms: float | None


@dataclass(frozen=True)
class Demo:
    """What the demo did and measured.

    Attributes:
        folder: where bundle and prompt files are.
        question: that was asked.
        manifest: of the bundle, parity figures included.
        bundle_bytes: size of the bundle.
        load_ms: bundle to a session that is ready.
        threads: that computed.
        swaps: measured swaps over all prompts.
        swap_p99_us: their 99th percentile, in microseconds.
        answers: the plain model's first, then one a prompt.
        seconds: that the whole demo took.
    """

    folder: str
    question: str
    manifest: Manifest
    bundle_bytes: int
    load_ms: float
    threads: int
    swaps: int
    swap_p99_us: float
    answers: list[Answer]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON takes them."""
        return asdict(self)


def run_demo(
    folder: str | os.PathLike[str],
    *,
    question: str = QUESTION,
    progress: Callable[[str], object] = lambda _: None,
) -> Demo:
    """Do the main job for real, on the small model that comes with the package.

    Args:
        folder: for the bundle and the prompt files; an earlier demo's is replaced, nothing else.
        question: to ask under every prompt.
        progress: called with what is being done.

    Raises:
        UsageError: the folder holds something else.
        ExportError: the export failed.
    """
    from edgept.export import export_model
    from edgept.prompt_file import write_prompt
    from edgept.prompt_source import bind, load_prompt_source
    from edgept.runtime.model import load

    started = time.perf_counter()
    with atomic_folder(folder, marker=_MARKER, overwrite=True) as work:
        (work / _MARKER).write_text("Made by 'edgept demo', which replaces it.\n", encoding="utf-8")
        manifest = export_model(
            str(MODEL), work / "bundle", precision="fp32", progress=progress
        ).manifest
        progress("packing the prompts")
        files = []
        for source in sorted(path for path in PROMPTS.iterdir() if path.is_dir()):
            files.append(work / f"{source.name}.safetensors")
            write_prompt(bind(load_prompt_source(source, manifest), manifest), files[-1])
        progress("answering")
        model = load(work / "bundle")
        prompts = [None, *(model.load_prompt(path) for path in files)]
        content = model.chat([{"role": "user", "content": question}])
        results = [model.generate(content, prompt=item, max_new_tokens=120) for item in prompts]
        progress(f"swapping {_SWAPS} times")
        # In turn, so that every request swaps: none finds its prompt in the memory of the last one
        latencies: list[list[Latency]] = [[] for _ in prompts]
        for _ in range(-(-_SWAPS // (len(prompts) - 1))):
            for row, item in zip(latencies, prompts, strict=True):
                row.append(model.generate(content, prompt=item, max_new_tokens=1).latency)
    # The plain model has no prompt to swap in
    swaps = sorted(latency.swap_ms for row in latencies[1:] for latency in row)
    answers = [
        Answer(
            prompt=None if item is None else item.name,
            text=result.text,
            file_bytes=0 if item is None else (Path(folder) / files[index - 1].name).stat().st_size,
            virtual_tokens=0 if item is None else item.num_virtual_tokens,
            cold_ms=0.0 if item is None else item.load_ms,
            swap_us=0.0 if item is None else median(one.swap_ms for one in row) * 1e3,
            ttft_ms=median(one.ttft_ms or 0.0 for one in row),
            tpot_ms=result.latency.tpot_ms,
        )
        for index, (item, result, row) in enumerate(zip(prompts, results, latencies, strict=True))
    ]
    return Demo(
        folder=str(folder),
        question=question,
        manifest=manifest,
        bundle_bytes=sum(entry.size for entry in manifest.files.values()),
        load_ms=model.load_ms,
        threads=model.threads,
        swaps=len(swaps),
        swap_p99_us=swaps[int(len(swaps) * 0.99)] * 1e3,
        answers=answers,
        seconds=time.perf_counter() - started,
    )
