"""The model on the device: load a bundle, make prompts resident, generate."""

import math
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgept.bundle import Manifest, check_files, find_bundle, read_manifest
from edgept.errors import IncompatibleError, InvalidFileError, UsageError
from edgept.prompt import Prompt, check_fits
from edgept.prompt_source import load_prompt_source
from edgept.runtime.chat import ChatTemplate
from edgept.runtime.content import Content, Input, LoadedPrompt, compose
from edgept.runtime.decoder import Decoder
from edgept.runtime.generation import Generation, GenerationStream, Limits, generate_rows
from edgept.runtime.graph import Graph
from edgept.runtime.graph_guard import check_graph
from edgept.runtime.sampling import Sampling
from edgept.runtime.text import Tokenizer

__all__ = ["PERPLEXITY_WINDOW", "Model", "load"]

_DEFAULT_NEW_TOKENS = 256
PERPLEXITY_WINDOW = 512


def load(
    bundle: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    max_length: int | None = None,
    check_hashes: bool = True,
) -> "Model":
    """Load a bundle that `edgept export` made.

    Args:
        bundle: its folder; None takes $EDGEPT_BUNDLE, then ./bundle.
        threads: threads that compute one operator; None takes every core this process may use.
        providers: onnxruntime execution providers, best first; None takes the bundle's own.
        max_length: longest sequence in tokens, virtual and new ones included; None takes the
            model's. Memory is reserved per request for what it needs, not for this.
        check_hashes: compare every file with its SHA-256 in the manifest first (about a second
            for a gigabyte). Without it, the graph is still checked for what it may refer to.

    Raises:
        UsageError: there is no bundle there, or an argument is out of range.
        InvalidFileError: a file of the bundle is malformed.
        UntrustedError: a file is not the one that was exported.
        IncompatibleError: this runtime does not run bundles of this task.
        MissingDependencyError: onnxruntime is missing or too old.
    """
    return Model(
        find_bundle(bundle),
        threads=threads,
        providers=providers,
        max_length=max_length,
        check_hashes=check_hashes,
    )


