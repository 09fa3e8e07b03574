"""`edgept tune`: data to a prompt file that is bound to the model it was trained for."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from edgept import __version__, atomic
from edgept.bundle import read_manifest
from edgept.errors import EdgeptError, InvalidFileError, UsageError
from edgept.export.dequantize import is_quantized
from edgept.prompt import Prompt
from edgept.prompt_file import format_prompt, write_prompt
from edgept.tune.backbone import Backbone, load_backbone, silent
from edgept.tune.bundle_weights import Replaced, bundle_weights
from edgept.tune.checkpoint import State, load_checkpoint, restore, save_checkpoint
from edgept.tune.classify import check_method
from edgept.tune.curve import draw_curve
from edgept.tune.device_check import check_bundle, measure_on_bundle
from edgept.tune.evaluate import validate
from edgept.tune.head import keep_head
from edgept.tune.held_out import read_training, task_names
from edgept.tune.job import Job, make_job
from edgept.tune.labels import label_names, majority
from edgept.tune.loop import Update, make_optimizer, train
from edgept.tune.methods import PEFT_NAMES, adapt, export_tensors
from edgept.tune.places import Places
from edgept.tune.record import identify, make_record
from edgept.tune.settings import Settings
from edgept.tune.start import (
    check_start,
    put_start,
    read_start,
    start_digest,
    start_labels,
    with_start,
)

__all__ = ["Tuned", "tune"]


@dataclass(frozen=True)
class Tuned:
    """What a run made.

    Attributes:
        prompts: the prompt files; several where multitask prompt tuning learnt several tasks.
        record: all that happened, as in the file beside them.
    """

    prompts: tuple[Path, ...]
    record: dict[str, Any]


def tune(
    model: str | Backbone,
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    evaluation: str | os.PathLike[str] | None = None,
    bundle: str | os.PathLike[str] | None = None,
    resume: bool = False,
    force: bool = False,
    checkpoint_seconds: float = 15.0,
    report: Callable[[Update], object] = lambda _: None,
) -> Tuned:
    """Tune a prompt for a frozen model.

    Beside `spanish.safetensors` appear `spanish.tune.json`, all that happened, and `spanish.tune.png`,
    the curve; while the run goes on, `spanish.tune.checkpoint`.

    Args:
        model: local transformers folder, hub id, or a model that `load_backbone` loaded.
        data: training rows, .jsonl or .csv; see `read_data`.
        output: the prompt file.
        settings: of the run; None takes the defaults.
        evaluation: rows to validate on; without these and without `eval_split`, the last prompt is
            kept instead of the best.
        bundle: an exported bundle of the model, on which the prompt is validated, too. Where it is
            quantised, the frozen model takes on its weights while the prompt is trained, so that the
            prompt learns against what will run it; `Settings.weights` turns that off. The prompt still
            runs on every bundle of the model.
        resume: go on from the checkpoint of a run that was interrupted. A run that had not come to
            its first checkpoint starts anew, and one that is finished is left as it is.
        force: replace the prompt file, and forget a checkpoint.
        checkpoint_seconds: at least so long between checkpoints; 0 writes one after every step.
        report: called with what happens.

    Raises:
        UsageError: an argument is out of range, or a file is there already.
        InvalidFileError: rows of the data are malformed, or of a class that nothing trains.
        IncompatibleError: the bundle, or the prompt that the run begins from, is another model's.
        ExportError: the model cannot be loaded, or the bundle's weights cannot be put into it.
        EdgeptError: the training diverged, or memory ran out.
    """
    settings = settings or Settings()
    if evaluation is not None and settings.eval_split is not None:
        raise UsageError("an evaluation file and an evaluation split are both given; give one.")
    if bundle is not None and evaluation is None and settings.eval_split is None:
        raise UsageError("a bundle is compared on held-out rows. Give --eval or --eval-split, too.")
    start = read_start(settings)
    settings = with_start(settings, start)
    places = Places.of(output)
    training, held_out = read_training(data, evaluation, settings)
    tasks = task_names(settings, training, held_out)
    targets = places.prompts(tasks)
    places.check(targets, resume=resume, force=force)
    # cuBLAS reads it once, when the GPU is first used: equal sums in equal runs
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # what is wrong with labels is said at once where the task is known, not when the model is loaded
    classifies = settings.task == "text-classification"
    labels = label_names(training, held_out) if classifies else ()
    if isinstance(model, str):
        report(Update(0, 0, "loading the model"))
        model = load_backbone(
            model, task=settings.task, precision=settings.precision, device=settings.device
        )
    elif settings.task not in (None, "auto", model.task):
        raise UsageError(
            f"the model is loaded for {model.task}, the settings ask for {settings.task}. Tasks that "
            "share a model share that, too: name it under defaults, or tune in two goes."
        )
    elif settings.precision not in ("auto", model.precision) or settings.device not in (
        "auto",
        model.device.type,
    ):
        raise UsageError(
            f"the model is loaded in {model.precision} on {model.device.type}, the settings ask for "
            f"{settings.precision} on {settings.device}. Tasks that share a model share both."
        )
    check_method(model, settings)
    if model.task == "text-classification" and not labels:
        labels = label_names(training, held_out)
    labels = start_labels(start, labels)
    check_start(start, model)
    where, weights = None, None
    if bundle is not None:
        where = check_bundle(bundle, model.fingerprint, model.task, settings.prompt_length)
        weights = where if settings.weights == "bundle" and is_quantized(where) else None
    run = identify(
        settings, training, held_out, model, start_digest(start), _weights_digest(weights)
    )
    if resume and (finished := places.finished(targets, run)) is not None:
        return Tuned(targets, finished)
    job = make_job(model, settings, training, held_out, tasks, labels)
    gpus = range(torch.cuda.device_count()) if model.device.type == "cuda" else []
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        if weights is not None:
            report(Update(0, 0, "reading the bundle's weights"))
        with (
            torch.random.fork_rng(devices=gpus),
            silent(),
            bundle_weights(model.model, weights) as replaced,
            keep_head(model),
        ):
            state, plain, first = _run(
                job, places, run, tasks, start, resume, checkpoint_seconds, report
            )
            prompts = _prompts(job, places, tasks, state.best)
            record = make_record(job, state, prompts, run, plain)
            if replaced is not None and weights is not None:
                record["trained_against"] = _trained_against(weights, replaced)
            if labels and held_out is not None:
                record["majority"] = majority(training, held_out)
            if where is not None and state.best_validation is not None:
                report(Update(state.step, job.steps, "validating on the bundle"))
                record["bundle"] = measure_on_bundle(
                    where,
                    prompts,
                    job.held_out,
                    job.kind,
                    settings.metric_rows,
                    state.best_validation,
                    labels,
                    None if start is None else _prompts(job, places, tasks, first),
                )
    except torch.OutOfMemoryError as error:
        raise EdgeptError(
            f"memory ran out ({str(error).splitlines()[0]}). Lower --batch-size and raise --accumulate "
            "by as much, shorten rows with --max-length, or use --checkpoint-activations."
        ) from error
    finally:
        torch.use_deterministic_algorithms(was_deterministic)
    for prompt, target in zip(prompts, targets, strict=True):
        write_prompt(prompt, target, overwrite=True)
    atomic.write_bytes(places.curve, draw_curve(record), overwrite=True)
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    atomic.write_bytes(places.record, text.encode(), overwrite=True)
    places.checkpoint.unlink(missing_ok=True)
    return Tuned(targets, record)


def _weights_digest(bundle: str | None) -> str | None:
    """SHA-256 of a bundle's graphs, by its manifest; None without one."""
    if bundle is None:
        return None
    manifest = read_manifest(Path(bundle))
    digest = hashlib.sha256()
    for name, entry in sorted(manifest.files.items()):
        if name.startswith(manifest.graphs):
            digest.update(f"{name} {entry.sha256}".encode())
    return digest.hexdigest()


