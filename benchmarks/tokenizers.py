"""The C library's tokenizer against Hugging Face's: the same ids, the same text, and how fast.

    python -m benchmarks.tokenizers [--lines 100000] [--kind NAME]... [--folder FOLDER]... [--combined N]

Every kind of tokenizer_kinds.py, trained on some of the lines, and the demo's tokenizer; or the kinds,
the folders' tokenizers and the N tokenizers of random parts that are asked for. Each line is encoded and decoded by both; a part of them also as a pair
and token by token. Ends with 1 where one differs. Needs a C compiler and the extra `export`.
"""

import argparse
import ctypes
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from benchmarks.c_tokenizer import CTokenizer, build
from benchmarks.tokenizer_kinds import KINDS, combined, train
from benchmarks.tokenizer_texts import PHRASES, lines, real_lines
from edgept.errors import ExportError
from edgept.export.tokenizer_table import compile_tokenizer
from edgept.runtime.text import Tokenizer

__all__ = ["Comparison", "compare", "drawn", "special_texts", "trained"]

_ROOT = Path(__file__).parents[1]
_DATA = _ROOT.parent / "shared" / "data"


@dataclass
class Comparison:
    """What was found.

    Attributes:
        lines: how many were encoded and decoded.
        texts: further comparisons: pairs, streams, ids in any order.
        differences: what differed, one sentence each.
        tokens: of all lines.
        c_s, reference_s: seconds that encoding all lines took.
        bytes: of UTF-8 encoded.
    """

    lines: int = 0
    texts: int = 0
    differences: list[str] = field(default_factory=list)
    tokens: int = 0
    c_s: float = 0.0
    reference_s: float = 0.0
    bytes: int = 0

    def check(self, what: str, given: object, found: object, expected: object) -> None:
        """Note a difference."""
        if found != expected:
            self.differences.append(f"{what} of {given!r}: C {found!r}, expected {expected!r}")


def trained(kind: str, texts: list[str], config: dict[str, Any] | None = None) -> Tokenizer:
    """A trained tokenizer as a bundle's."""
    backend = Backend.from_str(train(kind, texts).to_str())  # as if read from a file
    return Tokenizer(backend, config or {})


def drawn(seed: int, texts: list[str]) -> Tokenizer:
    """A tokenizer of random parts as a bundle's."""
    return Tokenizer(Backend.from_str(combined(seed, texts).to_str()), {})


def compare(c: CTokenizer, reference: Tokenizer, texts: Iterable[str], seed: int = 0) -> Comparison:
    """Encode and decode lines with both."""
    result = Comparison()
    source = random.Random(seed)
    backend: Any = reference.backend
    before = ""
    pairs = backend.num_special_tokens_to_add(is_pair=True) > (
        backend.num_special_tokens_to_add(is_pair=False)
    )
    for text in texts:
        special = result.lines % 2 == 0
        begin = time.perf_counter()
        expected = backend.encode(text, add_special_tokens=special).ids
        middle = time.perf_counter()
        found = c.encode(text, special_tokens=special)
        result.c_s += time.perf_counter() - middle
        result.reference_s += middle - begin
        result.check("ids", text, found, expected)
        result.lines += 1
        result.tokens += len(expected)
        result.bytes += len(text.encode())
        for skip in (False, True):
            text_of = reference.decode(expected, skip_special_tokens=skip)
            result.check("text", expected, c.decode(expected, skip=skip), text_of)
        if result.lines % 8 == 0:
            _compare_more(c, reference, expected, source, result)
            if pairs:
                encoding = reference.encode_text(before, text, special_tokens=special)
                pair = c.encode_pair(before, text, special_tokens=special)
                result.check("pair", (before, text), pair, (encoding.ids, encoding.type_ids))
        before = text
    return result


def _compare_more(
    c: CTokenizer,
    reference: Tokenizer,
    ids: list[int],
    source: random.Random,
    result: Comparison,
) -> None:
    """Ids in any order, as a model that has lost its way gives them; token by token, too."""
    size = reference.vocab_size
    wild = [source.randrange(size + 2) for _ in range(source.randrange(40))]
    mixed = [t if source.random() < 0.7 else source.randrange(size) for t in ids]
    for tokens in (ids, wild, mixed):
        skip = source.random() < 0.5
        result.texts += 1
        text = reference.decode(tokens, skip_special_tokens=skip)
        result.check("text", tokens, c.decode(tokens, skip=skip), text)
        expected = list(_pieces(reference.stream(skip), tokens))
        with c.stream(skip=skip) as stream:
            found = list(_pieces(stream, tokens))
        result.check("pieces", tokens, found, expected)


def _pieces(stream: Any, tokens: list[int]) -> Iterator[str]:
    yield from (stream.push(token) for token in tokens)
    yield stream.finish()


def special_texts(reference: Tokenizer) -> list[str]:
    """Contents of a tokenizer's added tokens."""
    backend: Any = reference.backend
    return [token.content for token in backend.get_added_tokens_decoder().values()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--kind", action="append", default=[])
    parser.add_argument("--folder", action="append", default=[], type=Path)
    parser.add_argument("--combined", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    real = [*real_lines(_DATA), *real_lines(_ROOT / "edgept" / "demo" / "texts")]
    training = [*PHRASES * 20, *random.Random(1).sample(real, min(4000, len(real)))]
    with tempfile.TemporaryDirectory() as folder:
        library = ctypes.CDLL(str(build(Path(folder))))
    rows = []
    for name, reference in _references(arguments, training):
        try:
            table = compile_tokenizer(reference)
        except ExportError as error:
            if not name.startswith("combined-"):
                raise
            sys.stderr.write(f"{name}: refused, {error}\n")
            continue
        c = CTokenizer(library, table)
        texts = lines(arguments.lines, 2, real, special_texts(reference))
        result = compare(c, reference, texts)
        c.close()
        rows.append((name, table, result))
        for difference in result.differences[:5]:
            sys.stderr.write(f"{name}: {difference}\n")
        if not arguments.json:
            print(
                f"{name:16} {result.lines} lines, {result.texts} more, {len(result.differences)} "
                f"differences; {result.bytes / result.c_s / 1e6:.1f} MB/s, tokenizers "
                f"{result.bytes / result.reference_s / 1e6:.1f} MB/s; table {len(table) / 1e6:.2f} MB",
                flush=True,
            )
    if arguments.json:
        print(
            json.dumps(
                {
                    name: {
                        "lines": result.lines,
                        "differences": len(result.differences),
                        "c_mb_per_s": result.bytes / result.c_s / 1e6,
                        "tokenizers_mb_per_s": result.bytes / result.reference_s / 1e6,
                        "table_bytes": len(table),
                    }
                    for name, table, result in rows
                }
            )
        )
    return int(any(result.differences for _, _, result in rows))


def _references(
    arguments: argparse.Namespace, training: list[str]
) -> Iterator[tuple[str, Tokenizer]]:
    """Tokenizers by name."""
    kinds, folders, combinations = arguments.kind, arguments.folder, arguments.combined
    if not (kinds or folders or combinations):
        kinds, folders = list(KINDS), [_ROOT / "edgept" / "demo" / "model", _DATA / "stories260K"]
    for kind in kinds:
        yield kind, trained(kind, training)
    for folder in folders:
        tokenizer = Tokenizer.from_bundle(folder)
        if tokenizer is not None:
            yield folder.name, tokenizer
    for seed in range(combinations):
        yield f"combined-{seed}", drawn(seed, training[:200])


if __name__ == "__main__":
    sys.exit(main())
