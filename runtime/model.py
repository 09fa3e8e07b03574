"""The model on the device: load a bundle, make prompts resident, and ask: one class for every task."""

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np
import numpy.typing as npt

from edgept.bundle import check_files, find_bundle, read_manifest
from edgept.errors import IncompatibleError, InvalidFileError, UsageError
from edgept.manifest import SEQ2SEQ_TASK, Manifest
from edgept.prompt import Prompt, check_fits
from edgept.prompt_source import load_prompt_source
from edgept.runtime.bundle_checks import check_task, checking_weights
from edgept.runtime.calls import refuse
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.effect import check_effect, check_image_effect
from edgept.runtime.forward import Forward
from edgept.runtime.generator import Generator
from edgept.runtime.graph import Graph
from edgept.runtime.graph_guard import check_graph
from edgept.runtime.graph_vision import GraphVision
from edgept.runtime.options import LoadOptions
from edgept.runtime.reading import ReadingModel
from edgept.runtime.residency import make_head, rows_and_keys, share_tensors
from edgept.runtime.seeing import SeeingModel
from edgept.runtime.seq2seq_generator import Seq2SeqGenerator
from edgept.runtime.sights import check_together
from edgept.runtime.text import Tokenizer
from edgept.runtime.writing import WritingModel

if TYPE_CHECKING:
    from edgept.runtime.c_engine import CModel

__all__ = ["Model", "load"]


@overload
def load(
    bundle: str | os.PathLike[str] | None = None,
    *,
    engine: Literal["python"] = "python",
    **options: Unpack[LoadOptions],
) -> "Model": ...
@overload
def load(
    bundle: str | os.PathLike[str] | None = None,
    *,
    engine: Literal["c"],
    **options: Unpack[LoadOptions],
) -> "CModel": ...
def load(
    bundle: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    max_length: int | None = None,
    check_hashes: bool = True,
    engine: Literal["python", "c"] = "python",
) -> "Model | CModel":
    """Load a bundle that `edgept export` made.

    Args:
        bundle: its folder; None takes $EDGEPT_BUNDLE, then ./bundle.
        threads: threads that compute one operator; None takes every core this process may use.
        providers: onnxruntime execution providers, best first; None takes the bundle's own.
        max_length: of texts, longest sequence in tokens, virtual and new ones included; None takes the
            model's. Memory is reserved per request for what it needs, not for this.
        check_hashes: compare every file with its SHA-256 in the manifest first (about a second
            for a gigabyte). Without it, the graph is still checked for what it may refer to.
        engine: "python", or "c" for the calls of `Model` that libedgept has (see `CModel`), run by it.
            The library is the file that $EDGEPT_LIBRARY names, the system's, or a checkout's own.

    Raises:
        UsageError: there is no bundle there, or an argument is out of range.
        InvalidFileError: a file of the bundle is malformed.
        UntrustedError: a file is not the one that was exported.
        IncompatibleError: this runtime does not run bundles of this task.
        MissingDependencyError: onnxruntime is missing or too old, or engine is "c" and libedgept is
            missing or of another version.
    """
    if engine not in ("python", "c"):
        raise UsageError(f"engine is {engine!r}, expected 'python' or 'c'.")
    options = LoadOptions(
        threads=threads, providers=providers, max_length=max_length, check_hashes=check_hashes
    )
    if engine == "c":
        from edgept.runtime.c_engine import CModel  # ctypes: few programs need it

        return CModel(find_bundle(bundle), options)
    return Model(find_bundle(bundle), options)


