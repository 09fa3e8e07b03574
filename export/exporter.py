"""`edgept export`: a transformers model to a bundle, checked, and put in place by one rename."""

import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from transformers import AutoTokenizer

from edgept import __version__
from edgept.atomic import atomic_folder
from edgept.bundle import (
    HASHES_NAME,
    MANIFEST_NAME,
    PREPROCESSOR_NAME,
    TABLE_NAME,
    WEIGHTS_ENDING,
    BundleFile,
    KVGeometry,
    Manifest,
    hash_file,
    to_hashes,
)
from edgept.errors import ExportError, UsageError
from edgept.export import llm_builder
from edgept.export.chatter import logged
from edgept.export.data_parity import read_rows
from edgept.export.decoder_classifier import export_decoder_classifier
from edgept.export.encoder_exporter import export_encoder, padding_id, prefix_geometry
from edgept.export.families import ENCODERS, SEQ2SEQ
from edgept.export.fingerprint import fingerprint
from edgept.export.genai_config import write_genai_config
from edgept.export.generation_rules import read_decoding, unread_settings
from edgept.export.graph import (
    add_logits_to_keep,
    add_virtual_tokens,
    declare_head_inputs,
    declare_prefix_input,
    declare_prompt_input,
)
from edgept.export.heads import find_head, head_labels, head_tensors, task_of
from edgept.export.image_preprocessor import read_preprocessor
from edgept.export.kept_modules import check_exclusions, check_head
from edgept.export.llm_builder import BuilderError
from edgept.export.parity import check_parity
from edgept.export.pooling import read_pooling
from edgept.export.prompted_vision import PromptedVision
from edgept.export.quantize import quantize_weights
from edgept.export.seq2seq_exporter import export_seq2seq, probe_seq2seq_kv
from edgept.export.source import ModelSource, find_model, load_frozen
from edgept.export.tally import Parity
from edgept.export.tokenizer_table import compile_tokenizer
from edgept.export.torch_exporter import export_decoder, probe_kv
from edgept.export.vision_exporter import declare_vision_inputs, export_vision, vision_labels
from edgept.export.weights import PRECISIONS, WeightFormat
from edgept.runtime.model import load
from edgept.runtime.text import Tokenizer

if TYPE_CHECKING:
    from edgept.tune.settings import Columns

__all__ = ["Export", "export_model"]

_PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "jetson": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}
_MIN_ONNXRUNTIME = "1.23.0"
_MAX_VIRTUAL_TOKENS = 1024
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)


@dataclass(frozen=True)
class Export:
    """What an export made.

    Attributes:
        bundle: the folder.
        manifest: as written there.
        parity: what the check measured; None when it was skipped.
    """

    bundle: Path
    manifest: Manifest
    parity: Parity | None


