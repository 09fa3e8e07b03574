"""From what a request says to what the graph is fed: token ids, virtual ids and a prompt table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgept.errors import UsageError
from edgept.prompt import Prompt
from edgept.runtime.encoding import EncodedText
from edgept.runtime.text import Tokenizer

__all__ = [
    "Content",
    "Head",
    "Input",
    "LoadedPrompt",
    "check_length",
    "check_prompt",
    "check_tokenizer",
    "compose",
    "encode_parts",
]


@dataclass(frozen=True, eq=False)
class Head:
    """A task's head, resident.

    Attributes:
        tensors: what the graph takes, in its float type: head.weight (classes, head_size) and
            head.bias (classes,), zeros where the head has none; of some models also
            head.dense.weight (head_size, head_size) and head.dense.bias (head_size,); of detectors
            box.weight (4, head_size) and box.bias (4,).
        labels: one name a class.
        digest: of the tensors; rows whose heads have the same one are run together.
    """

    tensors: Mapping[str, npt.NDArray[Any]]
    labels: tuple[str, ...]
    digest: bytes

    @property
    def weight(self) -> npt.NDArray[Any]:
        """(classes, head_size)."""
        return self.tensors["head.weight"]

    @property
    def bias(self) -> npt.NDArray[Any]:
        """(classes,)."""
        return self.tensors["head.bias"]


@dataclass(frozen=True, eq=False)
class LoadedPrompt:
    """A prompt that is resident on one model, ready to be swapped in.

    Attributes:
        prompt: as read from its file, its tensors in the graph's float type and shared with the
            arrays below.
        rows: (num_virtual_tokens, hidden) in the graph's float type, of image models (layers or 1,
            num_virtual_tokens, hidden); None for a prompt that is keys and values only (prefix tuning),
            or a head alone.
        kv: (2 · layers, kv_heads, num_virtual_tokens, head_dim), key and value of each layer in
            turn: computed once from the rows, or the prompt itself; None where the model's keys depend
            on the length of the text, or where it has none (encoders), so that the rows are run with
            every request.
        load_ms: time from file to here.
        model: the model that it is resident on.
        head: the task's own head; None without one.
    """

    prompt: Prompt
    rows: npt.NDArray[Any] | None
    kv: npt.NDArray[Any] | None
    load_ms: float
    model: object
    head: Head | None = None

    @property
    def name(self) -> str:
        """The task's name."""
        return self.prompt.name

    @property
    def task(self) -> str:
        """What it is for."""
        return self.prompt.task

    @property
    def num_virtual_tokens(self) -> int:
        """Positions that the prompt takes."""
        return self.prompt.num_virtual_tokens

    @property
    def nbytes(self) -> int:
        """Memory that being resident costs: its rows, its keys and values and its head, in bytes."""
        head = () if self.head is None else self.head.tensors.values()
        return sum(array.nbytes for array in (self.rows, self.kv, *head) if array is not None)


Part: TypeAlias = str | LoadedPrompt | Sequence[int]
"""A piece of a request: text, a prompt, or token ids."""

# One Sequence, not a choice of two: type checkers then accept a list as it is written in a call.
Content: TypeAlias = str | Sequence[int | Part]
"""A request: one text, token ids, or pieces of both with prompts anywhere among them.

Where a model reads and does not write, a tuple of two texts is a pair: `("premise", "hypothesis")`.
"""


