"""A bundle of a tiny encoder with a tokenizer of BERT's kind, and heads to run it with."""

import functools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import edgept
from edgept import Prompt
from edgept.bundle import (
    HASHES_NAME,
    MANIFEST_NAME,
    TABLE_NAME,
    hash_file,
    read_manifest,
    to_hashes,
)
from edgept.manifest import BundleFile
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.text import Tokenizer
from tests.conftest import VOCABULARY

TEXTS = [
    "Anna Schmidt moved from Berlin to New York in May.",
    "the parcel of Mr. O'Neill (from Zürich) isn't here",
    "Q",
    "where is my parcel and when will it come, asked Peter Pan-Tau of Acme Inc.?",
    "Weihnachtsgans 😀 1234567 unbelievable",
]
PIECES = [
    "where",
    "is",
    "my",
    "par",
    "##cel",
    "ann",
    "ber",
    "##lin",
    "new",
    "york",
    "pet",
    "##er",
    "##mi",
]


def word_pieces() -> Any:
    """A WordPiece tokenizer of the tiny vocabulary, with BERT's template for pairs."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted({letter for text in TEXTS[:4] for letter in text.lower() if letter.strip()})
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters), *PIECES]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer: Any = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    wrapper: Any = PreTrainedTokenizerFast
    names = {f"{token[1:-1].lower()}_token": token for token in special}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    made = wrapper(
        tokenizer_object=tokenizer, model_max_length=256, model_input_names=inputs, **names
    )
    assert len(made) <= VOCABULARY
    return made


def with_tokenizer(bundle: Path, tokenizer: Any, folder: Path) -> Path:
    """A bundle with another tokenizer in it, its table too, and its hashes."""
    from edgept.export.tokenizer_table import compile_tokenizer

    shutil.copytree(bundle, folder)
    tokenizer.save_pretrained(folder)
    manifest = read_manifest(folder)
    names = ("tokenizer.json", "tokenizer_config.json", TABLE_NAME)
    backend = Tokenizer.from_bundle(folder)
    assert backend is not None
    (folder / TABLE_NAME).write_bytes(compile_tokenizer(backend))
    for name in {path.name for path in folder.iterdir()} - {*manifest.files, MANIFEST_NAME, *names}:
        (folder / name).unlink()
    files = dict(manifest.files)
    for name in names:
        path = folder / name
        files[name] = BundleFile(path.stat().st_size, hash_file(path))
    manifest = replace(manifest, files=files)
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    (folder / HASHES_NAME).write_text(to_hashes(manifest))
    return folder


@functools.cache
def fine_tuned(folder: Path, auto: str, *labels: str) -> Any:
    """The frozen model with a random head of these classes; callers leave it as it is."""
    import torch
    import transformers

    torch.manual_seed(5)
    model = getattr(transformers, auto).from_pretrained(
        folder, id2label=dict(enumerate(labels)), dtype=torch.float32
    )
    with torch.no_grad():
        for name in ("classifier", "qa_outputs"):
            if hasattr(model, name):
                getattr(model, name).weight.normal_(std=0.3)
    return model.eval()


def own_head(
    model: edgept.Model, reference: Any, rows: Any = None, name: str = "p"
) -> LoadedPrompt:
    """The reference's head as a prompt of the bundle, with virtual tokens in front or without."""
    head = reference.qa_outputs if hasattr(reference, "qa_outputs") else reference.classifier
    tensors = {
        "head.weight": head.weight.detach().numpy(),
        "head.bias": head.bias.detach().numpy(),
    }
    if rows is not None:
        tensors["prompt_embeds"] = rows
    task = model.manifest.task
    labels = () if task == "question-answering" else tuple(reference.config.id2label.values())
    return model.load_prompt(Prompt(tensors, name, task=task, labels=labels))
