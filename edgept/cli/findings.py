"""What a model that reads or looks finds: asked for in a batch, and said in lines or as JSON."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from edgept.runtime.answerer import Answer
    from edgept.runtime.classifier import Classification
    from edgept.runtime.content import LoadedPrompt
    from edgept.runtime.embedder import Embedding
    from edgept.runtime.model import Model
    from edgept.runtime.seeing import Sighting
    from edgept.runtime.tagger import Tagging

    Finding: TypeAlias = Answer | Classification | Embedding | Sighting | Tagging

__all__ = ["find", "lines", "to_json", "warning"]


def find(
    model: "Model",
    requests: Sequence[tuple[Any, "LoadedPrompt | None"]],
    options: Mapping[str, Any],
) -> "Sequence[Finding]":
    """Ask the call of the bundle's task.

    Args:
        model: for another task than text-generation.
        requests: contents, of question answering (question, context), of image models pictures, and
            their prompts.
        options: of the call.
    """
    if model.manifest.image is not None:
        return model.see_batch(requests, **options)
    if model.manifest.task == "text-classification":
        return model.classify_batch(requests, **options)
    if model.manifest.task == "token-classification":
        return model.tag_batch(requests, **options)
    if model.manifest.task == "question-answering":
        return model.answer_batch(requests, **options)
    return model.embed_batch(requests, **options)


def lines(found: "Finding") -> Iterator[str]:
    """What stdout says of it: a line, or one for each entity, answer, segment or box."""
    from edgept.runtime.answerer import Answer
    from edgept.runtime.classified import Classified
    from edgept.runtime.detector import Detections
    from edgept.runtime.segmenter import Segmentation
    from edgept.runtime.tagger import Tagging

    if isinstance(found, Classified):
        yield f"{found.label} {found.probability:.4f}"
    elif isinstance(found, Tagging):
        for entity in found.entities:
            place = _place(entity.start, entity.end)
            yield f"{entity.label} {entity.score:.4f}{place} {_on_a_line(entity.text)}"
    elif isinstance(found, Answer):
        for span in found.spans:
            place = _place(span.start, span.end)
            yield (
                f"{span.score:.4f}{place} {span.text}" if span.text else f"{span.score:.4f} (none)"
            )
    elif isinstance(found, Segmentation):
        for share, label in sorted(zip(found.shares, found.labels, strict=True), reverse=True):
            if share:
                yield f"{label} {share:.1%}"
    elif isinstance(found, Detections):
        for item in found.found:
            yield f"{item.label} {item.score:.4f} {' '.join(f'{side:.1f}' for side in item.box)}"
        if not found.found:
            yield f"nothing scores {found.threshold:g} or more"
    else:
        yield " ".join(f"{value:.6g}" for value in found.vector.tolist())


def warning(found: "Finding") -> str | None:
    """That a part of the text was not read; None where all was."""
    truncated = getattr(found, "truncated", 0)
    return f"warning: {truncated} tokens of this text were cut off to fit." if truncated else None


def to_json(shown: object, result: Any, *, without: Collection[str] = (), **more: object) -> str:
    """A result, whatever the task, as one line.

    Args:
        shown: the request, as the user gave it.
        result: a dataclass with its latency.
        without: fields that are not said.
        more: what is said beside them.
    """
    from dataclasses import fields

    said = {
        field.name: _plain(getattr(result, field.name))
        for field in fields(result)
        if field.name not in without
    }
    said["latency"]["tokens_per_second"] = result.latency.tokens_per_second
    return json.dumps({"input": shown, **said, **more}, ensure_ascii=False)


def _on_a_line(text: str) -> str:
    return " ".join(text.split())


def _place(start: int | None, end: int | None) -> str:
    return "" if start is None else f" {start}:{end}"


def _plain(value: object) -> Any:
    """What JSON can say of a result's field."""
    from dataclasses import asdict, is_dataclass

    import numpy as np

    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