def _trained_against(bundle: str, replaced: Replaced) -> dict[str, Any]:
    """What the record says of the weights. Activations are float in training, whatever the kernels do."""
    return {
        "weights": "bundle",
        "precision": read_manifest(Path(bundle)).precision,
        "matrices": replaced.matrices,
        "relative_error": replaced.relative_error,
        "largest_error": replaced.largest_error,
        "activations": "float",
    }


def _prompts(
    job: Job, places: Places, tasks: Sequence[str], trained: Sequence[dict[str, Any]]
) -> list[Prompt]:
    """The prompts that tensors make, one for every task."""
    settings, backbone = job.settings, job.backbone
    name = settings.name or places.name
    return [
        Prompt(
            tensors=tensors,
            name=name if len(tasks) == 1 else f"{name}-{task}",
            method=PEFT_NAMES[settings.method],
            fingerprint=backbone.fingerprint,
            task=backbone.task,
            labels=job.labels,
            base_model=backbone.source.name,
            created_by=f"edgept {__version__}",
        )
        for task, tensors in zip(tasks, trained, strict=True)
    ]


def _check_storable(prompts: Sequence[Prompt]) -> None:
    """Refuse before the training what no prompt file could hold after it."""
    for prompt in prompts:
        try:
            format_prompt(prompt)
        except InvalidFileError as error:
            raise InvalidFileError(
                error.reason,
                f"no prompt file can hold the prompt {prompt.name[:80]!r}, of {prompt.num_virtual_tokens} "
                f"virtual tokens and {len(prompt.labels)} labels: {error} Lower --virtual-tokens, or change "
                "what is named.",
            ) from error


