"""The device side: onnxruntime, numpy and tokenizers, Pillow for pictures; never torch.

Code organization (a request passes through these in order):
    model.py        load a bundle, make prompts resident, ask: the public class, whatever the task;
                    bundle_checks.py what a bundle is checked for first
    writing.py      the calls on models that write; text_model.py what they share with reading.py
    generator.py    text generation, with its options.py and perplexity.py
    seq2seq_generator.py  the same on an encoder-decoder, whose moves are in seq2seq.py; rules.py what
                    its generation_config forbids; beams.py and beam_stream.py beam search
    reading.py      the calls on models that read and do not write, all over forward.py, one pass
    batching.py     which rows run together
    classified.py   what a head says, of texts and pictures
    classifier.py   text classification
    tagger.py       token classification
    answerer.py     question answering
    embedder.py     feature extraction
    seeing.py       the calls on models that look at pictures, all over vision.py, one pass, which
                    graph_vision.py runs; sights.py which pictures run together
    image_classifier.py, segmenter.py, detector.py  what is found in them
    residency.py    a prompt's tensors as the graph takes them
    content.py      texts, prompts and ids of a request to ids and a prompt table
    text.py         tokens and text; encoding.py where tokens stand in it; chat.py chat templates in a sandbox
    decoder.py      a decoder-only graph: open, prefill, step
    cache.py        its keys and values, in place or growing
    graph.py        the onnxruntime session
    sampling.py     logits to the next token; stop.py stop strings
    generation.py   the loop, one sequence or a batch
    graph_guard.py  what a graph may refer to, before onnxruntime sees it
    device.py       what this device offers; advice.py what to change; requirements.py
    c/              the same without Python: libedgept
    c_engine.py     calls it from Python: the calls in c_writing.py and c_reading.py, pictures in c_vision.py;
                    c_bundle.py, c_prompt.py, c_request.py and c_stream.py what is asked; c_library.py the
                    library, c_header.py what its header declares
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgept.runtime.answerer import Answer, Span
    from edgept.runtime.classifier import Classification
    from edgept.runtime.content import LoadedPrompt
    from edgept.runtime.detector import Detection, Detections
    from edgept.runtime.embedder import Embedding
    from edgept.runtime.generation import Generation, GenerationStream
    from edgept.runtime.image_classifier import ImageClassification
    from edgept.runtime.model import Model, load
    from edgept.runtime.options import GenerateOptions
    from edgept.runtime.sampling import Sampling
    from edgept.runtime.segmenter import Segmentation
    from edgept.runtime.tagger import Entity, Tagging

__all__ = [
    "Answer",
    "Classification",
    "Detection",
    "Detections",
    "Embedding",
    "Entity",
    "GenerateOptions",
    "Generation",
    "GenerationStream",
    "ImageClassification",
    "LoadedPrompt",
    "Model",
    "Sampling",
    "Segmentation",
    "Span",
    "Tagging",
    "load",
]

# Loaded on first use: `edgept doctor` must run where a package that the model needs is missing.
_HOMES = {
    "Answer": "edgept.runtime.answerer",
    "Classification": "edgept.runtime.classifier",
    "Detection": "edgept.runtime.detector",
    "Detections": "edgept.runtime.detector",
    "Embedding": "edgept.runtime.embedder",
    "Entity": "edgept.runtime.tagger",
    "GenerateOptions": "edgept.runtime.options",
    "Generation": "edgept.runtime.generation",
    "GenerationStream": "edgept.runtime.generation",
    "ImageClassification": "edgept.runtime.image_classifier",
    "LoadedPrompt": "edgept.runtime.content",
    "Model": "edgept.runtime.model",
    "Sampling": "edgept.runtime.sampling",
    "Segmentation": "edgept.runtime.segmenter",
    "Span": "edgept.runtime.answerer",
    "Tagging": "edgept.runtime.tagger",
    "load": "edgept.runtime.model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgept.runtime' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
