"""Tune one prompt for each mode on the frozen model: `edgept tune`, on rows of the generated corpus.

python -m edgept.demo.tune_prompts --model model --out prompts
"""

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch

from edgept.demo.corpus import END, MODES, REPLY, make_question, make_reply
from edgept.peft_writer import write_peft_folder
from edgept.prompt_file import read_prompt
from edgept.tune import Settings, load_backbone, tune

BATCH_ROWS = 16
VALIDATION_ROWS = 64
EVAL_EVERY = 25


def conversations(mode: str, rows: int, seed: str) -> list[dict[str, Any]]:
    """Questions with their replies in one mode, as `edgept tune` reads conversations."""
    rng = random.Random(f"{seed} {mode}")
    made = []
    for _ in range(rows):
        question = make_question(rng)
        turns = (("user", question.text), ("assistant", make_reply(rng, question, mode)))
        made.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    return made


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON, one a line."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def first_words(mode: str, seed: int) -> str:
    """A reply in the mode, to start the prompt from."""
    rng = random.Random(seed)
    return REPLY + make_reply(rng, make_question(rng), mode) + END


def main() -> None:
    """Tune the prompts asked for, and leave each as the peft folder that the demo packs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modes", nargs="*", default=MODES, help="which (default: all)")
    parser.add_argument("--model", type=Path, default=Path("model"))
    parser.add_argument("--out", type=Path, default=Path("prompts"))
    parser.add_argument("--virtual-tokens", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(str(args.model))
    # On a CPU the backward pass of the fused attention takes three times that of plain matmuls.
    backbone.model.set_attn_implementation("eager")
    for mode in args.modes:
        with tempfile.TemporaryDirectory() as work:
            rows = conversations(mode, args.steps * BATCH_ROWS, f"{args.seed}")
            validation = conversations(mode, VALIDATION_ROWS, f"{args.seed} validation")
            tuned = tune(
                backbone,
                write_rows(Path(work) / "train.jsonl", rows),
                Path(work) / f"{mode}.safetensors",
                Settings(
                    virtual_tokens=args.virtual_tokens,
                    init="text:" + first_words(mode, args.seed),
                    steps=args.steps,
                    batch_size=BATCH_ROWS,
                    seed=args.seed,
                    eval_every=EVAL_EVERY,
                    metric_rows=0,
                ),
                evaluation=write_rows(Path(work) / "validation.jsonl", validation),
            )
            write_peft_folder(read_prompt(tuned.prompts[0]), None, args.out / mode, overwrite=True)
        record = tuned.record
        figures = {"loss": record["best"]["loss"], "without": record["without_prompt"]["loss"]}
        print(json.dumps({"mode": mode, "step": record["best"]["step"], **figures}), flush=True)


if __name__ == "__main__":
    main()