class Model(WritingModel, ReadingModel, SeeingModel[LoadedPrompt]):
    """A frozen model whose task is chosen request by request, by the prompt in front of it.

    Several threads may use one model at once: a request keeps its state to itself, prompts never
    change after they are loaded, and onnxruntime's sessions are safe to run from many threads.

    Which calls there are depends on the bundle's task; those of models that write (`generate`, `stream`,
    `logits`, `perplexity`, `chat`) are in `WritingModel`, those of models that read (`classify`, `tag`,
    `answer`, `embed`) in `ReadingModel`, those of models that look at pictures (`see`, `classify_image`,
    `segment`, `detect`, `embed_image`) in `SeeingModel`.

    Attributes:
        bundle: its folder.
        manifest: what was exported.
        tokenizer: None where the bundle has none; then requests are token ids, or pictures.
        max_length: longest sequence in tokens.
        load_ms: time that loading took.
    """

    def __init__(self, bundle: Path, options: LoadOptions) -> None:
        started = time.perf_counter()
        threads, providers = options["threads"], options["providers"]
        max_length, check_hashes = options["max_length"], options["check_hashes"]
        self.bundle = bundle
        self.manifest: Manifest = read_manifest(bundle)
        manifest = self.manifest
        check_task(manifest, bundle)
        for name in manifest.graphs:
            if name not in manifest.files:
                raise InvalidFileError(
                    "manifest-malformed", f"{bundle} lists no {name}. Export the model again."
                )
        if check_hashes:
            check_files(bundle, manifest, weights=False)
        if manifest.image is not None and max_length is not None:
            raise UsageError(
                "max_length is for texts; a picture's patches are as many as they are."
            )
        self.max_length = manifest.max_positions if max_length is None else max_length
        if not 1 <= self.max_length <= manifest.max_positions:
            raise UsageError(
                f"max_length is {max_length}; {manifest.source} was made for sequences of 1 to "
                f"{manifest.max_positions} tokens."
            )
        with checking_weights(bundle, manifest) if check_hashes else nullcontext():
            for name in manifest.graphs:
                check_graph(bundle / name, manifest.files.keys())
            self.tokenizer = Tokenizer.from_bundle(bundle)
            graphs = [
                Graph(bundle / name, manifest, threads=threads, providers=providers)
                for name in manifest.graphs
            ]
        self._graph = graphs[-1]
        self._runner: Forward | Generator | Seq2SeqGenerator | GraphVision
        self._vision: GraphVision | None = None
        if manifest.image is not None:
            from edgept.pictures import Preprocessor  # Pillow: models of text do without

            self._vision = GraphVision(self._graph, manifest, Preprocessor.from_bundle(bundle))
            self._runner = self._vision
        elif manifest.task == SEQ2SEQ_TASK:
            encoder, decoder = graphs
            self._runner = Seq2SeqGenerator(
                encoder, decoder, manifest, self.max_length, self.tokenizer
            )
        elif manifest.task == "text-generation":
            self._runner = Generator(self._graph, manifest, self.max_length, self.tokenizer)
        else:
            self._runner = Forward(self._graph, manifest, self.max_length)
        self._effective: set[str] = set()  # kinds of tensors that were seen to reach the output
        self.load_ms = (time.perf_counter() - started) * 1e3

    @property
    def providers(self) -> list[str]:
        """Execution providers in use, best first."""
        return self._graph.providers

    @property
    def threads(self) -> int:
        """Threads that compute one operator."""
        return self._graph.threads

    def load_prompt(
        self,
        source: str | os.PathLike[str] | Prompt,
        *,
        name: str | None = None,
        task_index: int | None = None,
    ) -> LoadedPrompt:
        """Make a prompt resident: read, check, and compute its keys and values once.

        Args:
            source: a prompt file, a peft folder, a `.pt`, `.bin`, `.safetensors` or `.npy` with
                the tensor, or a prompt in memory.
            name: what to call the task; None takes the file's own.
            task_index: the task of a multitask prompt (peft's MULTITASK_PROMPT_TUNING).

        Raises:
            UsageError: there is nothing to read, or the task index is missing.
            InvalidFileError: the file breaks its format's rules.
            IncompatibleError: the prompt was made for another model; or, of the first prompt of its
                kind here, the model's output is the same without it.
        """
        started = time.perf_counter()
        owned = not isinstance(source, Prompt)
        if isinstance(source, Prompt):
            prompt = source
        else:
            prompt = load_prompt_source(source, self.manifest, task_index=task_index, name=name)
        check_fits(prompt, self.manifest)
        if prompt.num_virtual_tokens >= self.max_length:
            raise IncompatibleError(
                f"prompt {prompt.name!r} has {prompt.num_virtual_tokens} virtual tokens and the longest "
                f"sequence here is {self.max_length}: no room is left for a text."
            )
        runner = self._runner
        keys_and_values = _no_keys if isinstance(runner, GraphVision) else runner.keys_and_values
        rows, kv = rows_and_keys(prompt, self.manifest, keys_and_values, owned=owned)
        head = make_head(prompt, self.manifest, owned=owned)
        resident = share_tensors(prompt, rows, kv, head)
        loaded = LoadedPrompt(resident, rows, kv, (time.perf_counter() - started) * 1e3, self, head)
        kind = "prompt_kv" if rows is None else "prompt_embeds"
        if loaded.num_virtual_tokens and kind not in self._effective:
            if isinstance(runner, GraphVision):
                is_seen = check_image_effect(runner.probe, loaded, self.bundle)
            else:
                is_seen = check_effect(runner, loaded, self.manifest.vocab_size, self.bundle)
            if is_seen:
                self._effective.add(kind)
        return loaded

    def image_outputs(
        self, pixel_values: npt.NDArray[Any], prompts: Sequence[LoadedPrompt | None]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """What the graph gives, for pictures that are numbers already.

        Args:
            pixel_values: (pictures, 3, height, width), normalised.
            prompts: one a picture, with equally many layers of rows and equally many rows, all with a head
                or none, and with equal box layers; or all None.

        Returns:
            logits (pictures, 1 + P + N, classes), those of several heads side by side; boxes (pictures,
            1 + P + N, 4), centre x, centre y, width and height as shares of what pixel_values show;
            features (pictures, 1 + P + N, head_size). The first position is the picture's own, P are virtual
            tokens, N patches row by row.

        Raises:
            UsageError: the bundle is no image model's, or pictures or prompts do not go together.
        """
        vision = self._vision
        if vision is None:
            refuse("image_outputs", self.manifest.task)
        shape = (len(prompts), 3, vision.image.height, vision.image.width)
        if np.shape(pixel_values) != shape:
            raise UsageError(
                f"pixel_values has shape {np.shape(pixel_values)}, expected {shape}: a picture for each "
                "prompt, as the bundle's preprocessor makes it."
            )
        check_together(prompts)
        return vision.outputs(np.asarray(pixel_values), prompts)


def _no_keys(_: npt.NDArray[Any]) -> None:
    """A model of images keeps no keys and values: the rows are run with every picture."""
