"""`edgept demo`: export the shipped model, pack its prompts, ask one question under each."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from edgept.demo.stage import Shown, set_stage
from edgept.latency import Latency

if TYPE_CHECKING:
    from edgept.runtime.content import LoadedPrompt
    from edgept.runtime.generation import Generation

__all__ = ["QUESTION", "Answer", "Demo", "run_demo"]

HERE = Path(__file__).parent
MODEL = HERE / "model"
PROMPTS = HERE / "prompts"
QUESTION = "Hi, this is Marta. Where is my order 58213? It should have arrived on March 3."

_ANSWER = 120  # tokens at most


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
class Demo(Shown):
    """What the demo did and measured; see `edgept.demo.stage.Shown`.

    Attributes:
        question: that was asked.
        answers: the plain model's first, then one a prompt.
    """

    question: str
    answers: list[Answer]


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
    sources = {path.name: path for path in sorted(PROMPTS.iterdir()) if path.is_dir()}
    with set_stage(folder, MODEL, sources, progress) as stage:
        progress("answering")
        model = stage.model
        content = model.chat([{"role": "user", "content": question}])

        def generate(prompt: "LoadedPrompt | None", most: int) -> "Generation":
            return model.generate(content, prompt=prompt, max_new_tokens=most)

        def first_token(number: int, prompt: "LoadedPrompt") -> Latency:
            if number == len(unprompted):  # the plain model once a round, beside the others
                unprompted.append(generate(None, 1).latency)
            return generate(prompt, 1).latency

        unprompted: list[Latency] = []
        plain = generate(None, _ANSWER)
        results = [generate(prompt.loaded, _ANSWER) for prompt in stage.prompts]
        stage.swap(first_token)
        answers = [
            Answer(
                prompt=None,
                text=plain.text,
                file_bytes=0,
                virtual_tokens=0,
                cold_ms=0.0,
                swap_us=0.0,
                ttft_ms=_median_ttft(unprompted),
                tpot_ms=plain.latency.tpot_ms,
            )
        ]
        answers += [
            Answer(
                prompt=prompt.loaded.name,
                text=result.text,
                file_bytes=prompt.file_bytes,
                virtual_tokens=prompt.loaded.num_virtual_tokens,
                cold_ms=prompt.loaded.load_ms,
                swap_us=prompt.swap_us,
                ttft_ms=_median_ttft(prompt.latencies),
                tpot_ms=result.latency.tpot_ms,
            )
            for prompt, result in zip(stage.prompts, results, strict=True)
        ]
    return Demo(**vars(stage.shown(folder)), question=question, answers=answers)


def _median_ttft(latencies: Iterable[Latency]) -> float:
    return median(latency.ttft_ms or 0.0 for latency in latencies)
