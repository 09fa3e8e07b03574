"""What is asked of an image model, and which pictures are run together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy.typing as npt

from edgept.errors import UsageError
from edgept.runtime.content import Head, LoadedPrompt

if TYPE_CHECKING:
    from edgept.pictures import Picture

__all__ = [
    "CLASSIFIES",
    "DETECTS",
    "EMBEDS",
    "SEGMENTS",
    "PromptT",
    "Resident",
    "Sight",
    "check_together",
    "head_of",
    "pieces",
    "table_of",
]

CLASSIFIES, SEGMENTS, DETECTS = "image-classification", "image-segmentation", "object-detection"
EMBEDS = "image-feature-extraction"
# Bounds of a run, so that the memory of a long batch has one: pictures, and their logits. A picture whose
# head has more is run alone.
_MAX_ROWS = 16
_MAX_LOGITS = 1 << 25


class Resident(Protocol):
    """A prompt that is resident on a model, in whichever engine."""

    @property
    def name(self) -> str:
        """The task's name."""

    @property
    def task(self) -> str:
        """What it is for."""

    @property
    def num_virtual_tokens(self) -> int:
        """Positions that the prompt takes."""

    @property
    def load_ms(self) -> float:
        """Time from file to being resident."""


PromptT = TypeVar("PromptT", bound=Resident)


@dataclass(frozen=True, eq=False)
class Sight(Generic[PromptT]):
    """What is asked: a picture, the prompt that it is seen under, and for which task."""

    picture: "Picture"
    prompt: PromptT | None
    task: str


def head_of(sight: Sight[LoadedPrompt]) -> Head | None:
    """The prompt's own, where the task needs one."""
    return None if sight.prompt is None or sight.task == EMBEDS else sight.prompt.head


def table_of(sight: Sight[LoadedPrompt]) -> npt.NDArray[Any] | None:
    """(layers or 1, virtual tokens, hidden); None without virtual tokens."""
    return None if sight.prompt is None else sight.prompt.rows


def pieces(
    sights: Sequence[Sight[LoadedPrompt]], positions: int, own_classes: int
) -> Iterator[list[int]]:
    """Indices of pictures that are run together.

    Args:
        sights: what is asked.
        positions: of each picture, virtual tokens left out.
        own_classes: of the model's own head.
    """
    groups: dict[tuple[object, ...], dict[bytes, list[int]]] = {}
    for index, sight in enumerate(sights):
        # the graph computes one kind of boxes a run; who needs none goes with any
        boxes = _boxes(head_of(sight)) if sight.task == DETECTS else b""
        key = _shape(table_of(sight)), head_of(sight) is None
        groups.setdefault(key, {}).setdefault(boxes, []).append(index)
    for by_boxes in groups.values():
        plain = by_boxes.pop(b"", [])
        for position, group in enumerate([*by_boxes.values()] or [[]]):
            together = sorted(plain + group) if position == 0 else group
            yield from _bounded(together, sights, positions, own_classes)


def _bounded(
    together: Sequence[int],
    sights: Sequence[Sight[LoadedPrompt]],
    positions: int,
    own_classes: int,
) -> Iterator[list[int]]:
    """What can be run together in parts, in order."""
    piece: list[int] = []
    classes: dict[bytes, int] = {}  # of each head in the piece: they stand side by side
    for index in together:
        head, shape = head_of(sights[index]), _shape(table_of(sights[index]))
        own = {b"": own_classes} if head is None else {head.digest: len(head.weight)}
        tokens = positions + (shape[1] if shape else 0)
        logits = (len(piece) + 1) * tokens * sum((classes | own).values())
        if piece and (len(piece) == _MAX_ROWS or logits > _MAX_LOGITS):
            yield piece
            piece, classes = [], {}
        piece.append(index)
        classes |= own
    if piece:
        yield piece


def check_together(prompts: Sequence[LoadedPrompt | None]) -> None:
    """See that one run gives each of these prompts' own outputs, but for the columns of other heads.

    Raises:
        UsageError: their shapes differ, some lack a head, or their box layers differ.
    """
    heads = [None if prompt is None else prompt.head for prompt in prompts]
    shapes = {None if prompt is None else _shape(prompt.rows) for prompt in prompts}
    if len(shapes) > 1:
        found = f"prompts with {' and '.join(map(str, sorted(shapes, key=str)))} (layers, virtual tokens)"
    elif len({head is None for head in heads}) > 1:
        found = "prompts with a head and those that leave the model its own"
    elif len({_boxes(head) for head in heads}) > 1:
        found = "prompts with different box layers, or with one and without,"
    else:
        return
    raise UsageError(f"{found} cannot be run together. Run them one after the other.")


def _shape(table: npt.NDArray[Any] | None) -> tuple[int, ...] | None:
    """Layers and virtual tokens."""
    return None if table is None else table.shape[:2]


def _boxes(head: Head | None) -> bytes:
    """What tells one box layer from another; empty without one."""
    if head is None or "box.weight" not in head.tensors:
        return b""
    return b"".join(head.tensors[name].tobytes() for name in ("box.weight", "box.bias"))
