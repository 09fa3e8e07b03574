"""`edgept export`: a transformers model to a bundle, checked, and put in place by one rename."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgept.atomic import atomic_folder
from edgept.bundle import (
    HASHES_NAME,
    MANIFEST_NAME,
    PREPROCESSOR_NAME,
    WEIGHTS_ENDING,
    hash_file,
    to_hashes,
)
from edgept.errors import UsageError
from edgept.export.build import build
from edgept.export.chatter import logged
from edgept.export.data_parity import read_rows
from edgept.export.describe import check_longest_prompt, describe
from edgept.export.genai_config import write_genai_config
from edgept.export.image_preprocessor import read_preprocessor
from edgept.export.parity import check_parity
from edgept.export.source import find_model
from edgept.export.tally import Parity
from edgept.export.tokenizer_files import save_table, save_tokenizer
from edgept.export.weights import PRECISIONS, WeightFormat
from edgept.manifest import BundleFile, Manifest
from edgept.runtime.model import load

if TYPE_CHECKING:
    from edgept.tune.settings import Columns

__all__ = ["Export", "export_model"]


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
        check_longest_prompt(source, max_virtual_tokens)
        data = None if verify_data is None else read_rows(verify_data, columns, source.task)
        built = build(source, folder, log, weights, progress)
        progress("writing the bundle")
        if source.is_image:
            _, settings = read_preprocessor(source)
            (folder / PREPROCESSOR_NAME).write_text(settings, encoding="utf-8")
        else:
            save_tokenizer(source, folder)
            save_table(folder, progress)
        manifest = describe(source, built, weights, max_virtual_tokens)
        _save(built.graphs, folder, manifest)
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
                built.reference, bundle, precision=precision, verify_text=verify_text, data=data
            )
            checked = {**parity.to_manifest(), "providers": bundle.providers}
            manifest = replace(manifest, parity=checked)
            (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        (folder / HASHES_NAME).write_text(to_hashes(manifest), encoding="utf-8")
    return Export(Path(output), manifest, parity)


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
