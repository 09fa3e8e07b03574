"""Which settings are for text alone, and which for pictures alone."""

from dataclasses import replace

from edgept.errors import UsageError
from edgept.tune.settings import PICTURE_METHODS, PICTURE_TASKS, TEXT_TASKS, Settings

__all__ = ["for_pictures", "for_text"]

_TEXT_ONLY = ("description", "metric_rows", "max_length", "drop_long", "checkpoint_activations")
_PICTURES_ONLY = ("projection", "template", "flip", "labels")
_TEXT_COLUMNS = ("input", "output", "text", "messages", "task")


def for_text(settings: Settings) -> Settings:
    """The settings as a model that reads text takes them.

    Raises:
        UsageError: something is asked for that is for pictures alone.
    """
    given = [f"--{name}" for name in _given(settings, _PICTURES_ONLY)]
    if settings.method in PICTURE_METHODS:
        given.insert(0, f"--method {settings.method}")
    if settings.task in PICTURE_TASKS:
        given.insert(0, f"--task {settings.task}")
    if settings.columns.image != Settings().columns.image:
        given.append("--image-column")
    if given:
        raise UsageError(
            f"{given[0]} is for pictures, and the model reads text. Leave it out, or give an image model."
        )
    return settings


def for_pictures(settings: Settings) -> Settings:
    """The settings as an image model takes them: prompt tuning is that of every layer.

    Raises:
        UsageError: something is asked for that is for text alone.
    """
    if settings.method not in ("prompt-tuning", "head", *PICTURE_METHODS):
        raise UsageError(
            f"--method {settings.method} is for text; an image model takes {', '.join(PICTURE_METHODS)} or "
            "head."
        )
    if settings.task in TEXT_TASKS:
        raise UsageError(
            f"--task {settings.task} is for text; an image model takes {', '.join(PICTURE_TASKS)}."
        )
    for name in _given(settings, _TEXT_ONLY):
        raise UsageError(
            f"--{name.replace('_', '-')} is for text, and the model reads pictures. Leave it out."
        )
    usual = Settings().columns
    for name in _TEXT_COLUMNS:
        if getattr(settings.columns, name) != getattr(usual, name):
            raise UsageError(
                f"--{name}-column is for text; a CSV of pictures has --image-column and --label-column."
            )
    if settings.method != "prompt-tuning":
        return settings
    return replace(settings, method="vpt-deep")


def _given(settings: Settings, names: tuple[str, ...]) -> list[str]:
    """Those that are not what they usually are."""
    usual = Settings()
    return [name for name in names if getattr(settings, name) != getattr(usual, name)]
