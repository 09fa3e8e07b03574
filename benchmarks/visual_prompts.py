"""What visual prompts are worth on real pictures: chest X-rays, with the demo's small image model.

    python -m benchmarks.visual_prompts FOLDER [--seeds 3]

Pneumonia or not, on PneumoniaMNIST (../shared/data/pneumoniamnist): a linear probe, visual prompts before
the first layer and before every layer, and training of the whole model; all judged on exported bundles.
Writes benchmarks/VISUAL_PROMPTS.md; what is trained already is kept in FOLDER.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import ViTForImageClassification

from edgept.demo.look import MODEL, PROMPTS
from edgept.export import export_model
from edgept.pictures import Preprocessor
from edgept.prompt_file import read_prompt
from edgept.runtime.device import read_device
from edgept.runtime.model import Model, load
from edgept.tune import Settings, load_backbone, tune
from edgept.tune.vision.metrics import classification_metric

PAGE = Path(__file__).parent / "VISUAL_PROMPTS.md"
DATA = Path(__file__).parents[2] / "shared/data/pneumoniamnist/pneumoniamnist.npz"
LABELS = ("normal", "pneumonia")
STEPS, ROWS = 200, 32
WHOLE_RATE = 3e-4
TIMED_ROUNDS = 100


@dataclass(frozen=True)
class Method:
    """A way of giving the model its task; `method` as `edgept tune` calls it, or empty: the whole model."""

    name: str
    method: str = ""
    virtual_tokens: int = 0
    is_fresh: bool = False  # from random weights, to see what the pretraining is worth

    @property
    def key(self) -> str:
        """As part of a file's name."""
        return self.name.replace(" ", "-").replace(",", "")


