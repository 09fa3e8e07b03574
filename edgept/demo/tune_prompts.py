"""Tune one prompt for each mode on the frozen model, with peft's prompt tuning.

python -m edgept.demo.tune_prompts --model model --out prompts
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from peft import PromptTuningConfig, PromptTuningInit, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer

from edgept.demo.corpus import END, MODES, REPLY, make_question, make_reply, wrap

IGNORED = -100  # a label that the loss leaves out


def make_batch(
    tokenizer: Tokenizer, rng: random.Random, mode: str, rows: int
) -> dict[str, torch.Tensor]:
    """Questions with their replies in one mode; only the replies count.

    Returns:
        input_ids, attention_mask and labels, int64 (rows, tokens), padded on the right.
    """
    asked, replied = [], []
    for _ in range(rows):
        question = make_question(rng)
        asked.append(tokenizer(wrap(question.text))["input_ids"])
        replied.append(tokenizer(make_reply(rng, question, mode) + END)["input_ids"])
    tokens = max(len(a) + len(r) for a, r in zip(asked, replied, strict=True))
    ids = torch.zeros(rows, tokens, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, (a, r) in enumerate(zip(asked, replied, strict=True)):
        ids[row, : len(a) + len(r)] = torch.tensor(a + r)
        mask[row, : len(a) + len(r)] = 1
        labels[row, len(a) : len(a) + len(r)] = torch.tensor(r)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def first_words(mode: str, seed: int) -> str:
    """A reply in the mode, to start the prompt from."""
    rng = random.Random(seed)
    return REPLY + make_reply(rng, make_question(rng), mode) + END


def tune(
    mode: str, *, model_path: Path, out: Path, virtual_tokens: int, steps: int, lr: float,
    rows: int, seed: int,
) -> dict[str, float]:  # fmt: skip
    """Tune one prompt and write it as a peft adapter folder `out/mode`."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    base = AutoModelForCausalLM.from_pretrained(
        model_path, dtype=torch.float32, attn_implementation="eager"
    )
    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=virtual_tokens,
        prompt_tuning_init=PromptTuningInit.TEXT,
        prompt_tuning_init_text=first_words(mode, seed),
        tokenizer_name_or_path=str(model_path),
    )
    model = get_peft_model(base, config)
    prompt = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(prompt, lr=lr, weight_decay=0.0)
    rng = random.Random(f"{seed} {mode}")
    began, recent = time.perf_counter(), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:  # warm-up, then down to a twentieth
            group["lr"] = lr * min((step + 1) / 20, max(0.05, 1 - step / steps))
        loss = model(**make_batch(tokenizer, rng, mode, rows)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(prompt, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent = loss.item() if step == 0 else 0.95 * recent + 0.05 * loss.item()
        if (step + 1) % 100 == 0:
            print(
                json.dumps({"mode": mode, "step": step + 1, "loss": round(recent, 4)}), flush=True
            )
    model.save_pretrained(str(out / mode))
    return {"loss": round(recent, 4), "seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    """Tune the prompts asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modes", nargs="*", default=MODES, help="which (default: all)")
    parser.add_argument("--model", type=Path, default=Path("model"))
    parser.add_argument("--out", type=Path, default=Path("prompts"))
    parser.add_argument("--virtual-tokens", type=int, default=8)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--rows", type=int, default=16, help="questions in a step")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for mode in args.modes:
        figures = tune(
            mode, model_path=args.model, out=args.out, virtual_tokens=args.virtual_tokens,
            steps=args.steps, lr=args.lr, rows=args.rows, seed=args.seed,
        )  # fmt: skip
        print(json.dumps({"mode": mode, **figures}), flush=True)


if __name__ == "__main__":
    main()
