"""Which options of `edgept run` go with which task."""

import click

__all__ = ["ANSWERS", "SAYS", "WRITES", "refuse_options"]

# What a bundle for a task does, for an error.
SAYS = {
    "text-generation": "generates text",
    "text2text-generation": "writes a text for another",
    "text-classification": "classifies texts",
    "token-classification": "tags texts",
    "question-answering": "answers questions about a text",
    "feature-extraction": "makes vectors of texts",
    "image-classification": "looks at pictures",
    "image-feature-extraction": "looks at pictures",
    "zero-shot-object-detection": "looks for things in pictures",
}
ANSWERS, _EMBEDS = "question-answering", "feature-extraction"
_REWRITES = "text2text-generation"
WRITES = ("text-generation", _REWRITES)
_LOOKS = ("image-classification", "image-feature-extraction", "zero-shot-object-detection")
_CUTS = ("text-classification", "token-classification", _EMBEDS)
# Options that not every task has, by their name in Python, and the tasks that do.
_OPTIONS = {
    "chat": ("text-generation",),
    "system": ("text-generation",),
    "max_new_tokens": WRITES,
    "temperature": WRITES,
    "top_k": (*WRITES, ANSWERS),
    "top_p": WRITES,
    "repetition_penalty": WRITES,
    "seed": WRITES,
    "stop": WRITES,
    "num_beams": (_REWRITES,),
    "length_penalty": (_REWRITES,),
    "context_file": (ANSWERS,),
    "max_answer_len": (ANSWERS,),
    "handle_impossible_answer": (ANSWERS,),
    "aggregation": ("token-classification",),
    "truncate": _CUTS,
    "npy": (_EMBEDS, *_LOOKS),
    "force": (_EMBEDS, *_LOOKS),
    "save": _LOOKS,
    "threshold": _LOOKS,
}


def refuse_options(context: click.Context, task: str) -> None:
    """An option of another task is a mistake.

    Args:
        context: of the command.
        task: of the bundle.

    Raises:
        click.UsageError: one was given.
    """
    for name, tasks in _OPTIONS.items():
        if task in tasks:
            continue
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            option = next(item for item in context.command.params if item.name == name)
            for_what = "pictures" if tasks is _LOOKS else " and ".join(tasks)
            raise click.UsageError(
                f"this bundle {SAYS[task]}; {max(option.opts, key=len)} is for {for_what}."
            )
