"""Tune the three prompts of the vision demo on its frozen model: `edgept tune`, on generated pictures.

python -m edgept.demo.tune_vision --model vision/model --out vision/prompts
python -m edgept.demo.tune_vision classify segment --method head --steps 300 --out vision/heads
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from edgept.demo.views import TASKS, write_data
from edgept.tune import Settings, load_backbone, tune

TRAINING_SEED, VALIDATION_SEED = 1000, 2000
STEPS = {"classify": 600, "segment": 400, "detect": 1500}
_VALIDATIONS = 8


def main() -> None:
    """Tune the prompts asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=TASKS, help="which (default: all)")
    parser.add_argument("--model", type=Path, default=Path("vision/model"))
    parser.add_argument("--out", type=Path, default=Path("vision/prompts"))
    parser.add_argument("--method", default="vpt-deep", help="or vpt-shallow; head for comparison")
    parser.add_argument("--virtual-tokens", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--validation", type=int, default=300)
    parser.add_argument("--steps", type=int, help=f"default: {STEPS}")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(str(args.model))
    # On a CPU the backward pass of the fused attention takes twice that of plain matmuls.
    backbone.model.set_attn_implementation("eager")
    with tempfile.TemporaryDirectory() as work:
        data = write_data(Path(work) / "train", TRAINING_SEED, args.pictures)
        held_out = write_data(Path(work) / "val", VALIDATION_SEED, args.validation)
        for task in args.tasks:
            steps = args.steps or STEPS[task]
            settings = Settings(
                method=args.method,
                virtual_tokens=args.virtual_tokens,
                steps=steps,
                batch_size=args.batch_size,
                learning_rate=args.learning_rate,
                seed=args.seed,
                flip=True,
                eval_every=max(1, steps // _VALIDATIONS),
                patience=0,
            )
            made = Path(work) / f"{task}.safetensors"
            tuned = tune(backbone, data[task], made, settings, evaluation=held_out[task])
            shutil.copyfile(made, args.out / made.name)
            figures: dict[str, Any] = {"task": task, **tuned.record["best"]}
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
