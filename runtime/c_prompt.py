"""Prompts in the C library: prompt files as it reads them, everything else handed over as such a file."""

import os
import time
from ctypes import byref, c_void_p
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from edgept.errors import EdgeptError, InvalidFileError
from edgept.formats.regular_file import open_regular
from edgept.formats.safetensors_strict import METADATA_KEY, read_header
from edgept.manifest import Manifest
from edgept.prompt import Prompt
from edgept.prompt_file import FORMAT, MAX_BYTES, MIN_BYTES, format_prompt
from edgept.prompt_source import bind, load_prompt_source
from edgept.runtime.c_library import CHandle, call, to_path
from edgept.runtime.content import check_prompt

if TYPE_CHECKING:
    from edgept.runtime.c_engine import CModel

__all__ = ["CPrompt", "load_prompt", "to_pointer"]


@dataclass(frozen=True, eq=False)
class CPrompt:
    """A prompt that is resident in the C library on one model, ready to be swapped in.

    Attributes:
        name: the task's name.
        num_virtual_tokens: positions that the prompt takes.
        task: what it is for.
        nbytes: memory that being resident costs, in bytes.
        load_ms: time from file to here.
        model: the model that it is resident on.
    """

    name: str
    task: str
    num_virtual_tokens: int
    nbytes: int
    load_ms: float
    model: "CModel"
    _handle: CHandle = field(repr=False)
    _bundle: CHandle = field(repr=False)

    @property
    def pointer(self) -> c_void_p:
        """To the library's own."""
        return self._handle.pointer

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes of its head, or of the model's own; empty without one."""
        name = self._handle.library.edgept_bundle_label
        names = (name(self._bundle.pointer, self.pointer, index) for index in count())
        return tuple(label.decode() for label in takewhile(lambda label: label is not None, names))


def load_prompt(
    bundle: CHandle,
    manifest: Manifest,
    model: "CModel",
    source: str | os.PathLike[str] | Prompt,
    *,
    name: str | None,
    task_index: int | None,
) -> CPrompt:
    """Make a prompt resident in the library.

    Args:
        bundle: open in the library.
        manifest: of the bundle.
        model: that the prompt is for.
        source: as in `Model.load_prompt`, like the next two.
        name: what to call the task.
        task_index: the task of a multitask prompt.

    Raises:
        EdgeptError: as `Model.load_prompt`.
    """
    started = time.perf_counter()
    library, resident = bundle.library, c_void_p()
    prompt: Prompt | None = None
    if isinstance(source, Prompt):
        prompt = source
    elif task_index is not None or Path(source).suffix.lower() != ".safetensors":
        prompt = load_prompt_source(source, manifest, task_index=task_index)
    else:
        try:
            call(library, "prompt_load", bundle.pointer, to_path(source), byref(resident))
        except InvalidFileError:
            if not _is_other_kind(source):
                raise
            prompt = load_prompt_source(source, manifest)
    if prompt is not None:
        if prompt.fingerprint is None:
            prompt = bind(prompt, manifest)
        _make_resident(bundle, format_prompt(prompt), resident)
    handle = CHandle(library, "prompt", resident, bundle)
    return CPrompt(
        name=library.edgept_prompt_name(resident).decode() if name is None else name,
        task=library.edgept_prompt_task(resident).decode(),
        num_virtual_tokens=int(library.edgept_prompt_virtual_tokens(resident)),
        nbytes=int(library.edgept_prompt_bytes(resident)),
        load_ms=(time.perf_counter() - started) * 1e3,
        model=model,
        _handle=handle,
        _bundle=bundle,
    )


def to_pointer(prompt: CPrompt | None, model: object) -> c_void_p | None:
    """A request's prompt as C takes it; None is the plain model.

    Raises:
        UsageError: it is none that this model loaded.
    """
    if prompt is None:
        return None
    check_prompt(prompt, model, CPrompt)
    return prompt.pointer


def _is_other_kind(path: str | os.PathLike[str]) -> bool:
    """Whether a .safetensors file is well-formed and no prompt file: peft's, or bare tensors."""
    try:
        with open_regular(path, min_bytes=MIN_BYTES, max_bytes=MAX_BYTES) as (stream, size):
            metadata = read_header(stream, size).fields.get(METADATA_KEY)
    except EdgeptError:
        return False
    return not isinstance(metadata, dict) or metadata.get("format") != FORMAT


def _make_resident(bundle: CHandle, data: bytes, resident: c_void_p) -> None:
    """Bind a prompt file's bytes."""
    file = c_void_p()
    call(bundle.library, "prompt_file_parse", data, len(data), 0, byref(file))
    try:
        call(bundle.library, "prompt_bind", bundle.pointer, file, byref(resident))
    finally:
        bundle.library.edgept_prompt_file_free(file)
