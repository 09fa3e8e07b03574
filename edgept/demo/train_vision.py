"""Train the demo's vision model from nothing but generated pictures of shapes, letters and figures.

    python -m edgept.demo.train_vision --out vision --steps 3150

It learns to say of a whole picture which shapes are in it and what the ground looks like; of every patch
which shape it belongs to, in what colour and texture, how far that reaches, and how much of the patch it
covers; and to fill in patches that it does not see. None of the things that the demo's prompts find is
in these pictures.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from edgept.demo.lessons import PATCH, SIDE, WEIGHTS, Lesson, Teacher, make_lesson, prepare

BATCH = 64
HELD_OUT = 512
_WARMUP = 150
_DECAYED_SHARE = 0.3  # of the steps, at the end, while the learning rate falls to nothing
_REPORT = 100


def make_model(seed: int) -> ViTModel:
    """A ViT of 0.6 million parameters, for pictures of 64 x 64 in 64 patches."""
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = ViTModel(config, add_pooling_layer=False, use_mask_token=True)
    with torch.no_grad():
        # It begins by knowing where patches are (Beyer et al. 2022), and sees them as strongly as that.
        model.embeddings.position_embeddings[0, 1:] = 0.3 * positions(SIDE // PATCH, 128)
        model.embeddings.patch_embeddings.projection.weight *= 2
    return model


def positions(grid: int, width: int) -> torch.Tensor:
    """Sines and cosines of the patches' columns and rows, (grid * grid, width)."""
    paces = 100 ** -torch.linspace(0, 1, width // 4)
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [places.flatten()[:, None] * paces for places in (columns, rows)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)


def make_optimizers(model: ViTModel, teacher: Teacher, rate: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the layers' matrices, AdamW for everything else."""
    layers = {id(p) for p in model.layers.parameters() if p.ndim == 2}
    rest = [p for p in (*model.parameters(), *teacher.parameters()) if id(p) not in layers]
    matrices = [p for p in model.parameters() if id(p) in layers]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]


def learning_rate(step: int, steps: int, highest: float) -> float:
    """Up within the first steps, level, and down to nothing at the end."""
    left = (steps - step) / (steps * _DECAYED_SHARE)
    return highest * min(1.0, (step + 1) / _WARMUP, left)


def save(model: ViTModel, out: Path) -> None:
    """Write the weights as float16, without the mask token, and the settings of the preprocessor."""
    half = ViTModel(model.config, add_pooling_layer=False)
    torch.nn.Module.to(half, torch.float16)
    state = {k: v for k, v in model.state_dict().items() if k != "embeddings.mask_token"}
    half.load_state_dict(state)
    half.save_pretrained(out)
    ViTImageProcessor(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(out)


def judge(forward: Any, teacher: Teacher, lesson: Lesson) -> dict[str, float]:
    """Losses on held-out scenes, and how often the shape of a patch and the largest one are named right."""
    with torch.no_grad():
        seen, hidden = prepare(lesson, torch.Generator().manual_seed(0))
        features = forward(pixel_values=seen.pixels, bool_masked_pos=hidden).last_hidden_state
        losses = teacher(features, seen, hidden)
        on = lesson.kind != 255
        kinds = teacher.patch(features[:, 1:])[..., : lesson.present.shape[1]].argmax(-1)
        largest = teacher.picture(features[:, 0])[:, : lesson.present.shape[1]].argmax(-1)
    found = {name: round(float(loss), 4) for name, loss in losses.items()}
    found["patch_accuracy"] = round(float((kinds[on] == lesson.kind[on]).float().mean()), 4)
    found["accuracy"] = round(float((largest == lesson.present.argmax(-1)).float().mean()), 4)
    return found


def main() -> None:
    """Train, or go on from the last checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("vision"))
    parser.add_argument("--checkpoint", type=Path, default=Path("vision.pt"))
    parser.add_argument("--steps", type=int, default=3150)
    parser.add_argument("--scenes", type=int, default=24_000, help="how many to draw; used in turn")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="quicker; needs a C++ compiler")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    model = make_model(args.seed)
    teacher = Teacher(model.config.hidden_size)
    named = [*model.named_parameters(), *teacher.named_parameters()]
    optimizers = make_optimizers(model, teacher, args.lr)
    start = 0
    if args.checkpoint.exists():
        state: dict[str, Any] = torch.load(args.checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        teacher.load_state_dict(state["teacher"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        start = state["step"]
    # On a CPU the backward pass of the fused attention takes twice that of plain matmuls.
    model.set_attn_implementation("eager")
    forward = torch.compile(model) if args.compile else model
    held_out = make_lesson(args.seed + 1_000_000, HELD_OUT)
    lessons = make_lesson(args.seed, args.scenes)

    began, total = time.perf_counter(), 0.0
    for step in range(start, args.steps):
        # Seeded by the step, so that a resumed run sees what an uninterrupted one would.
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        rows = torch.randint(args.scenes, (BATCH,), generator=generator)
        seen, hidden = prepare(lessons[rows], generator)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, args.steps, args.lr)
        with torch.autocast("cpu", torch.bfloat16):
            features = forward(pixel_values=seen.pixels, bool_masked_pos=hidden).last_hidden_state
        losses = teacher(features.float(), seen, hidden)
        loss = sum(WEIGHTS[name] * value for name, value in losses.items())
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        total += loss.item()
        if (step + 1) % _REPORT == 0 or step + 1 == args.steps:
            pace = (step + 1 - start) * BATCH / (time.perf_counter() - began)
            line: dict[str, Any] = {
                "step": step + 1,
                "loss": round(total / (step % _REPORT + 1), 4),
            }
            line["pictures_per_s"] = round(pace)
            total = 0.0
            if (step + 1) % args.every == 0 or step + 1 == args.steps:
                line["held_out"] = judge(model, teacher, held_out)
                state = {"model": model.state_dict(), "teacher": teacher.state_dict()}
                state |= {"optimizers": [o.state_dict() for o in optimizers], "step": step + 1}
                torch.save(state, args.checkpoint.with_suffix(".new"))
                args.checkpoint.with_suffix(".new").replace(args.checkpoint)
                save(model, args.out)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
