"""A text, or a pair of texts, as tokens that know where they came from; cut to fit, or in windows."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from edgept.errors import UsageError

__all__ = ["EncodedText"]


class EncodedText:
    """Tokens of one text or of a pair, the special tokens around them included; it never changes.

    Attributes:
        cut: tokens that were left out to fit.
    """

    def __init__(
        self,
        encoding: tokenizers.Encoding,
        keep: npt.NDArray[np.int64] | None = None,
        cut: int = 0,
        *,
        has_types: bool = True,
    ) -> None:
        """Wrap what the tokenizer gave.

        Args:
            encoding: of the whole text or pair.
            keep: (tokens,) the positions of it that are here; None is all.
            cut: as the attribute.
            has_types: whether the model is told of token types.
        """
        self._encoding, self._keep, self.cut = encoding, keep, cut
        self._has_types = has_types

    def __len__(self) -> int:
        return len(self._encoding) if self._keep is None else len(self._keep)

    @cached_property
    def ids(self) -> list[int]:
        """Token ids."""
        return self._pick(self._encoding.ids)

    @cached_property
    def type_ids(self) -> list[int]:
        """Token types: 0 for a text and 1 for the second of a pair, in BERT; else all 0."""
        return self._pick(self._encoding.type_ids) if self._has_types else [0] * len(self)

    @cached_property
    def tokens(self) -> list[str]:
        """The vocabulary's entries: "##ing"."""
        return self._pick(self._encoding.tokens)

    @cached_property
    def texts(self) -> npt.NDArray[np.int64]:
        """(tokens,) which text a token is of, 0 or 1; -1 for a special token put around them."""
        places = self._pick(self._encoding.sequence_ids)
        return np.array([-1 if place is None else place for place in places], np.int64)

    @cached_property
    def words(self) -> npt.NDArray[np.int64]:
        """(tokens,) which word of its text a token is of; -1 where the tokenizer knows no words."""
        places = self._pick(self._encoding.word_ids)
        return np.array([-1 if place is None else place for place in places], np.int64)

    @cached_property
    def offsets(self) -> list[tuple[int, int]]:
        """Where each token stands in its text: first character, and the one behind its last."""
        return self._pick(self._encoding.offsets)

    def cut_to(self, room: int, *, left: bool = False) -> "EncodedText":
        """At most `room` tokens: the special ones, and the beginning of the text.

        Of a pair, the longer text is cut first, as transformers' strategy longest_first does.

        Args:
            room: positions that there are.
            left: keep the end of a text instead of its beginning.

        Raises:
            UsageError: the special tokens alone take the room.
        """
        if len(self) <= room:
            return self
        special = np.flatnonzero(self.texts < 0)
        texts = [np.flatnonzero(self.texts == text) for text in (0, 1)]
        free = room - len(special)
        if free < 1:
            raise UsageError(
                f"{room} positions are left for a text, and its {len(special)} special tokens take them. "
                "Use a shorter prompt, or load the bundle with a larger max_length if its model allows one."
            )
        sizes = _longest_first(len(texts[0]), len(texts[1]), free)
        kept = [
            place[len(place) - size :] if left else place[:size]
            for place, size in zip(texts, sizes, strict=True)
        ]
        return self._keeping(np.sort(np.concatenate([special, *kept])), len(self) - room)

    def windows(self, room: int, stride: int | None) -> Iterator["EncodedText"]:
        """A pair as often as its second text needs to be read whole, the first one in front each time.

        Args:
            room: positions that a window may take.
            stride: tokens of the second text that a window shares with the one before it; None takes
                half of the room, 128 at most, as transformers does.

        Raises:
            UsageError: the first text leaves too little room.
        """
        second = np.flatnonzero(self.texts == 1)
        others = np.flatnonzero(self.texts != 1)
        free = room - len(others)
        if free < 1:
            raise UsageError(
                f"the question and the special tokens take {len(others)} positions, and a window has "
                f"{room}: nothing of the context fits in. Shorten the question, or allow longer windows."
            )
        if stride is None:
            stride = min(room // 2, 128)
            if stride >= free:
                stride = free // 2
        elif not 0 <= stride < free:
            raise UsageError(
                f"the stride is {stride}; beside this question a window holds {free} tokens of the "
                f"context, so neighbours share 0 to {free - 1}."
            )
        for begin in range(0, max(len(second), 1), free - stride):
            piece = second[begin : begin + free]
            yield self._keeping(np.sort(np.concatenate([others, piece])), 0)
            if begin + free >= len(second):
                return

    def _keeping(self, places: npt.NDArray[np.int64], cut: int) -> "EncodedText":
        """Some of the positions that are here."""
        keep = places if self._keep is None else self._keep[places]
        return EncodedText(self._encoding, keep, self.cut + cut, has_types=self._has_types)

    def _pick(self, values: list[Any]) -> list[Any]:
        return values if self._keep is None else [values[place] for place in self._keep]


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Tokens that a text of `first` and one of `second`, together more than `room`, keep of it."""
    shorter = min(first, second)
    if shorter * 2 > room:
        shorter = room // 2
    return (room - shorter, shorter) if first > second else (shorter, room - shorter)
