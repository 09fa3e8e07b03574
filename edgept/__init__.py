"""edgept: one frozen ONNX model, its task in a kilobyte prompt file.

This is the public API. It loads on first use, so that `import edgept` is quick and never imports
torch; `edgept.export` is the workstation's side and does.
"""

from typing import TYPE_CHECKING, Any

from edgept.errors import (
    EdgeptError,
    ExportError,
    IncompatibleError,
    InvalidFileError,
    MissingDependencyError,
    UntrustedError,
    UsageError,
)

if TYPE_CHECKING:
    from edgept.latency import Latency
    from edgept.prompt import Prompt
    from edgept.prompt_file import read_prompt, write_prompt
    from edgept.prompt_source import load_prompt_source
    from edgept.runtime.answerer import Answer, Span
    from edgept.runtime.classifier import Classification
    from edgept.runtime.content import LoadedPrompt
    from edgept.runtime.detector import Detection, Detections
    from edgept.runtime.embedder import Embedding
    from edgept.runtime.generation import Generation
    from edgept.runtime.image_classifier import ImageClassification
    from edgept.runtime.model import Model, load
    from edgept.runtime.segmenter import Segmentation
    from edgept.runtime.tagger import Entity, Tagging

__all__ = [
    "Answer",
    "Classification",
    "Detection",
    "Detections",
    "EdgeptError",
    "Embedding",
    "Entity",
    "ExportError",
    "Generation",
    "ImageClassification",
    "IncompatibleError",
    "InvalidFileError",
    "Latency",
    "LoadedPrompt",
    "MissingDependencyError",
    "Model",
    "Prompt",
    "Segmentation",
    "Span",
    "Tagging",
    "UntrustedError",
    "UsageError",
    "__version__",
    "load",
    "load_prompt_source",
    "read_prompt",
    "write_prompt",
]

__version__ = "0.1.0"

_HOMES = {
    "Answer": "edgept.runtime.answerer",
    "Classification": "edgept.runtime.classifier",
    "Detection": "edgept.runtime.detector",
    "Detections": "edgept.runtime.detector",
    "Embedding": "edgept.runtime.embedder",
    "Entity": "edgept.runtime.tagger",
    "Generation": "edgept.runtime.generation",
    "ImageClassification": "edgept.runtime.image_classifier",
    "Latency": "edgept.latency",
    "LoadedPrompt": "edgept.runtime.content",
    "Model": "edgept.runtime.model",
    "Prompt": "edgept.prompt",
    "Segmentation": "edgept.runtime.segmenter",
    "Span": "edgept.runtime.answerer",
    "Tagging": "edgept.runtime.tagger",
    "load": "edgept.runtime.model",
    "load_prompt_source": "edgept.prompt_source",
    "read_prompt": "edgept.prompt_file",
    "write_prompt": "edgept.prompt_file",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgept' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
