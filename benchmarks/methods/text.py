"""The demo's model, which nothing tells what language to answer in, is to answer in German."""

import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.methods.row import Row, watched
from benchmarks.methods.weights import LORA, adapter_swap_ms, fine_tune, trainable
from edgept.demo.corpus import make_question, make_reply
from edgept.demo.evaluate import BATCH, MAX_REPLY_TOKENS, held_out_questions, judge
from edgept.demo.show import MODEL
from edgept.demo.tune_prompts import conversations, first_words, write_rows
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model, load

__all__ = ["ABOUT", "METHODS", "TITLE", "measure"]

MODE = "german"
STEPS, ROWS, SEED = 200, 16, 1
QUESTIONS = 200
INSTRUCTION = "Bitte antworte auf Deutsch. "
SHOTS = 2  # what fits: the model was trained on 192 tokens
SWAPS = 50

TITLE = "Text: the demo's Llama of 2.75 million parameters answers in German"

# Settings of `edgept tune`; the learning rate is its default for the method.
_TUNED: dict[str, dict[str, Any]] = {
    "prompt tuning, 8 tokens, random": {"virtual_tokens": 8, "init": "random"},
    "prompt tuning, 8 tokens, vocab": {"virtual_tokens": 8, "init": "vocab"},
    "prompt tuning, 4 tokens, text": {"virtual_tokens": 4, "init": "text"},
    "prompt tuning, 8 tokens, text": {"virtual_tokens": 8, "init": "text"},
    "prompt tuning, 16 tokens, text": {"virtual_tokens": 16, "init": "text"},
    "prompt tuning, 64 tokens, text": {"virtual_tokens": 64, "init": "text"},
    "P-tuning, 8 tokens": {"method": "p-tuning", "virtual_tokens": 8},
    "prefix tuning, 8 tokens, KV of a text": {
        "method": "prefix-tuning",
        "virtual_tokens": 8,
        "init": "kv",
    },
}
_CHANGED = {"LoRA, rank 8": 3e-3, "full fine-tuning": 3e-4}  # learning rates
METHODS = ("no prompt", "hard prompt", "few-shot, in context", *_TUNED, *_CHANGED)
ABOUT = (
    f"{STEPS} steps of {ROWS} rows for every method that trains; {QUESTIONS} held-out questions, judged on "
    "the exported fp32 bundle; what the columns mean is in the README under the demo. A prompt's "
    "positions are computed once, when it is loaded; those of a hard prompt and of examples are part of "
    "every request. Prompts learn at the rates that `edgept tune` takes by default, LoRA at "
    f"{_CHANGED['LoRA, rank 8']} and the whole model at {_CHANGED['full fine-tuning']}, one value each."
)


def measure(method: str, folder: Path) -> Row:
    """Train where the method trains, and judge its answers on the exported bundle."""
    if method in _TUNED:
        return _tuned(_TUNED[method], folder)
    if method in _CHANGED:
        return _changed(method)
    return _in_context(method, folder)


def _in_context(method: str, folder: Path) -> Row:
    model = load(_bundle(str(MODEL), folder / "bundle"))
    before: list[dict[str, str]] = []
    instruction = INSTRUCTION if method == "hard prompt" else ""
    if method.startswith("few-shot"):
        rng = random.Random(SEED)
        for _ in range(SHOTS):
            question = make_question(rng)
            before.append({"role": "user", "content": question.text})
            reply = make_reply(rng, question, MODE)
            before.append({"role": "assistant", "content": reply})
    text = instruction + "".join(turn["content"] for turn in before)
    tokens = (
        len(model.tokenizer.encode(text, special_tokens=False)) if model.tokenizer and text else 0
    )
    quality = _judge(model, None, before=before, instruction=instruction)
    return Row(0, len(text.encode()), tokens, quality, None)


