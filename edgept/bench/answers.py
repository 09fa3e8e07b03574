"""Whether what is measured is right: the same request under the same prompt has one answer."""

from dataclasses import dataclass

__all__ = ["Answers", "Correctness"]


@dataclass(frozen=True)
class Correctness:
    """What was seen of the answers during the run. All decoding is greedy.

    Attributes:
        swaps_back: whether A → B → A gave the first answer again, token for token.
        prompts_matter: whether B's answer differs from A's; random prompts often change nothing.
        checked: answers that were compared with the first one under their prompt.
        different: of these, how many were another one.
        starts_equal: processes of their own whose first token was the same as here.
        starts: such processes.
        batch_rows: rows of the first batch; 0 without batches.
        batch_rows_equal: of these, those with the answer that they have alone.
    """

    swaps_back: bool
    prompts_matter: bool
    checked: int
    different: int
    starts_equal: int
    starts: int
    batch_rows: int
    batch_rows_equal: int

    @property
    def right(self) -> bool:
        """Whether no answer was wrong. Rows of a batch may round differently, so they only count."""
        return self.swaps_back and self.different == 0 and self.starts_equal == self.starts


class Answers:
    """Remembers the first answer under each prompt and counts those that differ from it."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, bool], list[int]] = {}
        self.checked = self.different = 0

    def check(self, prompt: str, token_ids: list[int], *, batch: bool = False) -> None:
        """Compare with the first answer under this prompt; rows of a batch with rows of a batch."""
        first = self._first.setdefault((prompt, batch), token_ids)
        if first is not token_ids:
            self.checked += 1
            self.different += first != token_ids

    def first(self, prompt: str) -> list[int]:
        """The first answer under a prompt, alone."""
        return self._first[prompt, False]
