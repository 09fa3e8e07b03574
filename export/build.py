"""A frozen model's graphs with the prompt as an input: which exporter makes them, of which kind of model."""

import copy
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgept.errors import UsageError
from edgept.export import llm_builder
from edgept.export.decoder_classifier import export_decoder_classifier
from edgept.export.encoder_exporter import export_encoder, prefix_geometry
from edgept.export.families import ENCODERS, SEQ2SEQ
from edgept.export.generation_rules import unread_settings
from edgept.export.graph import (
    add_logits_to_keep,
    add_virtual_tokens,
    declare_head_inputs,
    declare_prefix_input,
    declare_prompt_input,
)
from edgept.export.heads import head_labels, head_tensors, task_of
from edgept.export.kept_modules import check_exclusions, check_head
from edgept.export.llm_builder import BuilderError
from edgept.export.quantize import quantize_weights
from edgept.export.seq2seq_exporter import export_seq2seq, probe_seq2seq_kv
from edgept.export.source import ModelSource, load_frozen
from edgept.export.torch_exporter import export_decoder, probe_kv
from edgept.export.vision_exporter import declare_vision_inputs, export_vision
from edgept.export.weights import WeightFormat
from edgept.manifest import KVGeometry

__all__ = ["Built", "build"]


@dataclass(frozen=True)
class Built:
    """What the exporters made of a model.

    Attributes:
        reference: the frozen PyTorch model in float32.
        graphs: as the manifest names them; the first takes the prompt.
        kv: the cache's geometry; None of a model without one.
    """

    reference: Any
    graphs: list[ir.Model]
    kv: KVGeometry | None


def build(
    source: ModelSource,
    folder: Path,
    log: Path,
    weights: WeightFormat,
    progress: Callable[[str], object],
) -> Built:
    """Make the graphs of a model, whatever kind it is of.

    Args:
        source: the model.
        folder: the bundle's, where onnxruntime-genai's builder leaves its genai_config.json.
        log: the exporters' output goes here.
        weights: how they are stored.
        progress: called with what is being done.

    Raises:
        UsageError: the model has no layer that the weights' exceptions name, or is not for these weights.
        ExportError: an exporter cannot do it.
    """
    if source.is_image:
        built = _build_vision(source, weights, progress)
    elif source.is_seq2seq:
        built = _build_seq2seq(source, weights, progress)
    else:
        built = _build_text(source, folder, log, weights, progress)
    check_head(built.graphs, weights)
    if source.task == "text-generation":
        add_logits_to_keep(built.graphs[0].graph)
    return built


def _build_text(
    source: ModelSource,
    folder: Path,
    log: Path,
    weights: WeightFormat,
    progress: Callable[[str], object],
) -> Built:
    """Of a decoder or an encoder of text."""
    generates = source.task == "text-generation"
    frozen = cache(partial(load_frozen, source))
    if weights.exclude_modules:
        check_exclusions(frozen(), weights)
    if generates and llm_builder.knows(source):
        weights.check_width(source.config.get_text_config().hidden_size)
        try:
            return _build_with_builder(source, frozen, folder, log, weights, progress)
        except BuilderError as error:
            progress(f"{error} Exporting with torch.onnx instead")
    reference = frozen()
    progress("exporting the graph with torch.onnx")
    model = copy.deepcopy(reference).half() if weights.half else reference
    kv: KVGeometry | None
    if source.is_encoder:
        family = ENCODERS[source.config.model_type]
        kv = prefix_geometry(reference, family)
        graph = export_encoder(model, family, source.task)
    else:
        kv = probe_kv(reference, shared_buffer=False)
        graph = (export_decoder if generates else export_decoder_classifier)(model, kv)
    if weights.bits is not None:
        progress(f"quantising the weights to {weights.precision}")
        graph = quantize_weights(graph, weights, model)
    float_type = ir.DataType.FLOAT16 if weights.half else ir.DataType.FLOAT
    declare_prompt_input(graph.graph, reference.get_input_embeddings().embedding_dim, float_type)
    if kv is not None and kv.prefix_only:
        declare_prefix_input(graph.graph, kv, float_type)
    declare_head_inputs(graph.graph, _default_head(reference, float_type))
    return Built(reference, [graph], kv)