@dataclass(frozen=True)
class Input:
    """A request as the graph takes it.

    Attributes:
        prompts: all that stand in the request, in order.
        prefix: the prompt that the sequence begins with; its keys and values are copied, not run.
        ids: (tokens,) int64: token ids, and ids from vocab_size on for rows of the table.
        table: (rows, hidden), the rows of the other prompts one after the other; None without any.
        virtual_tokens: of all prompts.
        type_ids: (tokens,) int64, the token types of the text and 0 for virtual tokens; None is all 0.
        text: the one text or pair that the ids are of; None where they are of several, or came as ids.
        front: the prompt that the request begins with, where its rows are run; None without one.
    """

    prompts: tuple[LoadedPrompt, ...]
    prefix: LoadedPrompt | None
    ids: npt.NDArray[np.int64]
    table: npt.NDArray[Any] | None
    virtual_tokens: int
    type_ids: npt.NDArray[np.int64] | None = None
    text: EncodedText | None = None
    front: LoadedPrompt | None = None

    @property
    def length(self) -> int:
        """Positions that the input takes, the prefix included."""
        return len(self.ids) + (self.prefix.num_virtual_tokens if self.prefix else 0)

    @property
    def text_tokens(self) -> int:
        """Positions that are not a prompt's."""
        return self.length - self.virtual_tokens


def check_length(request: Input, max_length: int, *, remedy: str = "Shorten the text") -> None:
    """Refuse a request that takes more positions than the longest sequence has.

    Args:
        request: composed.
        max_length: positions of the longest sequence.
        remedy: what to do with the text.

    Raises:
        UsageError: it does not fit.
    """
    if request.length > max_length:
        raise UsageError(
            f"the request takes {request.length} positions ({request.virtual_tokens} of them "
            f"virtual tokens), the longest sequence here is {max_length}. {remedy}, or "
            "load the bundle with a larger max_length if its model allows one."
        )


def compose(
    content: Content | EncodedText,
    prompt: LoadedPrompt | None,
    *,
    tokenizer: Tokenizer | None,
    vocab_size: int,
    model: object,
) -> Input:
    """Lay out a request as peft does: the prompt first, then the text with its special tokens.

    Args:
        content: the request; or its one text, encoded.
        prompt: the prompt in front of it, if any.
        tokenizer: of the bundle; None allows token ids only.
        vocab_size: first virtual id.
        model: that the prompts must be resident on.

    Raises:
        UsageError: the request is empty, a prompt belongs to another model or stands where it
            cannot, an id is not in the vocabulary, or there is no tokenizer for a text.
    """
    parts: list[Part | EncodedText] = []
    parts += [content] if isinstance(content, EncodedText) else _parts(content)
    if prompt is not None:
        check_prompt(prompt, model)
        parts.insert(0, prompt)
    ids: list[int] = []
    rows: list[npt.NDArray[Any]] = []
    prompts: list[LoadedPrompt] = []
    prefix: LoadedPrompt | None = None
    front: LoadedPrompt | None = None
    next_virtual, virtual_tokens, seen_text = vocab_size, 0, False
    takes_room = [
        part for part in parts if not isinstance(part, LoadedPrompt) or part.num_virtual_tokens
    ]
    for part in parts:
        if isinstance(part, LoadedPrompt):
            check_prompt(part, model)
            prompts.append(part)
            if not part.num_virtual_tokens:
                continue  # a head alone takes no position
            virtual_tokens += part.num_virtual_tokens
            # With nothing behind it there is no token to run, so its rows are run instead.
            runs_alone = len(takes_room) == 1
            if prefix is None and not ids and part.kv is not None and not runs_alone:
                prefix = part
            elif part.rows is None:
                raise UsageError(
                    f"prompt {part.name!r} ({part.prompt.method}) is keys and values, which can only "
                    "stand at the very start with a text behind it. Put it first, and give a text."
                )
            else:
                front = part if not ids and prefix is None else front
                ids.extend(range(next_virtual, next_virtual + len(part.rows)))
                next_virtual += len(part.rows)
                rows.append(part.rows)
        elif isinstance(part, EncodedText):
            ids.extend(part.ids)
        elif isinstance(part, str):
            needed = check_tokenizer(tokenizer)
            ids.extend(needed.encode(part, special_tokens=not seen_text))
            seen_text = True
        else:
            ids.extend(_checked_ids(part, vocab_size))
            seen_text = True
    if not ids:
        raise UsageError("the request is empty: give a text, or token ids, or a prompt of rows.")
    type_ids = None
    if isinstance(content, EncodedText):  # at the end, behind what stands in front of it
        type_ids = np.zeros(len(ids), np.int64)
        type_ids[len(ids) - len(content) :] = content.type_ids
    return Input(
        prompts=tuple(prompts),
        prefix=prefix,
        ids=np.asarray(ids, np.int64),
        table=np.concatenate(rows) if rows else None,
        virtual_tokens=virtual_tokens,
        type_ids=type_ids,
        text=content if isinstance(content, EncodedText) else None,
        front=front,
    )


