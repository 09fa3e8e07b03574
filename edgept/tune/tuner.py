"""`edgept tune`: data to a prompt file that is bound to the model it was trained for."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgept import atomic
from edgept.errors import EdgeptError, UsageError
from edgept.prompt import Prompt
from edgept.prompt_file import write_prompt
from edgept.tune.backbone import Backbone, load_backbone, reads_pictures, silent
from edgept.tune.checkpoint import State, load_checkpoint, restore, save_checkpoint
from edgept.tune.course import Course
from edgept.tune.curve import draw_curve
from edgept.tune.device_bundle import find_device_bundle, trained_against
from edgept.tune.job import Job
from edgept.tune.learner import Learner
from edgept.tune.loop import Update, make_optimizer, train
from edgept.tune.made_prompts import check_prompts, make_prompts
from edgept.tune.places import Places
from edgept.tune.record import identify, make_record
from edgept.tune.settings import Settings
from edgept.tune.start import read_start, start_digest, with_start
from edgept.tune.text_course import TextCourse
from edgept.tune.text_or_pictures import for_pictures, for_text
from edgept.tune.vision.course import PictureCourse

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
        data: training rows, .jsonl or .csv, see `read_data`; of an image model pictures, see
            `read_picture_data`.
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
    sees = reads_pictures(model, data)
    settings = for_pictures(settings) if sees else for_text(settings)
    device = find_device_bundle(bundle, settings)
    start = read_start(settings)
    settings = with_start(settings, start)
    places = Places.of(output)
    make_course = PictureCourse if sees else TextCourse
    course: Course = make_course(data, evaluation, settings, start)
    if device is not None and course.held_out is None:
        raise UsageError("a bundle is compared on held-out rows. Give --eval or --eval-split, too.")
    targets = places.prompts(course.tasks)
    places.check(targets, resume=resume, force=force)
    # cuBLAS reads it once, when the GPU is first used: equal sums in equal runs
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if isinstance(model, str):
        report(Update(0, 0, "loading the model"))
        task = None if sees else settings.task
        model = load_backbone(
            model, task=task, precision=settings.precision, device=settings.device
        )
    else:
        _check_loaded(model, settings, sees=sees)
    course.settle(model, device)
    run = identify(
        settings,
        course.training,
        course.held_out,
        model,
        start_digest(start),
        None if device is None else device.weights_sha256,
    )
    if resume and (finished := places.finished(targets, run)) is not None:
        return Tuned(targets, finished)
    job = course.make_job()
    if device is not None and device.gives_weights:
        report(Update(0, 0, "reading the bundle's weights"))
    given = trained_against(model.model, device)
    with _repeatable(model), silent(), given as against, course.opened():
        state, baseline, first = _run(
            course, job, places, run, start, resume, checkpoint_seconds, report
        )
        prompts = make_prompts(job, places, course.tasks, state.best)
        record = make_record(job, state, prompts, run)
        record |= {"trained_against": against, **baseline}
        if device is not None and state.best_validation is not None:
            report(Update(state.step, job.steps, "validating on the bundle"))
            before = make_prompts(job, places, course.tasks, first)
            record["bundle"] = course.measure(
                str(device.folder), job, prompts, before, state.best_validation
            )
    for prompt, target in zip(prompts, targets, strict=True):
        write_prompt(prompt, target, overwrite=True)
    atomic.write_bytes(places.curve, draw_curve(record), overwrite=True)
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    atomic.write_bytes(places.record, text.encode(), overwrite=True)
    places.checkpoint.unlink(missing_ok=True)
    return Tuned(targets, record)


def _check_loaded(model: Backbone, settings: Settings, *, sees: bool) -> None:
    """Refuse settings that ask for another model than the one that is loaded."""
    if not sees and settings.task not in (None, "auto", model.task):
        raise UsageError(
            f"the model is loaded for {model.task}, the settings ask for {settings.task}. Tasks that "
            "share a model share that, too: name it under defaults, or tune in two goes."
        )
    if settings.precision not in ("auto", model.precision) or settings.device not in (
        "auto",
        model.device.type,
    ):
        raise UsageError(
            f"the model is loaded in {model.precision} on {model.device.type}, the settings ask for "
            f"{settings.precision} on {settings.device}. Tasks that share a model share both."
        )


@contextmanager
def _repeatable(backbone: Backbone) -> Iterator[None]:
    """Equal runs give equal results, and nobody else's random numbers are touched."""
    gpus = range(torch.cuda.device_count()) if backbone.device.type == "cuda" else []
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        with torch.random.fork_rng(devices=gpus):
            yield
    except torch.OutOfMemoryError as error:
        shorter = ", shorten rows with --max-length, or use --checkpoint-activations"
        raise EdgeptError(
            f"memory ran out ({str(error).splitlines()[0]}). Lower --batch-size and raise --accumulate "
            f"by as much{shorter if backbone.vision is None else ''}."
        ) from error
    finally:
        torch.use_deterministic_algorithms(was_deterministic)


def _run(
    course: Course,
    job: Job,
    places: Places,
    run: dict[str, Any],
    start: Prompt | None,
    resume: bool,
    checkpoint_seconds: float,
    report: Callable[[Update], object],
) -> tuple[State, dict[str, Any], list[dict[str, Any]]]:
    """The trained state, what it is to be compared with, and the first tensors."""
    content = None
    if resume and places.checkpoint.exists():
        content = load_checkpoint(places.checkpoint, run)
    learner = course.learner(job)
    first = learner.export()
    check_prompts(make_prompts(job, places, course.tasks, first))
    optimizer, schedule = make_optimizer(learner.module, job)
    state = State() if content is None else restore(content, learner.module, optimizer, schedule)
    if job.held_out and not job.labels:
        report(Update(state.step, job.steps, "validating without a prompt"))
    baseline = course.baseline(job)

    def save(reached: State) -> None:
        save_checkpoint(places.checkpoint, run, reached, learner.module, optimizer, schedule)

    report(Update(state.step, job.steps, "training"))
    train(
        learner,
        optimizer,
        schedule,
        state,
        save=save,
        checkpoint_seconds=checkpoint_seconds,
        report=report,
    )
    _settle(learner, state, places, start, report)
    if not state.diverged:
        save(state)
    return state, baseline, first


def _settle(
    learner: Learner,
    state: State,
    places: Places,
    start: Prompt | None,
    report: Callable[[Update], object],
) -> None:
    """Decide what is kept of a training that ended, and say what was wrong with it."""
    job, settings = learner.job, learner.job.settings
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
    elif best is None:
        state.best = learner.export()
    elif best.step == 0:
        untrained = "untrained prompt" if start is None else f"prompt {start.name!r}"
        state.warnings["no better"] = (
            f"no validation was better than that of the {untrained}, which is kept. Lower "
            f"{settings.rate_option} (now {job.rate:g}), or give more data."
        )
        report(Update(state.step, job.steps, state.warnings["no better"], is_warning=True))
