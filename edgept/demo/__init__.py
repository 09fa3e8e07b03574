"""The demo: a small support assistant that this project trained itself, and what made it.

Code organization:
    show.py           `edgept demo`
    corpus.py         the generated corpus; texts/ holds its sentences
    train_model.py    trains the frozen model, from nothing but the corpus
    tune_prompts.py   tunes a prompt for each mode, with peft
    evaluate.py       how often the right language, intent and order number come out
    judge.py          how a reply is judged
    model/, prompts/  what the two trainings made: the files that `edgept demo` uses
"""

from edgept.demo.show import Answer, Demo, run_demo

__all__ = ["Answer", "Demo", "run_demo"]
