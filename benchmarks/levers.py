"""What was tried to make requests quicker: each lever against none, interleaved; see NOTES.md.

    python -m benchmarks.levers [FOLDER] [--quick]

Three kinds: how many tokens of a request run at once, how many weights share a scale, and
onnxruntime's session options.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime

import edgept
from benchmarks.claim import Claim, Setting, random_ids, run_script, say_ratio, spread, table
from benchmarks.peers import prepare
from edgept.bench.ratio import ratio_of_pairs
from edgept.runtime import decoder

__all__ = ["measure"]

_CHUNKS = (1 << 20, 256, 128, 64)  # the first is a whole request
_BLOCKS = (32, 64)
_OPTIONS: tuple[Mapping[str, str], ...] = (
    {},
    {"session.intra_op.allow_spinning": "0"},
    {"session.dynamic_block_base": "4"},
    {"session.set_denormal_as_zero": "1"},
    {"session.intra_op.spin_backoff_max": "8"},
)
_PAUSE_S = 0.02  # threads of the session before stop spinning meanwhile


def measure(setting: Setting) -> Claim:
    """All levers on the smaller shape."""
    files, threads = setting.files(setting.shapes[0]), setting.threads
    prepare("edgept", files)
    parts = []
    for title, runs in (
        ("Tokens of a request at once", _chunks(files.bundle, threads)),
        ("Weights that share a scale", _blocks(files.folder, files.model, threads)),
        ("Session options", _options(files.bundle, threads)),
    ):
        setting.say(title)
        parts += [f"### {title}", "", _compare(setting, runs), ""]
    about = f"{files.shape}, {threads} threads; the first line of each table is what the others are over."
    return Claim("Levers", about, "\n".join(parts), [], raw={"tables": parts})


Request = Callable[[int, int], edgept.Generation]
"""Ask with so many tokens of input for so many new ones."""


def _chunks(bundle: Path, threads: int) -> dict[str, Request]:
    model = edgept.load(bundle, threads=threads)

    def with_chunk(chunk: int) -> Request:
        def ask(length: int, count: int) -> edgept.Generation:
            kept, decoder._CHUNK = decoder._CHUNK, chunk
            try:
                return model.generate(random_ids(length, length), max_new_tokens=count)
            finally:
                decoder._CHUNK = kept

        return ask

    return {f"{chunk}" if chunk < 1 << 20 else "all": with_chunk(chunk) for chunk in _CHUNKS}


def _blocks(folder: Path, model: Path, threads: int) -> dict[str, Request]:
    from edgept.export import export_model

    runs: dict[str, Request] = {}
    for block in _BLOCKS:
        bundle = folder / f"bundle-block-{block}"
        if not bundle.is_dir():
            export_model(str(model), bundle, precision="int4", block_size=block, verify=False)
        runs[str(block)] = _ask(edgept.load(bundle, threads=threads))
    return runs


def _options(bundle: Path, threads: int) -> dict[str, Request]:
    runs: dict[str, Request] = {}
    for entries in _OPTIONS:
        with _session_options(entries):
            name = ", ".join(f"{key}={value}" for key, value in entries.items()) or "none"
            runs[name] = _ask(edgept.load(bundle, threads=threads))
    return runs


def _ask(model: edgept.Model) -> Request:
    return lambda length, count: model.generate(random_ids(length, length), max_new_tokens=count)


@contextmanager
def _session_options(entries: Mapping[str, str]) -> Iterator[None]:
    """Sessions that are made meanwhile get these options, too."""
    kept: Any = onnxruntime.SessionOptions

    def make() -> Any:
        options = kept()
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        return options

    onnxruntime.SessionOptions = make
    try:
        yield
    finally:
        onnxruntime.SessionOptions = kept


def _compare(setting: Setting, runs: Mapping[str, Request]) -> str:
    """A table: time per output token, and prefill at each length, over the first run's."""
    effort = setting.effort
    lengths = effort.lengths
    found: dict[str, list[list[float]]] = {name: [[] for _ in (0, *lengths)] for name in runs}
    for number in range(effort.rounds + 1):
        times: dict[str, list[float | None]] = {}
        for name, ask in list(runs.items())[:: 1 if number % 2 else -1]:
            time.sleep(_PAUSE_S)
            latencies = [ask(lengths[0], effort.new_tokens).latency]
            latencies += [ask(length, 1).latency for length in lengths]
            times[name] = [latencies[0].tpot_ms, *(item.prefill_ms for item in latencies[1:])]
        # the first round warms up; of one that ended early, no time per token is known
        if number and all(all(values) for values in times.values()):
            for name, values in times.items():
                for series, value in zip(found[name], values, strict=True):
                    series.append(value or 0.0)
    base = next(iter(found.values()))
    rows = []
    for name, columns in found.items():
        cells = [name]
        for series, other in zip(columns, base, strict=True):
            ratio = "" if series is other else say_ratio(ratio_of_pairs(series, other))
            cells += [spread(series), ratio]
        rows.append(tuple(cells))
    header = ["", "ms per token", "over the first"]
    for length in lengths:
        header += [f"prefill of {length}, ms", "over the first"]
    return table(tuple(header), rows)


if __name__ == "__main__":
    run_script(measure, __doc__)
