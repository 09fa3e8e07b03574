"""Every family, task and method: what peft computes, and how far the exported bundle is from it.

    python -m benchmarks.fidelity [FOLDER] [--quick] [--jobs N] [--keep]

writes benchmarks/FIDELITY.md, anew after each family; with --quick a page in FOLDER. What was measured of a family stays in FOLDER, and
with --keep is not measured again: remove its .json to have it measured. Needs a checkout (the tests' tiny models) and the
extras `cpu`, `export` and `dev`.
"""

import argparse
import importlib.metadata
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.adapters import METHODS, TOKENS
from benchmarks.claim import table
from benchmarks.exactness import TOLERANCE, Cell, cells_to_run, measure_family, quiet
from benchmarks.families import FAMILIES, GROUPS, place_in_group
from benchmarks.image_fidelity import ImageCell, image_section, measure_images

__all__ = ["make_page"]

_PAGE = Path(__file__).parent / "FIDELITY.md"
_PACKAGES = ("edgept", "peft", "transformers", "torch", "onnxruntime", "onnxruntime-genai")
_NOT_RUN = "·"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/fidelity"))
    parser.add_argument("--quick", action="store_true", help="every family once, every method once")
    parser.add_argument("--jobs", type=int, default=1, help="families that are run at once")
    parser.add_argument(
        "--keep", action="store_true", help="take what FOLDER has of an earlier run"
    )
    given = parser.parse_args()
    began = time.monotonic()
    page = _PAGE
    if given.quick:  # a part is not the page, nor what --keep takes later
        given.folder /= "quick"
        page = given.folder / _PAGE.name
    command = "python -m benchmarks.fidelity" + (" --quick" if given.quick else "")
    cells: list[Cell] = []
    images: list[ImageCell] = []
    unfinished: list[str] = []
    spawn = get_context("spawn")
    with ProcessPoolExecutor(given.jobs, mp_context=spawn, initializer=quiet) as pool:
        folder = given.folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        running: dict[Future[Any], str] = {}
        # of each group in turn, so that a page that is not finished yet has something of all
        for family in sorted(FAMILIES, key=place_in_group):
            if given.keep and (folder / f"{family.kind}.json").is_file():
                kept = json.loads((folder / f"{family.kind}.json").read_text())
                cells += [Cell(**cell) for cell in kept]
                continue
            methods = cells_to_run(family, quick=given.quick)
            future = pool.submit(measure_family, family, folder / family.kind, methods)
            running[future] = f"{family.kind}.json"
        for done, future in enumerate(as_completed(running), 1):
            name = running[future]
            error = future.exception()
            if error is not None:  # the others are worth having
                unfinished.append(f"{name.removesuffix('.json')}: {type(error).__name__}: {error}")
            else:
                found: list[Cell] = future.result()
                (folder / name).write_text(json.dumps([asdict(cell) for cell in found]))
                cells += found
            seconds = time.monotonic() - began
            missing = len(running) - done
            said = f"{seconds:6.0f} s  {name.removesuffix('.json')}, {missing} to go\n"
            sys.stderr.write(said if error is None else f"{said}{unfinished[-1]}\n")
            if missing:
                note = (
                    f"**This page is not finished: {missing} of {len(running)} jobs are missing.**"
                )
                page.write_text(make_page(cells, note, unfinished), encoding="utf-8")
        images = _measure_images(folder, pool, keep=given.keep)
    minutes = (time.monotonic() - began) / 60
    took = (
        "its families were measured in several goes"
        if given.keep
        else f"it took {minutes:.0f} minutes"
    )
    note = f"`{command}` writes this page; {took}."
    if given.quick:
        note += " Quick: of each family one task and two methods, so that each method is run."
    page.write_text(make_page(cells, note, unfinished, images), encoding="utf-8")
    print(f"{page}: {_summary(cells)}")
    exact = all(cell.max_rel is None or cell.max_rel <= TOLERANCE for cell in images)
    if unfinished or not exact or not all(cell.is_exact or cell.refused for cell in cells):
        raise SystemExit(1)


def _measure_images(folder: Path, pool: ProcessPoolExecutor, *, keep: bool) -> list[ImageCell]:
    """Those of image models, which take a minute together."""
    kept = folder / "images.json"
    if keep and kept.is_file():
        return [ImageCell(**cell) for cell in json.loads(kept.read_text())]
    cells = pool.submit(measure_images, folder / "images").result()
    kept.write_text(json.dumps([asdict(cell) for cell in cells]))
    return cells


