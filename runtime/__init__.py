"""The device side: onnxruntime, numpy and tokenizers; never torch.

Code organization (a request passes through these in order):
    model.py        load a bundle, make prompts resident, generate: the public class
    content.py      texts, prompts and ids of a request to ids and a prompt table
    text.py         tokens and text; chat.py chat templates in a sandbox
    decoder.py      a decoder-only graph: open, prefill, step
    cache.py        its keys and values, in place or growing
    graph.py        the onnxruntime session
    sampling.py     logits to the next token; stop.py stop strings
    generation.py   the loop, one sequence or a batch
    graph_guard.py  what a graph may refer to, before onnxruntime sees it
    device.py       what this device offers; advice.py what to change; requirements.py
"""

from edgept.runtime.content import LoadedPrompt
from edgept.runtime.generation import Generation, GenerationStream
from edgept.runtime.model import Model, load
from edgept.runtime.sampling import Sampling

__all__ = ["Generation", "GenerationStream", "LoadedPrompt", "Model", "Sampling", "load"]