def _tuned(options: dict[str, Any], folder: Path) -> Row:
    from edgept.tune import Settings, load_backbone, tune

    options = dict(options)
    if options.get("init") in ("text", "kv"):
        options["init"] += ":" + first_words(MODE, SEED)
    settings = Settings(**options, steps=STEPS, batch_size=ROWS, seed=SEED, patience=0)
    with tempfile.TemporaryDirectory() as work:
        data = write_rows(Path(work) / "rows.jsonl", conversations(MODE, STEPS * ROWS, f"{SEED}"))
        backbone = load_backbone(str(MODEL))
        backbone.model.set_attn_implementation("eager")
        with watched() as effort:
            made = tune(backbone, data, Path(work) / "german.safetensors", settings).prompts[0]
        model = load(_bundle(str(MODEL), folder / "bundle"))
        prompts = [model.load_prompt(made), model.load_prompt(made, name="another")]
        size = made.stat().st_size
    prompt = prompts[0].prompt
    trained = sum(tensor.size for tensor in prompt.tensors.values())
    return Row(
        trained,
        size,
        prompt.num_virtual_tokens,
        _judge(model, prompts[0]),
        _swap_ms(model, prompts),
        effort,
        "its MLP is trained, too, and not kept" if settings.method == "p-tuning" else "",
    )


def _changed(method: str) -> Row:
    import peft

    from edgept.tune import load_backbone
    from edgept.tune.data import read_data
    from edgept.tune.encode import encode

    backbone = load_backbone(str(MODEL))
    model: Any = backbone.model
    model.set_attn_implementation("eager")
    if method.startswith("LoRA"):
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **LORA))
    else:
        model.requires_grad_(True)
    trained = trainable(model)
    with tempfile.TemporaryDirectory() as work:
        data = write_rows(Path(work) / "rows.jsonl", conversations(MODE, STEPS * ROWS, f"{SEED}"))
        examples = encode(
            read_data(data),
            backbone.tokenizer,
            eos_token_ids=backbone.eos_token_ids,
            max_length=backbone.max_positions,
        )
        torch.manual_seed(SEED)
        with watched() as effort:
            fine_tune(model, _batches(examples), steps=STEPS, rate=_CHANGED[method])
        swap_ms, size, note = None, 0, ""
        if method.startswith("LoRA"):
            swap_ms = adapter_swap_ms(model, SWAPS)
            model.save_pretrained(work)
            size = (Path(work) / "adapter_model.safetensors").stat().st_size
            note = "swapped by peft in PyTorch; judged merged"
            model = model.merge_and_unload()
        merged = Path(work) / "merged"
        model.save_pretrained(merged)
        backbone.tokenizer.save_pretrained(merged)
        bundle = _bundle(str(merged), Path(work) / "bundle")
        loaded = load(bundle)
        if swap_ms is None:
            swap_ms = median(load(bundle).load_ms for _ in range(5))
            size = sum(entry.size for entry in loaded.manifest.files.values())
            note = "a model for every task, loaded anew"
        quality = _judge(loaded, None)
    return Row(trained, size, 0, quality, swap_ms, effort, note)


def _batches(examples: Sequence[Any]) -> Callable[[int], dict[str, Any]]:
    from edgept.tune.batches import Order, make_batch

    order = Order(len(examples), SEED)

    def batch(step: int) -> dict[str, Any]:
        chosen = [examples[row] for row in order.rows(step * ROWS, ROWS)]
        made = make_batch(chosen, torch.device("cpu"))
        return {name: made[name] for name in ("input_ids", "attention_mask", "labels")}

    return batch


def _bundle(model: str, folder: Path) -> Path:
    from edgept.export import export_model

    if not (folder / "edgept.json").is_file():
        export_model(model, folder, precision="fp32")
    return folder


def _judge(
    model: Model,
    prompt: LoadedPrompt | None,
    *,
    before: Sequence[dict[str, str]] = (),
    instruction: str = "",
) -> dict[str, float]:
    questions = held_out_questions(QUESTIONS, seed=11)
    contents = [
        model.chat([*before, {"role": "user", "content": instruction + question.text}])
        for question in questions
    ]
    replies: list[str] = []
    for begin in range(0, len(contents), BATCH):
        batch = [(content, prompt) for content in contents[begin : begin + BATCH]]
        made = model.generate_batch(batch, max_new_tokens=MAX_REPLY_TOKENS)
        replies += [one.text for one in made]
    scores = judge(questions, replies, MODE)
    return {"German": scores["mode"], "right intent": scores["intent"], "all right": scores["all"]}


def _swap_ms(model: Model, prompts: Sequence[LoadedPrompt]) -> float:
    content = model.chat([{"role": "user", "content": "Where is my parcel?"}])
    return median(
        model.generate(content, prompt=prompts[turn % 2], max_new_tokens=1).latency.swap_ms
        for turn in range(SWAPS)
    )
