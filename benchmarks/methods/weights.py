"""LoRA and full fine-tuning: the same rows, order, steps and schedule as `edgept tune`, other weights."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from transformers import get_cosine_schedule_with_warmup

__all__ = ["LORA", "adapter_swap_ms", "fine_tune", "trainable"]

# peft's defaults for Llama and BERT adapt the attention's projections; every linear layer gives more.
LORA: dict[str, Any] = {
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
}
_HEADS = ("classifier", "score")


def trainable(model: Any) -> int:
    """Parameters that training changes."""
    return sum(item.numel() for item in model.parameters() if item.requires_grad)


def fine_tune(
    model: Any,
    batch: Callable[[int], dict[str, Any]],
    *,
    steps: int,
    rate: float,
    head_rate: float | None = None,
) -> None:
    """Train whatever has gradients.

    Args:
        model: whose forward pass takes a batch and returns a loss.
        batch: what a step sees.
        steps: updates.
        rate: highest learning rate; it rises for a tenth of the steps, then falls as a cosine.
        head_rate: the same of a classifier's head, which begins at random.
    """
    named = [(name, item) for name, item in model.named_parameters() if item.requires_grad]
    head = [item for name, item in named if any(part in name for part in _HEADS)]
    body = [item for name, item in named if not any(part in name for part in _HEADS)]
    groups = [{"params": body, "lr": rate}, {"params": head, "lr": head_rate or rate}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    model.train()
    for step in range(steps):
        loss = model(**batch(step)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*body, *head], 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


def adapter_swap_ms(model: Any, times: int) -> float:
    """Median time of peft's set_adapter between two adapters of one shape."""
    model.add_adapter("another", model.peft_config["default"])
    taken = []
    for turn in range(times):
        begin = time.perf_counter()
        model.set_adapter("default" if turn % 2 else "another")
        taken.append((time.perf_counter() - begin) * 1e3)
    model.set_adapter("default")
    model.delete_adapter("another")
    return median(taken)
