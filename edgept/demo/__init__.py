"""The demo: a small support assistant and a small image model that this project trained itself.

Code organization:
    stage.py          what both demos do: export, pack prompts, swap them in turns
    show.py           `edgept demo`
    corpus.py         the generated corpus; texts/ holds its sentences
    train_model.py    trains the frozen model, from nothing but the corpus
    tune_prompts.py   tunes a prompt for each mode, with peft
    evaluate.py       how often the right language, intent and order number come out
    judge.py          how a reply is judged
    model/, prompts/  what the two trainings made: the files that `edgept demo` uses

    look.py           `edgept demo vision`
    scenes.py         generated pictures; shapes.py and things.py draw what is in them
    lessons.py        what the image model is taught
    train_vision.py   trains it, from nothing but shapes, letters and figures
    views.py          pictures of things, as classes, areas and boxes
    tune_vision.py    tunes a prompt for each of the three, with `edgept tune`
    evaluate_vision.py  accuracy, mean IoU and average precision on held-out pictures
    vision/           the image model and its prompts
"""

from edgept.demo.show import Answer, Demo, run_demo

__all__ = ["Answer", "Demo", "run_demo"]
