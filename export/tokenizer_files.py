"""What a bundle keeps of the model's tokenizer: its files, and the table that the C library reads."""

from collections.abc import Callable
from pathlib import Path

from transformers import AutoTokenizer

from edgept.bundle import TABLE_NAME
from edgept.errors import ExportError
from edgept.export.source import ModelSource
from edgept.export.tokenizer_table import compile_tokenizer
from edgept.runtime.text import Tokenizer

__all__ = ["save_table", "save_tokenizer"]

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def save_tokenizer(source: ModelSource, folder: Path) -> None:
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


def save_table(folder: Path, progress: Callable[[str], object]) -> None:
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
