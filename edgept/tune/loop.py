"""The training loop: AdamW on prompt and head alone, warm-up and cosine, validation, early stopping."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import get_cosine_schedule_with_warmup

from edgept.tune.batches import Order
from edgept.tune.checkpoint import State
from edgept.tune.evaluate import Validation
from edgept.tune.head import trained_heads
from edgept.tune.health import judge
from edgept.tune.job import Job
from edgept.tune.learner import Learner
from edgept.tune.settings import Settings

__all__ = ["Update", "make_optimizer", "train"]

_LONGEST_GRADIENT = 1.0  # clipped to this norm, as transformers' Trainer does


@dataclass(frozen=True)
class Update:
    """What a run says while it goes on.

    Attributes:
        step: updates done.
        steps: updates in all.
        message: what is being done, or a warning; "" in the news of a step.
        is_warning: whether the message is one.
        loss: of the last step, as the task counts it; None before the first.
        gradient_norm: of all that is trained, before clipping.
        per_second: tokens of text, or pictures, that were learnt from.
        unit: which of these, "tokens" or "pictures".
        validation: the last one.
    """

    step: int
    steps: int
    message: str = ""
    is_warning: bool = False
    loss: float | None = None
    gradient_norm: float | None = None
    per_second: float | None = None
    unit: str = "tokens"
    validation: Validation | None = None


def make_optimizer(adapted: Any, job: Job) -> tuple[Any, Any]:
    """AdamW without decay over prompt and head, and the schedule of their learning rates."""
    head = [weight for module in trained_heads(adapted) for weight in module.parameters()]
    prompt = [
        weight
        for weight in adapted.parameters()
        if weight.requires_grad and not any(weight is other for other in head)
    ]
    rates = [(prompt, job.rate), (head, job.head_rate)]
    groups = [{"params": weights, "lr": rate} for weights, rate in rates if weights]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    warmup = round(job.settings.warmup * job.steps)
    return optimizer, get_cosine_schedule_with_warmup(optimizer, warmup, job.steps)


def train(
    learner: Learner,
    optimizer: Any,
    schedule: Any,
    state: State,
    *,
    save: Callable[[State], object],
    checkpoint_seconds: float,
    report: Callable[[Update], object],
) -> None:
    """Train until the last step, early stopping, or a loss that is no number.

    Args:
        learner: the job, and what is trained for it.
        optimizer: of what is trained.
        schedule: of the learning rate.
        state: where to begin; it is kept up to date.
        save: writes a checkpoint.
        checkpoint_seconds: at least so long between checkpoints.
        report: called after every step, and with warnings.
    """
    job, adapted, settings = learner.job, learner.module, learner.job.settings
    order = Order(len(job.examples), settings.seed)
    every = settings.eval_every or max(1, job.steps // 20)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    began = last_save = time.monotonic()
    before = state.seconds
    if settings.checkpoint_activations:
        job.backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
    adapted.train()
    try:
        if state.step == 0 and not state.validations:
            _validate(learner, state)
        while state.step < job.steps and not state.diverged and not _stale(state, settings):
            step_began = time.monotonic()
            loss, norm, count = _step(learner, order, trained, state.step)
            state.diverged = not (math.isfinite(loss) and math.isfinite(norm))
            if state.diverged:
                break
            state.learning_rates.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            state.step += 1
            state.losses.append(loss)
            state.gradient_norms.append(norm)
            state.tokens += count
            pace = count / (time.monotonic() - step_began)
            is_due = state.step % every == 0 or state.step == job.steps
            if is_due:
                _validate(learner, state)
                for warning in judge(state.losses, state.gradient_norms, job.rate, settings.method):
                    kind = warning.partition(":")[0]
                    if kind not in state.warnings:
                        report(Update(state.step, job.steps, warning, is_warning=True))
                    state.warnings[kind] = warning
            news = state.validations[-1] if state.validations else None
            report(
                Update(
                    state.step,
                    job.steps,
                    loss=loss,
                    gradient_norm=norm,
                    per_second=pace,
                    unit=learner.unit,
                    validation=news,
                )
            )
            now = time.monotonic()
            state.seconds = before + now - began
            if now - last_save >= checkpoint_seconds:
                save(state)
                last_save = time.monotonic()
    finally:
        adapted.eval()
        if settings.checkpoint_activations:
            job.backbone.model.gradient_checkpointing_disable()


def _step(
    learner: Learner, order: Order, trained: list[Any], step: int
) -> tuple[float, float, int]:
    """Loss of the step, norm of the gradient (now clipped), and how much was learnt from."""
    settings = learner.job.settings
    size = settings.batch_size
    batches = [
        learner.make_batch(order.rows(begin, size), begin)
        for begin in range(
            step * settings.accumulate * size, (step + 1) * settings.accumulate * size, size
        )
    ]
    weights = [learner.weigh(batch) for batch in batches]
    total = 0.0
    for batch, weight in zip(batches, weights, strict=True):
        # every token, or picture, counts the same, however the batch is divided
        loss = learner.loss(batch) * (weight / sum(weights))
        loss.backward()
        total += float(loss.detach())
    norm = float(torch.nn.utils.clip_grad_norm_(trained, _LONGEST_GRADIENT))
    return total, norm, sum(learner.count(batch) for batch in batches)


def _validate(learner: Learner, state: State) -> None:
    """Validate, and keep the prompt if it is the best; without held-out rows, the last one is."""
    if not learner.job.held_out:
        state.best = learner.export()
        return
    found = learner.validate(state.step)
    best = state.best_validation
    state.validations.append(found)
    if best is None or found.loss < best.loss:
        state.best = learner.export()


def _stale(state: State, settings: Settings) -> bool:
    """Whether so many validations after the best one were no better."""
    best = state.best_validation
    if best is None or not settings.patience:
        return False
    return sum(found.step > best.step for found in state.validations) >= settings.patience