def _build_with_builder(
    source: ModelSource,
    frozen: Callable[[], Any],
    folder: Path,
    log: Path,
    weights: WeightFormat,
    progress: Callable[[str], object],
) -> Built:
    """Of a decoder that onnxruntime-genai's builder knows; its genai_config.json goes to the folder.

    Raises:
        BuilderError: the builder does not get along with the model.
    """
    kept = []
    if weights.exclude_modules:
        kept = llm_builder.kept_nodes(frozen(), weights.exclude_modules)
    with tempfile.TemporaryDirectory(prefix="edgept-work-") as work:
        progress(f"building the {weights.precision} graph with onnxruntime-genai's builder")
        built = Path(work) / "built"
        process = llm_builder.build(
            source, built, weights, kept=kept, cache=Path(work) / "c", log=log
        )
        try:
            reference = frozen()  # while the builder works
            graph = ir.load(llm_builder.finish(process, built, log))
            llm_builder.check_kept(graph.graph, kept)
            llm_builder.tie(graph.graph)
            _add_prompt_input(graph.graph, reference.get_input_embeddings())
            # into memory, since the builder's folder goes
            ir.external_data.load_to_model(graph)
            shutil.copy(built / "genai_config.json", folder)
            return Built(reference, [graph], probe_kv(reference, shared_buffer=True))
        finally:
            process.kill()
            process.wait()


def _build_seq2seq(
    source: ModelSource,
    weights: WeightFormat,
    progress: Callable[[str], object],
) -> Built:
    """Of an encoder-decoder: the encoder's graph, which takes the prompt, and the decoder's."""
    family = SEQ2SEQ[source.config.model_type]
    if weights.half and family.looks_at_halves:
        raise UsageError(
            f"{source.architecture} is exported for {weights.target} in fp32 only: its layers look at their "
            "values in float16, which no exporter can follow. Choose --precision fp32."
        )
    reference = load_frozen(source)
    check_exclusions(reference, weights)
    unread = unread_settings(reference.generation_config)
    if unread:
        progress(
            f"the model's own {', '.join(unread)} is not used: a request says how it samples. Exporting"
        )
    kv = probe_seq2seq_kv(reference)
    progress("exporting the encoder's and the decoder's graph with torch.onnx")
    model = copy.deepcopy(reference).half() if weights.half else reference
    graphs = list(export_seq2seq(model, family, kv))
    if weights.bits is not None:
        progress(f"quantising the weights to {weights.precision}")
        graphs = [quantize_weights(graph, weights, model) for graph in graphs]
    float_type = ir.DataType.FLOAT16 if weights.half else ir.DataType.FLOAT
    width = reference.get_input_embeddings().embedding_dim
    declare_prompt_input(graphs[0].graph, width, float_type)
    return Built(reference, graphs, kv)


def _build_vision(
    source: ModelSource,
    weights: WeightFormat,
    progress: Callable[[str], object],
) -> Built:
    """Of an image model, whose graph takes pictures."""
    reference = load_frozen(source)
    check_exclusions(reference, weights)
    progress("exporting the graph with torch.onnx")
    model = copy.deepcopy(reference).half() if weights.half else reference
    graph = export_vision(model)
    if weights.bits is not None:
        progress(f"quantising the weights to {weights.precision}")
        graph = quantize_weights(graph, weights, model)
    float_type = ir.DataType.FLOAT16 if weights.half else ir.DataType.FLOAT
    declare_vision_inputs(graph.graph, reference, float_type)
    return Built(reference, [graph], None)


def _default_head(reference: Any, dtype: ir.DataType) -> dict[str, Any]:
    """The model's own head, by the graph's names; zeros where it has none, of one class if it may."""
    head = {name: tensor.numpy() for name, tensor in head_tensors(reference).items()}
    if head and not head_labels(reference):
        classes = 2 if task_of(reference) == "question-answering" else 1
        for name in ("head.weight", "head.bias"):
            head[name] = np.zeros_like(head[name], shape=(classes, *head[name].shape[1:]))
    return {name: array.astype(dtype.numpy()) for name, array in head.items()}


def _add_prompt_input(graph: ir.Graph, embedding: Any) -> None:
    add_virtual_tokens(
        graph,
        embedding.num_embeddings,
        embedding.embedding_dim,
        scaled_embedding=hasattr(embedding, "embed_scale"),
    )
