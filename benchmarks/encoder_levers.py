"""What was tried to make encoders quicker: each lever taken back, interleaved; see NOTES.md.

    python -m benchmarks.encoder_levers [FOLDER] [--quick] [--threads 1]

With one thread the processor's time is measured, which other programs disturb less than the clock's.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import edgept
from benchmarks.claim import Claim, Setting, random_ids, run_script, say_ratio, spread, table
from benchmarks.runtimes.encoder import make_encoder
from edgept.bench.ratio import ratio_of_pairs
from edgept.runtime import graph as runtime_graph

__all__ = ["measure"]

_SHAPE = "minilm"
_PRECISIONS = ("fp32", "int8-dynamic")
_PAUSE_S = 0.02  # threads of the session before stop spinning meanwhile
_FIRST = "as it is"

Call = Callable[[Sequence[Sequence[int]]], object]


def measure(setting: Setting) -> Claim:
    """Every batch and length in both precisions."""
    files = setting.files(_SHAPE)
    make_encoder(files.model)
    rows: list[tuple[str, ...]] = []
    raw: dict[str, dict[str, list[float]]] = {}
    for precision in _PRECISIONS:
        setting.say(f"exporting {precision}")
        sides = _sides(files.folder, files.model, precision, setting.threads)
        for batch, length in setting.effort.encoder_batches:
            case = f"{precision}, {batch} × {length}"
            setting.say(case)
            found = _interleave(sides, setting, batch, length)
            raw[case] = found
            for name, times in found.items():
                ratio = "" if name == _FIRST else say_ratio(ratio_of_pairs(times, found[_FIRST]))
                rows.append((case, name, spread(times), ratio))
    clock = "the processor's time" if setting.threads == 1 else "the clock's time"
    about = (
        f"all-MiniLM-L6-v2's shape, {setting.threads} threads, {setting.effort.rounds} interleaved rounds, "
        f"{clock} of `embed_batch`."
    )
    body = table(("", "", "ms", f"over {_FIRST}"), rows)
    return Claim("Levers of encoders", about, body, [], raw=raw)


def _sides(folder: Path, model: Path, precision: str, threads: int) -> dict[str, Call]:
    bundles = {False: folder / f"bundle-{precision}", True: folder / f"bundle-{precision}-apart"}
    for apart, bundle in bundles.items():
        if not bundle.is_dir():
            _export(model, bundle, precision, apart)
    sides = {}
    for name, apart, fused in (
        (_FIRST, False, False),
        ("heads apart, a boolean mask", True, False),
        ("sums inside normalisations, bias inside GELU", False, True),
        ("both", True, True),
    ):
        with _fusions(fused):
            loaded = edgept.load(bundles[apart], threads=threads)
        sides[name] = _call(loaded)
    return sides


def _call(model: edgept.Model) -> Call:
    return lambda texts: model.embed_batch([(text, None) for text in texts])


def _export(model: Path, bundle: Path, precision: str, apart: bool) -> None:
    """The bundle, or what it was before its attention took the heads side by side."""
    from edgept.export import attention_layout, export_model
    from edgept.export.families import ENCODERS

    families, join = dict(ENCODERS), attention_layout.join_heads
    if apart:
        ENCODERS["bert"] = replace(families["bert"], adds_mask=False)
        attention_layout.join_heads = lambda model: 0  # noqa: ARG005
    try:
        export_model(
            str(model), bundle, task="feature-extraction", precision=precision, verify=False
        )
    finally:
        ENCODERS.update(families)
        attention_layout.join_heads = join


@contextmanager
def _fusions(allowed: bool) -> Iterator[None]:
    """Sessions that are made meanwhile fuse all that onnxruntime can."""
    kept = runtime_graph._SLOWER_FUSED
    if allowed:
        runtime_graph._SLOWER_FUSED = ()
    try:
        yield
    finally:
        runtime_graph._SLOWER_FUSED = kept


def _interleave(
    sides: dict[str, Call], setting: Setting, batch: int, length: int
) -> dict[str, list[float]]:
    """Milliseconds of each side by round."""
    clock = time.thread_time if setting.threads == 1 else time.perf_counter
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-1, setting.effort.rounds):
        texts = [random_ids(length, 100 * abs(number) + row) for row in range(batch)]
        turn = number % len(sides)
        order = [*sides.items()]
        for name, call in (order[turn:] + order[:turn])[:: 1 if number % 2 else -1]:
            time.sleep(_PAUSE_S)
            begin = clock()
            call(texts)
            if number >= 0:
                found[name].append((clock() - begin) * 1e3)
    return found


if __name__ == "__main__":
    run_script(measure, __doc__)