METHODS = (
    Method("linear probe", "head"),
    *(Method(f"VPT shallow, {p} tokens", "vpt-shallow", p) for p in (4, 16)),
    *(Method(f"VPT deep, {p} tokens", "vpt-deep", p) for p in (4, 16)),
    Method("full fine-tuning"),
    Method("whole model from random weights", is_fresh=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    if not DATA.exists():
        sys.exit(f"the X-rays are not there: {DATA}. Get pneumoniamnist.npz from medmnist.com.")
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    bundle = args.folder / "bundle"
    if not bundle.exists():
        export_model(str(MODEL), bundle, precision="fp32")
    for seed in range(args.seeds):
        for method in METHODS:
            _train(args.folder, method, seed)
            print(f"{method.name}, seed {seed}", file=sys.stderr, flush=True)
    model = load(bundle, threads=1)
    rows = [_measure(args.folder, model, method, args.seeds) for method in METHODS]
    for method, times in zip(METHODS, _time(args.folder, model), strict=True):
        rows[METHODS.index(method)] |= times
    PAGE.write_text(_page(rows, args.seeds), encoding="utf-8")
    (args.folder / "rows.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


def _place(folder: Path, method: Method, seed: int) -> Path:
    """The prompt file, or the bundle of a model of its own."""
    name = f"{method.key}-{seed}"
    return folder / (f"{name}.safetensors" if method.method else name)


def _train(folder: Path, method: Method, seed: int) -> None:
    """Train what is not there yet; the best by the loss on the validation pictures is kept."""
    place = _place(folder, method, seed)
    if place.exists():
        return
    started = time.process_time()
    if method.method:
        settings = Settings(
            method=method.method,
            virtual_tokens=method.virtual_tokens or 1,
            labels=LABELS,
            steps=STEPS,
            batch_size=ROWS,
            seed=seed,
            eval_every=STEPS // 10,
            patience=0,
        )
        tune(load_backbone(str(MODEL)), DATA, place, settings)
    else:
        _train_whole(folder / "whole", method, seed)
        export_model(str(folder / "whole"), place, precision="fp32")
    seconds = time.process_time() - started
    (folder / f"{method.key}-{seed}.json").write_text(json.dumps({"cpu_s": seconds}))


def _train_whole(out: Path, method: Method, seed: int) -> None:
    """AdamW on all weights, with the steps, rows, schedule and choice of the best that prompts have."""
    torch.manual_seed(seed)
    names: dict[str, Any] = {"num_labels": len(LABELS), "id2label": dict(enumerate(LABELS))}
    model = ViTForImageClassification.from_pretrained(MODEL, dtype=torch.float32, **names)
    if method.is_fresh:
        model = ViTForImageClassification(model.config)
    model.set_attn_implementation("eager")
    pictures, classes = _pixels("train"), torch.from_numpy(_arrays("train")[1]).long()
    held_out, held_classes = _pixels("val"), torch.from_numpy(_arrays("val")[1]).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=WHOLE_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, WHOLE_RATE, STEPS, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    best, kept = float("inf"), model.state_dict()
    for step in range(STEPS):
        torch.nn.Module.train(model)
        rows = torch.randint(len(pictures), (ROWS,), generator=generator)
        loss = model(pixel_values=pictures[rows], labels=classes[rows]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if (step + 1) % (STEPS // 10) == 0:
            torch.nn.Module.eval(model)
            with torch.no_grad():
                found = float(model(pixel_values=held_out, labels=held_classes).loss)
            if found < best:
                best, kept = found, {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(kept)
    model.save_pretrained(out)
    settings = (MODEL / "preprocessor_config.json").read_bytes()
    (out / "preprocessor_config.json").write_bytes(settings)


def _arrays(split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Pictures uint8 (n, 28, 28, 3) and their classes (n,)."""
    with np.load(DATA) as archive:
        images, labels = archive[f"{split}_images"], archive[f"{split}_labels"]
    return np.repeat(images[..., None], 3, axis=3), labels.reshape(-1)


def _pixels(split: str) -> torch.Tensor:
    """(n, 3, height, width), as the runtime makes them."""
    from PIL import Image

    preprocessor = Preprocessor.from_file(MODEL / "preprocessor_config.json")
    made = [preprocessor(Image.fromarray(picture)) for picture in _arrays(split)[0]]
    return torch.from_numpy(np.stack(made))


def _measure(folder: Path, model: Model, method: Method, seeds: int) -> dict[str, Any]:
    """Test accuracy and AUC of each seed on exported bundles, sizes, and the CPU time of training."""
    pictures, classes = _arrays("test")
    row: dict[str, Any] = {"name": method.name, "tokens": method.virtual_tokens}
    figures = []
    for seed in range(seeds):
        place = _place(folder, method, seed)
        prompt = model.load_prompt(place) if method.method else None
        runner = model if method.method else load(place, threads=1)
        found = runner.classify_image_batch([(picture, prompt) for picture in pictures])
        figures.append(
            classification_metric(np.array([one.probabilities for one in found]), classes)
        )
        spent = json.loads((folder / f"{method.key}-{seed}.json").read_text())
        row.setdefault("cpu_s", []).append(spent["cpu_s"])
        if method.method:
            row["parameters"] = sum(array.size for array in read_prompt(place).tensors.values())
            row["bytes"] = place.stat().st_size
        else:
            weights = ViTForImageClassification.from_pretrained(folder / "whole")
            row["parameters"] = sum(parameter.numel() for parameter in weights.parameters())
            row["bytes"] = sum(file.stat().st_size for file in place.iterdir())
    return row | {name: [figure[name] for figure in figures] for name in ("accuracy", "auc")}


def _time(folder: Path, model: Model) -> list[dict[str, Any]]:
    """Median swap and time of a picture; methods in turn, each after another prompt or model."""
    picture = _arrays("test")[0][0]
    asks: list[Callable[[], Any]] = []
    loads: dict[int, list[float]] = {}
    for index, method in enumerate(METHODS):
        place = _place(folder, method, 0)
        if method.method:
            prompt = model.load_prompt(place)
            asks.append(partial(model.classify_image, picture, prompt=prompt))
        else:
            loads[index] = [load(place, threads=1).load_ms for _ in range(10)]
            asks.append(partial(load(place, threads=1).classify_image, picture))
    other = model.load_prompt(PROMPTS / "classify.safetensors")
    times: list[list[tuple[float, float]]] = [[] for _ in METHODS]
    for _ in range(TIMED_ROUNDS):
        for index, ask in enumerate(asks):
            model.classify_image(picture, prompt=other)
            latency = ask().latency
            times[index].append((latency.swap_ms, latency.total_ms))
    return [
        {
            "swap_ms": median(loads[index] if index in loads else [swap for swap, _ in each]),
            "picture_ms": median([total for _, total in each]),
        }
        for index, each in enumerate(times)
    ]


def _page(rows: list[dict[str, Any]], seeds: int) -> str:
    device = read_device()
    versions = ", ".join(
        f"{name} {device.packages[name]}"
        for name in ("torch", "transformers", "onnxruntime")
        if name in device.packages
    )
    lines = [
        "# Visual prompts on X-rays, measured",
        "",
        (
            f"`python -m benchmarks.visual_prompts FOLDER` writes this page. {device.cpu.model}, {versions}, "
            "one thread. "
            "Pneumonia or normal, 2428 pictures of 28 x 28 to learn from, 270 to choose the best step by, 468 to "
            "test; half of each are normal. The image model is the demo's, of 0.6 million parameters, which "
            "learned from generated shapes and never saw an X-ray."
        ),
        "",
        (
            f"{STEPS} steps of {ROWS} pictures for every method, {_seeds(seeds)}, judged "
            "on exported fp32 bundles. Prompts learn at the rates that `edgept tune` takes by default, the whole "
            f"model at {WHOLE_RATE:g}; nobody searched for better ones. The swap of a whole model is loading it; "
            "training is CPU time and includes the export of a whole model. The machine did other work, too: "
            "take times as an order of magnitude."
        ),
        "",
        "| Method | accuracy, % | AUC | trained parameters | file | swap | a picture | training |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        accuracy = _spread([100 * value for value in row["accuracy"]], 1)
        swap = row["swap_ms"]
        cells = [row["name"], accuracy, _spread(row["auc"], 3), f"{row['parameters']:,}"]
        cells.append(
            f"{row['bytes'] / 1e3:.1f} kB" if row["bytes"] < 1e6 else f"{row['bytes'] / 1e6:.1f} MB"
        )
        cells.append(f"{swap * 1e3:.0f} µs" if swap < 1 else f"{swap:.0f} ms")
        cells += [f"{row['picture_ms']:.2f} ms", f"{mean(row['cpu_s']):.0f} s"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"mean and standard deviation of {count} seeds"


def _spread(values: list[float], digits: int) -> str:
    """Mean and standard deviation."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