class Model:
    """A frozen model whose task is chosen request by request, by the prompt in front of it.

    Several threads may use one model at once: a request keeps its state to itself, prompts never
    change after they are loaded, and onnxruntime's sessions are safe to run from many threads.

    Attributes:
        bundle: its folder.
        manifest: what was exported.
        tokenizer: None where the bundle has none; then requests are token ids.
        max_length: longest sequence in tokens.
        load_ms: time that loading took.
    """

    def __init__(
        self,
        bundle: Path,
        *,
        threads: int | None,
        providers: Sequence[str] | None,
        max_length: int | None,
        check_hashes: bool,
    ) -> None:
        started = time.perf_counter()
        self.bundle = bundle
        self.manifest: Manifest = read_manifest(bundle)
        manifest = self.manifest
        if manifest.task != "text-generation" or manifest.kv is None:
            raise IncompatibleError(
                f"{bundle} is a bundle for {manifest.task}; this version runs text-generation. Use the "
                "edgept version that exported it."
            )
        if "model.onnx" not in manifest.files:
            raise InvalidFileError(
                "manifest-malformed", f"{bundle} lists no model.onnx. Export the model again."
            )
        if check_hashes:
            check_files(bundle, manifest)
        check_graph(bundle / "model.onnx", manifest.files.keys())
        self.tokenizer = Tokenizer.from_bundle(bundle)
        self.max_length = manifest.max_positions if max_length is None else max_length
        if not 1 <= self.max_length <= manifest.max_positions:
            raise UsageError(
                f"max_length is {max_length}; {manifest.source} was made for sequences of 1 to "
                f"{manifest.max_positions} tokens."
            )
        self._graph = Graph(bundle / "model.onnx", manifest, threads=threads, providers=providers)
        self._decoder = Decoder(self._graph, manifest, self.max_length)
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
            IncompatibleError: the prompt was made for another model.
        """
        started = time.perf_counter()
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
        rows, kv = None, None
        if "prompt_embeds" in prompt.tensors:
            rows = np.array(prompt.tensors["prompt_embeds"], self._graph.float_type, order="C")
            if self.manifest.kv is not None and not self.manifest.kv.depends_on_length:
                kv = self._keys_and_values(rows)
        else:
            stored = prompt.tensors["prompt_kv"]  # (layers, 2, kv_heads, virtual tokens, head_dim)
            flat = stored.reshape(-1, *stored.shape[2:])
            kv = np.array(flat, self._graph.float_type, order="C")
        for array in (rows, kv):
            if array is not None:
                array.flags.writeable = False
        return LoadedPrompt(prompt, rows, kv, (time.perf_counter() - started) * 1e3, self)

    def generate(
        self,
        content: Content,
        *,
        prompt: LoadedPrompt | None = None,
        max_new_tokens: int = _DEFAULT_NEW_TOKENS,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        on_full: Literal["stop", "error"] = "stop",
        cancel: threading.Event | None = None,
    ) -> Generation:
        """Generate a continuation.

        Args:
            content: a text, a list of token ids, or a list of both with loaded prompts anywhere:
                `[spanish, "text", support, "more text"]`. What `chat` returns, too. Special tokens
                are added to the first text only, as peft's users do.
            prompt: put in front of the content; None is the plain model.
            max_new_tokens: at most this many.
            temperature: 0 is greedy; see `Sampling` for this and the next four.
            top_k: 0 is off.
            top_p: 1 is off.
            repetition_penalty: 1 is off.
            seed: of the sampling.
            stop: texts that end the generation, themselves left out.
            on_full: what to do when the longest sequence is reached: "stop" with finish_reason
                "full", or "error".
            cancel: another thread sets it to end at the next token.

        Raises:
            UsageError: an argument is out of range, or the request does not fit.
            EdgeptError: the sequence is full and on_full is "error", or onnxruntime failed.
        """
        stream = self.stream(
            content,
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop,
            on_full=on_full,
            cancel=cancel,
        )
        for _ in stream:
            pass
        if stream.result is None:
            raise AssertionError("a stream that has ended has a result")
        return stream.result

    def stream(
        self,
        content: Content,
        *,
        prompt: LoadedPrompt | None = None,
        max_new_tokens: int = _DEFAULT_NEW_TOKENS,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        on_full: Literal["stop", "error"] = "stop",
        cancel: threading.Event | None = None,
    ) -> GenerationStream:
        """Generate piece by piece: iterate for the text, then read `.result`. Arguments as `generate`."""
        started = time.perf_counter()
        sampling = Sampling(temperature, top_k, top_p, repetition_penalty, seed)
        limits = self._limits(max_new_tokens, stop, on_full, cancel)
        request = self._compose(content, prompt)
        tokenize_ms = (time.perf_counter() - started) * 1e3
        return GenerationStream(
            self._decoder,
            request,
            sampling,
            limits,
            self.tokenizer,
            load_ms=self.load_ms,
            tokenize_ms=tokenize_ms,
            started=started,
        )

    def generate_batch(
        self,
        requests: Iterable[tuple[Content, LoadedPrompt | None]],
        *,
        max_new_tokens: int = _DEFAULT_NEW_TOKENS,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        on_full: Literal["stop", "error"] = "stop",
        cancel: threading.Event | None = None,
    ) -> list[Generation]:
        """Generate for many requests together, each row under a prompt of its own.

        Args:
            requests: (content, prompt) pairs; contents as in `generate`, prompts may be None.
            max_new_tokens: of each row; this and the rest as in `generate`.
            temperature: 0 is greedy.
            top_k: 0 is off.
            top_p: 1 is off.
            repetition_penalty: 1 is off.
            seed: row i uses seed + i.
            stop: texts that end a row.
            on_full: "stop" or "error".
            cancel: ends every row.

        Returns:
            One generation a request, in their order, each with the tokens that it has alone.
        """
        started = time.perf_counter()
        limits = self._limits(max_new_tokens, stop, on_full, cancel)
        composed = [self._compose(content, prompt) for content, prompt in requests]
        if not composed:
            return []
        tokenize_ms = (time.perf_counter() - started) * 1e3
        sampling = [
            Sampling(
                temperature, top_k, top_p, repetition_penalty, None if seed is None else seed + row
            )
            for row in range(len(composed))
        ]
        return generate_rows(
            self._decoder,
            composed,
            sampling,
            limits,
            self.tokenizer,
            load_ms=self.load_ms,
            tokenize_ms=tokenize_ms,
            started=started,
        )

    def logits(
        self, content: Content, *, prompt: LoadedPrompt | None = None
    ) -> npt.NDArray[np.float32]:
        """Logits at every position of the content: row i predicts what follows its i-th token.

        Returns:
            (tokens, vocabulary) float32; a leading prompt has no rows of its own, since it is not run.
        """
        request = self._compose(content, prompt)
        cache = self._decoder.open(request, request.length)
        logits = self._decoder.prefill(cache, request, all_positions=True)
        self._decoder.close(cache)
        row: npt.NDArray[np.float32] = logits[0]
        return row

    def perplexity(self, text: str, *, prompt: LoadedPrompt | None = None) -> float:
        """Perplexity of a text, in windows of at most 512 tokens, each with its first token given.

        Raises:
            UsageError: the text has fewer than two tokens, or the bundle has no tokenizer.
        """
        ids = self._compose(text, None).ids
        room = self.max_length - (prompt.num_virtual_tokens if prompt else 0)
        window = min(room, PERPLEXITY_WINDOW)
        losses: list[npt.NDArray[np.float64]] = []
        for begin in range(0, len(ids) - 1, window):
            chunk = ids[begin : begin + window]
            if len(chunk) < 2:
                break
            logits = self.logits(chunk.tolist(), prompt=prompt)[:-1].astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            chosen = logits[np.arange(len(chunk) - 1), chunk[1:]]
            losses.append(np.log(np.exp(logits).sum(axis=1)) - chosen)
        if not losses:
            raise UsageError("perplexity needs a text of at least two tokens; give a longer one.")
        return math.exp(float(np.concatenate(losses).mean()))

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> Content:
        """Render messages with the bundle's chat template; pass the result to `generate`.

        Args:
            messages: `{"role": …, "content": …}`; a content may be a list that holds loaded
                prompts among its texts, and they stand exactly there.
            tools: what the template offers the model to call.
            add_generation_prompt: end where the assistant's turn begins.
            **variables: that the template knows, `enable_thinking=False`.

        Raises:
            UsageError: the bundle has no chat template, or the template refuses the messages.
            UntrustedError: the template tries to leave its sandbox.
        """
        if self.tokenizer is None:
            raise UsageError("chat needs a tokenizer, and this bundle has none.")
        rendered = self._chat_template.render_parts(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, **variables
        )
        tokenizer = self.tokenizer
        parts: list[list[int] | LoadedPrompt] = []
        for part in rendered:
            if isinstance(part, str):
                parts.append(tokenizer.encode(part, special_tokens=False))
            elif isinstance(part, LoadedPrompt):
                parts.append(part)
            else:
                raise UsageError(
                    f"a message's content holds {type(part).__name__}; expected texts and loaded "
                    "prompts (from model.load_prompt)."
                )
        return parts

    @cached_property
    def _chat_template(self) -> ChatTemplate:
        return ChatTemplate.from_bundle(self.bundle)

    def _compose(self, content: Content, prompt: LoadedPrompt | None) -> Input:
        return compose(
            content,
            prompt,
            tokenizer=self.tokenizer,
            vocab_size=self.manifest.vocab_size,
            model=self,
        )

    def _limits(
        self,
        max_new_tokens: int,
        stop: str | Sequence[str],
        on_full: Literal["stop", "error"],
        cancel: threading.Event | None,
    ) -> Limits:
        stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
        eos = frozenset(self.manifest.eos_token_ids)
        return Limits(max_new_tokens, stops, eos, on_full, cancel)

    def _keys_and_values(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run a prompt's rows once; (2 · layers, kv_heads, num_virtual_tokens, head_dim)."""
        first = self.manifest.vocab_size
        request = Input(None, np.arange(first, first + len(rows)), rows, len(rows))
        cache = self._decoder.open(request, len(rows))
        self._decoder.prefill(cache, request)
        kv = np.array(cache.held(0), order="C")
        self._decoder.close(cache)
        return kv