def export_model(
    model: str,
    output: str | os.PathLike[str] = "bundle",
    *,
    precision: str | None = None,
    task: str | None = None,
    target: str = "cpu",
    block_size: int = 32,
    exclude_modules: Sequence[str] = (),
    head_precision: str | None = None,
    max_virtual_tokens: int | None = None,
    verify: bool = True,
    verify_text: str | None = None,
    verify_data: str | os.PathLike[str] | None = None,
    columns: "Columns | None" = None,
    force: bool = False,
    progress: Callable[[str], object] = lambda _: None,
) -> Export:
    """Export a model with its prompt as an input of its own.

    Standard output and error are redirected to a log while the exporters run, so this is a call for
    a program's main thread.

    Args:
        model: local transformers folder or hub id.
        output: folder of the bundle; it appears when all is done.
        precision: of the weights: fp32, fp16, int8 or int4 (weights only), or int8-dynamic (an
            encoder's activations, too); None takes int4 for the CPU, fp32 for an encoder there, and
            fp16 elsewhere.
        task: transformers' name; None finds it from the config.
        target: cpu, cuda or jetson: execution provider and float type.
        block_size: weights that share a scale in int8 and int4: 16, 32, 64, 128 or 256. Larger ones
            are smaller in memory and quicker, and keep less of the model.
        exclude_modules: globs on the names of modules, as PyTorch's `named_modules` has them; the linear
            layers that they name, or that are in a module that they name, keep float weights.
        head_precision: int8 for the head of a language model whose other weights are int4.
        max_virtual_tokens: longest prompt that the bundle takes; None is 1024 or what the model's
            longest sequence leaves.
        verify: compare with PyTorch; above the tolerance in fp32 or fp16 nothing is left behind.
        verify_text: a text on which perplexity is compared, too.
        verify_data: rows as `edgept tune` takes them, on which the task's metric is compared, too: the
            accuracy of a model with a head of its own, the perplexity of answers.
        columns: names of the columns there.
        force: replace an existing bundle. A folder that is not a bundle is never replaced.
        progress: called with what is being done.

    Raises:
        UsageError: an argument is out of range, or the output exists.
        ExportError: the model cannot be exported, or is not the same afterwards.
    """
    if target not in PRECISIONS:
        raise UsageError(f"unknown target {target!r}; expected one of {', '.join(PRECISIONS)}.")
    if precision is not None and precision not in PRECISIONS[target]:
        raise UsageError(
            f"precision {precision!r} is not exported for the target {target}; expected one of "
            f"{', '.join(PRECISIONS[target])}."
        )
    with atomic_folder(output, marker=MANIFEST_NAME, overwrite=force) as folder, logged() as log:
        progress("reading the model")
        source = find_model(model, task)
        generates = source.task == "text-generation"
        if verify_text is not None and not generates:
            raise UsageError(
                f"--verify-text measures perplexity, which {source.task} has none of. Leave it out."
            )
        if precision is None:
            # encoders are small, and run once a text: their weights are not what takes the time
            reads_once = source.is_encoder or source.is_seq2seq or source.is_image
            on_cpu = reads_once and target == "cpu"
            precision = "fp32" if on_cpu else PRECISIONS[target][0]
        weights = WeightFormat(
            precision, target, block_size, tuple(exclude_modules), head_precision
        )
        weights.check_exceptions(source.task)
        if weights.dynamic and not (source.is_encoder or source.is_image):
            raise UsageError(
                "int8-dynamic is quicker only where many tokens are run at once, so it is for encoders and image models. "
                "Choose int8 or int4."
            )
        data = None if verify_data is None else read_rows(verify_data, columns, source.task)
        build = _build_seq2seq if source.is_seq2seq else _build
        if source.is_image:
            build = _build_vision
        reference, graphs, kv = build(source, folder, log, weights, progress)
        check_head(graphs, weights)
        if generates:
            add_logits_to_keep(graphs[0].graph)
        progress("writing the bundle")
        if source.is_image:
            manifest = _describe_vision(source, reference, graphs[0], weights, max_virtual_tokens)
            if manifest.image is not None:
                _, settings = read_preprocessor(source)
                (folder / PREPROCESSOR_NAME).write_text(settings, encoding="utf-8")
        else:
            _save_tokenizer(source, folder)
            _save_table(folder, progress)
            manifest = _describe(source, reference, graphs[0], kv, weights, max_virtual_tokens)
        _save(graphs, folder, manifest)
        if generates and not (folder / "genai_config.json").is_file():
            write_genai_config(folder, manifest, source.config.num_attention_heads)
        manifest = replace(manifest, files=_list_files(folder))
        (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        parity = None
        if verify:
            progress("comparing with PyTorch")
            providers = None if target == "cpu" else ["CPUExecutionProvider"]
            bundle = load(folder, providers=providers, check_hashes=False)
            parity = check_parity(
                reference, bundle, precision=precision, verify_text=verify_text, data=data
            )
            checked = {**parity.to_manifest(), "providers": bundle.providers}
            manifest = replace(manifest, parity=checked)
            (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        (folder / HASHES_NAME).write_text(to_hashes(manifest), encoding="utf-8")
    return Export(Path(output), manifest, parity)


def _build(
    source: ModelSource,
    folder: Path,
    log: Path,
    weights: WeightFormat,
    progress: Callable[[str], object],
) -> tuple[Any, list[ir.Model], KVGeometry | None]:
    """The frozen PyTorch model, the graph with its prompt input, and the cache's geometry."""
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
    return reference, [graph], kv


def _build_with_builder(
    source: ModelSource,
    frozen: Callable[[], Any],
    folder: Path,
    log: Path,
    weights: WeightFormat,
    progress: Callable[[str], object],
) -> tuple[Any, list[ir.Model], KVGeometry]:
    """The same of a model that onnxruntime-genai's builder knows; its genai_config.json goes to the folder.

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
            return reference, [graph], probe_kv(reference, shared_buffer=True)
        finally:
            process.kill()
            process.wait()


def _build_seq2seq(
    source: ModelSource,
    folder: Path,  # noqa: ARG001 - the other way of building writes there
    log: Path,  # noqa: ARG001
    weights: WeightFormat,
    progress: Callable[[str], object],
) -> tuple[Any, list[ir.Model], KVGeometry]:
    """The same of an encoder-decoder: the encoder's graph, which takes the prompt, and the decoder's."""
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
    return reference, graphs, kv


def _build_vision(
    source: ModelSource,
    folder: Path,  # noqa: ARG001 - as _build_seq2seq
    log: Path,  # noqa: ARG001
    weights: WeightFormat,
    progress: Callable[[str], object],
) -> tuple[Any, list[ir.Model], None]:
    """The same of an image model, whose graph takes pictures."""
    reference = load_frozen(source)
    check_exclusions(reference, weights)
    # before the long part: what would be wrong at its end
    progress("exporting the graph with torch.onnx")
    model = copy.deepcopy(reference).half() if weights.half else reference
    graph = export_vision(model)
    if weights.bits is not None:
        progress(f"quantising the weights to {weights.precision}")
        graph = quantize_weights(graph, weights, model)
    float_type = ir.DataType.FLOAT16 if weights.half else ir.DataType.FLOAT
    declare_vision_inputs(graph.graph, reference, float_type)
    return reference, [graph], None


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


def _save_tokenizer(source: ModelSource, folder: Path) -> None:
    """Save the tokenizer where the model has one; without, the bundle takes token ids only."""
    if not any((source.folder / name).is_file() for name in _TOKENIZER_FILES):
        return
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)
        # templates inside tokenizer_config.json, where there may be several; a bundle has no folders
        tokenizer.save_pretrained(folder, save_jinja_files=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ExportError(
            f"the tokenizer of {source.location} could not be loaded: {error}. Install what it asks for, "
            "or remove its files to export a bundle that takes token ids only."
        ) from error
    if not (folder / "tokenizer.json").is_file():
        raise ExportError(
            f"the tokenizer of {source.location} has no tokenizer.json, which the device reads, and "
            "transformers made none. Convert it to a fast tokenizer, or remove its files to export a "
            "bundle that takes token ids only."
        )


def _save_table(folder: Path, progress: Callable[[str], object]) -> None:
    """Save what the C library reads of the tokenizer, where that can do all that this one does."""
    tokenizer = Tokenizer.from_bundle(folder)
    if tokenizer is None:
        return
    try:
        table = compile_tokenizer(tokenizer)
    except ExportError as error:
        progress(
            f"{TABLE_NAME} is left out, so the C library takes token ids only: {error} Writing the rest"
        )
    else:
        (folder / TABLE_NAME).write_bytes(table)


def _describe(
    source: ModelSource,
    reference: Any,
    graph: ir.Model,
    kv: KVGeometry | None,
    weights: WeightFormat,
    max_virtual_tokens: int | None,
) -> Manifest:
    config = source.config.get_text_config()
    embedding = reference.get_input_embeddings()
    # BLOOM has no longest sequence of its own: its positions are biases of the attention
    max_positions = int(getattr(config, "max_position_embeddings", None) or 2048)
    family = ENCODERS.get(source.config.model_type)
    padding = None if family is None else padding_id(reference, family)
    if padding is not None:
        max_positions -= padding + 1  # rows of the table that no token's position takes
    head = head_tensors(reference)
    pooling, normalize = None, False
    if source.task == "feature-extraction":
        pooling, normalize = read_pooling(source.folder)
    limit = max_virtual_tokens or min(_MAX_VIRTUAL_TOKENS, max(1, max_positions - 1))
    if not 1 <= limit < max(2, max_positions):
        raise UsageError(
            f"--max-virtual-tokens {limit}: {source.name} takes sequences of {max_positions} tokens, so "
            f"expected 1 to {max_positions - 1}."
        )
    bos, pad = source.generation.bos_token_id, getattr(config, "pad_token_id", None)
    return Manifest(
        source=source.name,
        architecture=type(reference).__name__,
        model_type=source.config.model_type,
        task=source.task,
        vocab_size=embedding.num_embeddings,
        hidden_size=embedding.embedding_dim,
        max_positions=max_positions,
        max_virtual_tokens=limit,
        kv=kv,
        bos_token_id=bos if isinstance(bos, int) else None,
        eos_token_ids=source.eos_token_ids,
        **_provenance(reference, graph, weights),
        head_precision=weights.head_precision,
        head_size=find_head(reference).in_features if head else None,
        head_dense="head.dense.weight" in head,
        labels=head_labels(reference) if head else [],
        pooling=pooling,
        normalize=normalize,
        # where transformers looks for it, too; an encoder pools its first position
        pad_token_id=pad if head and not source.is_encoder and isinstance(pad, int) else None,
        decoding=read_decoding(reference.generation_config, source.eos_token_ids)
        if source.is_seq2seq
        else None,
    )


def _describe_vision(
    source: ModelSource,
    reference: Any,
    graph: ir.Model,
    weights: WeightFormat,
    max_virtual_tokens: int | None,
) -> Manifest:
    prompted = PromptedVision(reference)
    limit = max_virtual_tokens or _MAX_VIRTUAL_TOKENS
    if limit < 1:
        raise UsageError(f"--max-virtual-tokens {limit}, expected at least 1.")
    return Manifest(
        source=source.name,
        architecture=type(reference).__name__,
        model_type=source.config.model_type,
        task=source.task,
        vocab_size=0,
        hidden_size=prompted.hidden_size,
        max_positions=1 + limit + prompted.geometry.num_patches,
        max_virtual_tokens=limit,
        kv=None,
        bos_token_id=None,
        eos_token_ids=[],
        **_provenance(reference, graph, weights),
        head_size=prompted.head_size,
        labels=vision_labels(reference),
        image=prompted.geometry,
    )


def _provenance(reference: Any, graph: ir.Model, weights: WeightFormat) -> dict[str, Any]:
    """What is said of every bundle alike: weights, provider, versions, fingerprint."""
    rows = next(item for item in graph.graph.inputs if item.name == "prompt_embeds")
    return {
        "precision": weights.precision,
        "block_size": weights.block_size if weights.bits and not weights.dynamic else None,
        "exclude_modules": list(weights.exclude_modules),
        "float_type": "float16" if rows.dtype == ir.DataType.FLOAT16 else "float32",
        "target": weights.target,
        "providers": _PROVIDERS[weights.target],
        "opset": dict(graph.opset_imports),
        "min_onnxruntime": _MIN_ONNXRUNTIME,
        "fingerprint": fingerprint(reference),
        "created_by": f"edgept {__version__}, PyTorch {torch.__version__}",
    }


def _save(graphs: list[ir.Model], folder: Path, manifest: Manifest) -> None:
    for name, graph in zip(manifest.graphs, graphs, strict=True):
        graph.metadata_props.update(manifest.to_metadata())
        ir.save(graph, folder / name, external_data=f"{name}{WEIGHTS_ENDING}")


def _list_files(folder: Path) -> dict[str, BundleFile]:
    return {
        path.name: BundleFile(path.stat().st_size, hash_file(path))
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST_NAME
    }
