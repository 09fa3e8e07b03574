"""The C library behind Python's calls: what `load(..., engine="c")` gives.

A bundle that is open is in c_bundle.py, its prompts in c_prompt.py; the calls are in c_writing.py, c_reading.py and,
of pictures, those of seeing.py over c_vision.py. What a request becomes is in c_request.py, the library itself in
c_library.py.
"""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from edgept.bundle import read_manifest
from edgept.manifest import Manifest
from edgept.prompt import Prompt
from edgept.runtime.c_bundle import CBundle
from edgept.runtime.c_prompt import CPrompt, load_prompt
from edgept.runtime.c_reading import CReadingModel
from edgept.runtime.c_request import lacks
from edgept.runtime.c_vision import CVision
from edgept.runtime.c_writing import CWritingModel
from edgept.runtime.options import LoadOptions
from edgept.runtime.seeing import SeeingModel

__all__ = ["CModel"]


class CModel(CWritingModel, CReadingModel, SeeingModel[CPrompt]):
    """A bundle in the C library, with the calls of `Model` that the library has.

    Results and errors are of the same classes as those of `Model`; latencies are the library's. What the
    library lacks (batches of texts, chat templates, beam search, truncation, several prompts in a
    request, spans of taggers and answers) raises UsageError. Texts need the bundle's tokenizer.bin;
    without it, requests are token ids, and the text of a generation is "". A text ends at a zero character,
    as all do in C; the token ids go on. A batch of pictures is run one after the other.

    Several threads may use one model at once: each request has a session to itself.

    Attributes:
        bundle: its folder.
        manifest: what was exported.
        max_length: longest sequence in tokens.
        load_ms: time that loading took.
    """

    def __init__(self, bundle: Path, options: LoadOptions) -> None:
        started = time.perf_counter()
        self.bundle = bundle
        self.manifest: Manifest = read_manifest(bundle)
        self._opened = CBundle(bundle, self.manifest, options)
        self.max_length = self._opened.max_length
        self._vision: CVision | None = None
        if self.manifest.image is not None:
            from edgept.pictures import Preprocessor  # Pillow: models of text do without

            preprocessor = Preprocessor.from_bundle(bundle)
            self._vision = CVision(self._opened, self.manifest, preprocessor)
        self.load_ms = (time.perf_counter() - started) * 1e3

    if not TYPE_CHECKING:  # which should know that these are missing

        def __getattr__(self, name: str) -> NoReturn:
            from edgept.runtime.model import Model

            if not name.startswith("_") and hasattr(Model, name):
                hint = " For the last position alone, call last_logits." if name == "logits" else ""
                lacks(f"model.{name}", hint)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def load_prompt(
        self,
        source: str | os.PathLike[str] | Prompt,
        *,
        name: str | None = None,
        task_index: int | None = None,
    ) -> CPrompt:
        """Make a prompt resident; arguments as `Model.load_prompt`.

        The library reads prompt files itself. Other sources are read here, and handed over as the prompt
        file that `edgept prompt pack` would write of them.

        Raises:
            UsageError: there is nothing to read, or the task index is missing.
            InvalidFileError: the file breaks its format's rules.
            IncompatibleError: the prompt was made for another model.
        """
        return load_prompt(
            self._opened.handle, self.manifest, self, source, name=name, task_index=task_index
        )
