"""FIDELITY.md's table: one family through it, and what the page says."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("peft", reason="needs edgept[tune]")

from benchmarks.adapters import METHODS
from benchmarks.exactness import Cell, cells_to_run, measure_family, shorten
from benchmarks.families import FAMILIES, GROUPS
from benchmarks.fidelity import make_page

TASK = "text-classification"
BERT = next(family for family in FAMILIES if family.kind == "bert")


def test_one_family(tmp_path: Path) -> None:
    cells = measure_family(BERT, tmp_path / "bert", {TASK: tuple(METHODS)})
    found = {cell.method: cell for cell in cells}
    assert list(found) == list(METHODS)
    for method, cell in found.items():
        if method == "cpt":
            continue
        assert cell.is_exact, cell
        assert not cell.is_built
        # padding behind a text changes nothing in peft, before it does
        assert cell.right is not None
        assert cell.left is not None
        assert cell.right < 1e-4 < cell.left
        assert cell.effect is not None
        assert cell.effect > 1e-3
    assert found["cpt"].refused == "peft itself: CPTConfig only supports task_type = CAUSAL_LM"
    page = make_page(cells, "A test writes this page.")
    assert (
        "7 combinations: 6 are exact, 0 are not, 1 are refused, 1 of them by peft itself." in page
    )
    row = next(line for line in page.splitlines() if line.startswith("| BERT"))
    assert row.count("[1]") == 1
    assert "1. peft itself: CPTConfig" in page


def test_quick_covers_every_family_and_every_method() -> None:
    for group in GROUPS:
        chosen = [cells_to_run(family, quick=True) for family in FAMILIES if family.group == group]
        methods = {name for tasks in chosen for names in tasks.values() for name in names}
        assert all(len(tasks) == 1 for tasks in chosen)
        assert methods == set(METHODS)
        assert {task for tasks in chosen for task in tasks} == set(GROUPS[group])
    assert set(cells_to_run(BERT, quick=False)) == set(BERT.tasks)


def test_what_is_not_exact_stands_out() -> None:
    cell = Cell("Llama", "text-generation", "cpt", max_rel=3e-7, equal=64, tokens=64)
    for changed, text in (
        (cell, "| 3e-07 = |"),
        (replace(cell, equal=63), "| **3e-07, 63 of 64** |"),
        (replace(cell, max_rel=2e-3), "| **2e-03 =** |"),
        (replace(cell, diverged=1), "| **3e-07 =** |"),
        (replace(cell, max_rel=float("nan")), "| **nan =** |"),
    ):
        assert text in make_page([changed], "")


def test_an_error_is_shortened(tmp_path: Path) -> None:
    log = tmp_path / "edgept.log"
    log.touch()
    error = ValueError(f"prompt 'a' in {tmp_path}/b is odd, sorry. Train it again. Log: {log}")
    assert shorten(error, tmp_path) == "the prompt in it is odd, sorry"
    assert not log.exists()
