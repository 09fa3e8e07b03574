"""Pictures that are looked at: a file in memory, its phases, and what is found in it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgept.bench.answers import Answer
from edgept.bench.ceilings import Ceilings, measure_ceilings
from edgept.bench.earlier import Earlier, request_of
from edgept.bench.phases import TITLES, Samples
from edgept.bench.picture import PictureFile, find_picture
from edgept.bench.plan import Plan
from edgept.bench.question import Question
from edgept.bench.residents import bytes_to_take
from edgept.bench.sightings import first_number, numbers
from edgept.bench.subject import Least, Shared, Subject
from edgept.bench.turns import do_the_same
from edgept.errors import UsageError
from edgept.latency import Latency
from edgept.manifest import ImageGeometry, Manifest
from edgept.prompt import Prompt
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model

__all__ = ["Pictures", "check", "choose", "least_request"]

_TASKS_OWN = frozenset(
    {"swap", "run", "read_out", "end_to_end"}
)  # phases that a task makes long or short
_TITLES = {**TITLES, "process_start": "process to first result"}


@dataclass(frozen=True)
class Pictures:
    """A picture under any prompt; see `edgept.bench.subject.Subject`.

    Attributes:
        request: what is said of it.
        copies: its bytes, one for each row of a batch, so that each is decoded.
        path: where a process of its own finds it.
    """

    request: PictureFile
    copies: Sequence[bytes]
    path: Path

    @property
    def titles(self) -> Mapping[str, str]:
        """Of the phases, by name."""
        return _TITLES

    @property
    def message(self) -> Mapping[str, object]:
        """The path."""
        return {"picture": str(self.path)}

    def run(self, model: Model, prompts: Sequence[LoadedPrompt]) -> tuple[Samples, list[Answer]]:
        """Look at the picture once under each prompt."""
        rows = list(zip(self.copies, prompts, strict=False))
        began = time.perf_counter()
        found = model.see_batch(rows)
        took_ms = (time.perf_counter() - began) * 1e3
        answers = [numbers(item) for item in found]
        return _of_latencies([item.latency for item in found], took_ms), answers

    def first(self, answer: Answer) -> int:
        """Its class, first label, or the place of its largest number."""
        return first_number(answer)

    def ceilings(self, model: Model, prompt: LoadedPrompt) -> Ceilings:
        """Those of the run over all rows: virtual tokens are run with every picture."""
        positions = 1 + prompt.num_virtual_tokens + _image(model).num_patches
        return measure_ceilings(model, prefill_tokens=positions * len(self.copies), length=None)

    def unlike(self, other: Question | PictureFile) -> str:
        """The same bytes are looked at."""
        same = isinstance(other, PictureFile) and other.sha256 == self.request.sha256
        return "" if same else "the requests are not the same picture"

    def work(self, model: Model, prompt: LoadedPrompt) -> str:  # noqa: ARG002 - texts need it
        """The prompt's task."""
        return prompt.prompt.task

    def beside(
        self,
        model: Model,
        pool: Sequence[LoadedPrompt],
        other: Model,
        other_pool: Sequence[LoadedPrompt],
    ) -> Shared:
        """The picture, which every model reads by itself."""
        notes = []
        sides = [f"{i.width} x {i.height}" for i in (_image(model), _image(other))]
        if sides[0] != sides[1]:
            notes.append(f"the graphs take {sides[0]} pixels here and {sides[1]} there")
        ours = [self.work(model, prompt) for prompt in pool]
        theirs = [self.work(other, prompt) for prompt in other_pool]
        if do_the_same(ours, theirs):
            return Shared(self, notes)
        notes.append(
            f"the prompts that take turns are for {', '.join(ours)} here and for {', '.join(theirs)} there: "
            "other work, so no ratio of what a task makes long or short is called a difference"
        )
        return Shared(self, notes, _TASKS_OWN)

    def notes(self) -> list[str]:
        """That the picture is nobody's."""
        if self.request.name:
            return []
        return ["no picture was given: one was made; how long decoding takes depends on it"]


def check(
    plan: Plan,
    manifest: Manifest,
    prompts: Sequence[Prompt],  # noqa: ARG001 - texts need them
    earlier: Earlier | None,
) -> None:
    """See `edgept.bench.subject.Kind`."""
    given = {"--prompt-length": plan.prompt_length, "--new-tokens": plan.new_tokens}
    for option, value in given.items():
        if value is not None:
            raise UsageError(
                f"{option} is for models that generate text; {plan.bundle} looks at pictures, whose size in "
                "tokens is the model's own. Leave it out."
            )
    _, request = find_picture(plan.picture, request_of(earlier, PictureFile), plan.seed)
    _check_memory(manifest, request, plan.batch)


def least_request(model: Model) -> Least:
    """A grey picture of the graph's own size, with nothing to decode and little to resize."""
    image = _image(model)
    grey = np.full((image.height, image.width, 3), 128, np.uint8)

    def run(prompt: LoadedPrompt) -> Latency:
        return model.see(grey, prompt=prompt).latency

    return run


def choose(
    plan: Plan,
    model: Model,  # noqa: ARG001 - texts need both
    pool: Sequence[LoadedPrompt],  # noqa: ARG001
    earlier: Earlier | None,
    folder: Path,
) -> Subject:
    """See `edgept.bench.subject.Kind`."""
    data, request = find_picture(plan.picture, request_of(earlier, PictureFile), plan.seed)
    path = folder / "picture"
    path.write_bytes(data)
    return Pictures(request, [bytes(bytearray(data)) for _ in range(plan.batch)], path)


def _image(model: Model) -> ImageGeometry:
    return _geometry(model.manifest)


def _geometry(manifest: Manifest) -> ImageGeometry:
    if manifest.image is None:
        raise AssertionError("only bundles that look at pictures come here")
    return manifest.image


def _check_memory(manifest: Manifest, request: PictureFile, batch: int) -> None:
    """Refuse more rows than the free memory holds, each a file's copy and its pixel values."""
    image, most = _geometry(manifest), bytes_to_take()
    # float32 until the graph takes them, whatever its own type
    each = request.nbytes + 3 * image.height * image.width * np.dtype(np.float32).itemsize
    if most is not None and batch * each > most:
        raise UsageError(
            f"{batch} pictures in a batch, {each / 1e6:.2f} MB each as files and pixel values, do not fit the "
            f"{most / 1e6:.0f} MB of free memory that may be taken. Ask for --batch {max(1, int(most / each))} or "
            "fewer; what the model computes between needs memory, too."
        )


def _of_latencies(latencies: Sequence[Latency], took_ms: float) -> Samples:
    """The phases of pictures that were asked for together, each once for all.

    What is left of the call is the read-out: from logits to classes, areas or boxes.
    """
    # pictures that ran together share the times of their run
    runs = {(one.swap_ms, one.preprocess_ms, one.decode_ms, one.prefill_ms) for one in latencies}
    swap, preprocess, decode, run = (
        sum(each or 0.0 for each in part) for part in zip(*runs, strict=True)
    )
    return {
        "decode": [decode],
        "preprocess": [preprocess - decode],
        "swap": [swap],
        "run": [run],
        "read_out": [took_ms - preprocess - swap - run],
    }