def _run(
    job: Job,
    places: Places,
    run: dict[str, Any],
    tasks: Sequence[str],
    start: Prompt | None,
    resume: bool,
    checkpoint_seconds: float,
    report: Callable[[Update], object],
) -> tuple[State, dict[str, Any] | None, list[dict[str, Any]]]:
    """The trained state, the validation of the plain model (not of a classifier), and the first tensors."""
    settings = job.settings
    content = None
    if resume and places.checkpoint.exists():
        content = load_checkpoint(places.checkpoint, run)
    adapted = adapt(job.backbone, settings, job.examples, len(tasks), len(job.labels))
    if start is not None:
        put_start(adapted, start)
    first = export_tensors(adapted, settings)
    _check_storable(_prompts(job, places, tasks, first))
    optimizer, schedule = make_optimizer(adapted, job)
    state = State() if content is None else restore(content, adapted, optimizer, schedule)
    plain = None
    if job.held_out and not job.labels:
        report(Update(state.step, job.steps, "validating without a prompt"))
        plain = asdict(validate(0, job.backbone, None, settings, job.held_out, job.kind))

    def save(reached: State) -> None:
        save_checkpoint(places.checkpoint, run, reached, adapted, optimizer, schedule)

    report(Update(state.step, job.steps, "training"))
    train(
        job,
        adapted,
        optimizer,
        schedule,
        state,
        save=save,
        checkpoint_seconds=checkpoint_seconds,
        report=report,
    )
    best = state.best_validation
    if state.diverged and (best is None or best.step == 0):
        places.checkpoint.unlink(missing_ok=True)
        raise EdgeptError(
            f"the training diverged: loss or gradient was not a finite number at step {state.step + 1}, "
            f"so there is no prompt. Lower {settings.rate_option} (now {job.rate:g}) or raise --warmup."
        )
    if state.diverged:
        state.warnings["diverged"] = (
            f"the training diverged at step {state.step + 1}; the best prompt before it is kept. Lower "
            f"{settings.rate_option} (now {job.rate:g})."
        )
        report(Update(state.step, job.steps, state.warnings["diverged"], is_warning=True))
        return state, plain, first
    if best is None:
        state.best = export_tensors(adapted, settings)
    elif best.step == 0:
        untrained = "untrained prompt" if start is None else f"prompt {start.name!r}"
        state.warnings["no better"] = (
            f"no validation was better than the {untrained}'s, which is kept. Lower "
            f"{settings.rate_option} (now {job.rate:g}), or give more data."
        )
        report(Update(state.step, job.steps, state.warnings["no better"], is_warning=True))
    save(state)
    return state, plain, first
