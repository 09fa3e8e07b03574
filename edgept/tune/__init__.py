"""Tune prompts on a frozen model: with peft for text, visual prompts for pictures. Needs the extra `edgept[export]`.

Code organization (a run passes through these in order):
    settings.py      every setting, its default, and what it may be
    text_or_pictures.py  which of them are for text alone, which for pictures
    learning_rates.py  how fast each method learns, as measured
    data.py          rows from JSONL and CSV, malformed ones named
    held_out.py      which rows train, which validate
    encode.py        rows to token ids, as the device encodes them
    backbone.py      the frozen model, loaded once
    device_bundle.py  the bundle that the prompt is for
    bundle_weights.py  the model with a quantised bundle's weights, for a run
    methods.py       the methods, each by peft
    start.py         the prompt that a run goes on from
    labels.py        a classifier's classes
    head.py          a classifier's head: fresh for a run, gone behind it
    classify.py      a classifier's logits, loss and validation
    job.py           all of this, ready to train
    text_learner.py  what the loop asks of text (learner.py: of anything)
    text_course.py   all of this as one run (course.py); vision/ has the same for pictures
    batches.py       the data's order and its padding
    loop.py          the training loop
    evaluate.py      loss and metric of held-out rows, in PyTorch
    metrics.py       exact match, accuracy, macro-F1
    health.py        warnings with remedies
    checkpoint.py    the state of an unfinished run
    made_prompts.py  what was trained as prompts
    device_check.py  the same rows on an exported bundle
    curve.py         the run in one picture
    places.py        the files of a run
    record.py        all that happened, as JSON
    tuner.py         `edgept tune`: all of the above
    tasks.py         several tasks in one go
"""

from edgept.tune.backbone import Backbone, load_backbone
from edgept.tune.loop import Update
from edgept.tune.settings import Columns, Settings
from edgept.tune.tasks import tune_tasks
from edgept.tune.tuner import Tuned, tune

__all__ = [
    "Backbone",
    "Columns",
    "Settings",
    "Tuned",
    "Update",
    "load_backbone",
    "tune",
    "tune_tasks",
]