def make_page(
    cells: Sequence[Cell],
    note: str,
    unfinished: Sequence[str] = (),
    images: Sequence[ImageCell] = (),
) -> str:
    """FIDELITY.md.

    Args:
        cells: in any order.
        note: what wrote the page.
        unfinished: what stopped, and with what error.
        images: of image models.
    """
    footnotes: dict[str, int] = {}  # by text
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    lines = [
        "# Fidelity",
        "",
        f"{note} {versions}.",
        "",
        (
            "Each figure compares peft's own model in float32, its adapter saved with `save_pretrained`, with "
            "the exported float32 bundle that reads the saved folder: the largest difference of a logit, or "
            "of a hidden value where there is no head, over peft's largest, in the worst of texts of 1, 5, 17 "
            "and 33 tokens. The bundle runs texts alone and, of tasks that do not generate, in one ragged "
            "batch. All methods of a task run on one bundle. Models are tiny and random, of the family's own "
            f"architecture in transformers; prompts are random, of {TOKENS} virtual tokens."
        ),
        "",
        (
            "Where text is generated, `=` says that every greedy token over 64 steps is peft's, of seven "
            "texts, three of them in one ragged batch; of encoder-decoders those of four beams, too, of the "
            "same three; * where peft itself finds a bundle's beams and not its own when its prompt is moved by "
            "2e-6 of its values, so that rounding decides. Otherwise it says how many are, each text up to its first token that is not. "
            "Decoder-only bundles have no beam search. The figure of a multitask prompt on an encoder-decoder "
            "is to PyTorch with the rows before the encoder: peft's forward puts rows before the decoder as "
            "well, its generate does not. **Bold** is "
            f"what is not within {TOLERANCE:g} or not the same tokens. [n] is refused, for the reason below; "
            f"{_NOT_RUN} was not run. † is a graph of onnxruntime-genai's builder; the others are of torch.onnx. What "
            "fewer bits cost is in QUANTISATION.md."
        ),
        "",
        _summary(cells),
        "",
    ]
    lines += [f"- Did not finish: {text}" for text in unfinished]
    for group, tasks in GROUPS.items():
        for task in tasks:
            rows = _rows(cells, group, task, footnotes)
            if rows:
                header = ("Family", *(method.title for method in METHODS.values()))
                lines += [f"## {group}: {task}", "", table(header, rows), ""]
    if footnotes:
        lines += ["## Refused", ""]
        lines += [f"{number}. {text}" for text, number in footnotes.items()]
        lines.append("")
    lines += _padding(cells)
    lines += image_section(images)
    return "\n".join(lines)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _summary(cells: Sequence[Cell]) -> str:
    ran = [cell for cell in cells if not cell.refused]
    exact = sum(cell.is_exact for cell in ran)
    text = (
        f"{len(cells)} combinations: {exact} are exact, {len(ran) - exact} are not, "
        f"{len(cells) - len(ran)} are refused, {sum(cell.refused.startswith('peft') for cell in cells)} of them "
        "by peft itself."
    )
    effects = [cell.effect for cell in ran if cell.effect is not None]
    if effects:
        text += f" Under a prompt of zeros the outputs differ by at least {min(effects):.2g}."
    return text


def _rows(
    cells: Sequence[Cell], group: str, task: str, footnotes: dict[str, int]
) -> list[list[str]]:
    rows = []
    for family in FAMILIES:
        found = {
            cell.method: cell for cell in cells if (cell.family, cell.task) == (family.title, task)
        }
        if family.group == group and found:
            texts = [
                _say(found[name], footnotes) if name in found else _NOT_RUN for name in METHODS
            ]
            mark = " †" if any(cell.is_built for cell in found.values()) else ""
            rows.append([family.title + mark, *texts])
    return rows


def _say(cell: Cell, footnotes: dict[str, int]) -> str:
    if cell.max_rel is None:
        return f"[{footnotes.setdefault(cell.refused, len(footnotes) + 1)}]"
    text = f"{cell.max_rel:.0e}"
    if cell.tokens:
        text += " =" if cell.equal == cell.tokens else f", {cell.equal} of {cell.tokens}"
        text += "*" * bool(cell.ties)
    return text if cell.is_exact else f"**{text}**"


def _padding(cells: Sequence[Cell]) -> list[str]:
    """What padding changes in peft, whose batches are padded; a bundle's are not."""
    rows = []
    for family in FAMILIES:
        for task in family.tasks:
            ran = [cell for cell in cells if (cell.family, cell.task) == (family.title, task)]
            texts = [
                _say_worst(
                    [
                        getattr(cell, side)
                        for cell in ran
                        if METHODS[cell.method].has_keys == has_keys
                    ]
                )
                for has_keys in (False, True)
                for side in ("right", "left")
            ]
            if any(texts):
                rows.append([family.title, task, *texts])
    if not rows:
        return []
    header = (
        *("Family", "Task", "Rows, pads behind", "Rows, pads before"),
        *("Keys and values, pads behind", "Keys and values, pads before"),
    )
    about = (
        "A bundle computes of each text in a batch what peft computes of the text alone. What peft computes "
        "of a padded batch may differ from that: pads before a text stand between it and the prompt and are "
        "counted as positions, and a decoder that classifies under rows reads the last position, pad or not. "
        "The bundle against peft's batch of three texts, the worst of a family's methods that learn rows "
        "(prompt tuning, P-tuning, multitask, CPT) and of those that learn keys and values (prefix tuning, "
        f"CARTRIDGE): `=` is within {TOLERANCE:g}."
    )
    return ["## What padding changes in peft", "", about, "", table(header, rows), ""]


def _say_worst(differences: Sequence[float | None]) -> str:
    found = [item for item in differences if item is not None]
    if not found:
        return ""
    worst = max(found)
    return "=" if worst <= TOLERANCE else f"{worst:.1g}"


if __name__ == "__main__":
    main()