def check_prompt(prompt: Any, model: object, kind: type[Any] = LoadedPrompt) -> None:
    """Refuse what is no prompt that was loaded on this model.

    Args:
        prompt: anything.
        model: that it must be resident on.
        kind: of prompts that the model's engine loads.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(prompt, kind):
        raise UsageError(
            f"prompt is a {type(prompt).__name__}, expected a loaded prompt. Load it first: "
            "model.load_prompt(...)."
        )
    if prompt.model is not model:
        raise UsageError(
            f"prompt {prompt.name!r} was loaded on another model. Load its file on this one: "
            "model.load_prompt(...)."
        )


def check_tokenizer(tokenizer: Tokenizer | None) -> Tokenizer:
    """A bundle's tokenizer, where a text needs it.

    Raises:
        UsageError: there is none.
    """
    if tokenizer is None:
        raise UsageError(
            "this bundle has no tokenizer.json, so it takes token ids only. Pass a list of "
            "ints, or export a model folder that holds its tokenizer."
        )
    return tokenizer


def encode_parts(rendered: Sequence[object], tokenizer: Tokenizer) -> Content:
    """What a chat template rendered, texts and prompts, as a request; its special tokens are in it.

    Raises:
        UsageError: a part is neither.
    """
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


def _parts(content: Content) -> list[Part]:
    if isinstance(content, str):
        return [content]
    if isinstance(content, (bytes, bytearray)) or not isinstance(content, (Sequence, np.ndarray)):
        raise UsageError(
            f"a request is a text, a list of token ids, or a list of texts, prompts and lists of ids; "
            f"found a {type(content).__name__}. Put it in a list, or decode it."
        )
    if isinstance(content, np.ndarray) and content.ndim != 1:
        raise UsageError(
            f"token ids have shape {content.shape}, expected one row. Pass batch[0], or all rows to "
            "generate_batch."
        )
    if {*map(type, content)} == {int}:  # the usual case, a tenth of the time of the loop
        return [[*content]]  # type: ignore[list-item]  # its items are ints
    ids: list[int] = []
    items: list[Part] = []
    for item in content:
        if isinstance(item, (int, np.integer)):
            ids.append(int(item))
        else:
            items.append(item)
    if ids and items:
        raise UsageError(
            "a request is one text, a list of token ids, or a list of texts, prompts and lists of "
            "ids; here ids stand between the others. Put them in a list of their own."
        )
    return [ids] if ids else items


def _checked_ids(part: Sequence[int], vocab_size: int) -> list[int]:
    if not isinstance(part, (Sequence, np.ndarray)) or not all(
        issubclass(kind, (int, np.integer)) for kind in {*map(type, part)}
    ):
        raise UsageError(
            f"a request holds {str(part)[:60]!r} ({type(part).__name__}); expected texts, loaded prompts "
            "(from model.load_prompt) and flat lists of whole token ids. One row of a batch is a request: "
            "pass batch[0], or all rows to generate_batch."
        )
    ids = [*map(int, part)]
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        wrong = next(item for item in ids if not 0 <= item < vocab_size)
        raise UsageError(
            f"token id {wrong} is not in the vocabulary (0 to {vocab_size - 1}). Put a prompt in "
            "the request to use virtual tokens."
        )
    return ids
