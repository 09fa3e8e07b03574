"""What to call on a bundle of each task: the tasks that this version runs."""

from typing import NoReturn

from edgept.errors import UsageError

__all__ = ["CALLS", "refuse"]

_LOOKS = "model.see, classify_image, segment, detect or embed_image, or their _batch forms"

CALLS = {
    "text-generation": "model.generate, model.stream or model.generate_batch",
    "text2text-generation": "model.generate, model.stream or model.generate_batch",
    "text-classification": "model.classify or model.classify_batch",
    "token-classification": "model.tag or model.tag_batch",
    "question-answering": "model.answer or model.answer_batch",
    "feature-extraction": "model.embed or model.embed_batch",
    "image-classification": _LOOKS,
    "image-feature-extraction": _LOOKS,
    "zero-shot-object-detection": "model.detect or model.detect_batch",
}

_OF_IMAGES = ("image-classification", "image-feature-extraction", "zero-shot-object-detection")


def refuse(call: str, task: str) -> NoReturn:
    """Say that a call is for another task than the bundle's.

    Raises:
        UsageError: always.
    """
    remedy = "or export the model for another task (edgept export --task)"
    if task in _OF_IMAGES:
        remedy = "or load the bundle of a model of text"
    raise UsageError(f"model.{call} on a bundle for {task}. Call {CALLS[task]}, {remedy}.")
