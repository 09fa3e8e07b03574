"""Examples to batches, in an order that the seed and the step decide alone, so that a run can go on."""

from collections.abc import Iterator, Sequence

import torch

from edgept.tune.encode import Example

__all__ = ["Batch", "Order", "eval_batches", "make_batch"]

Batch = dict[str, torch.Tensor]


class Order:
    """The data's order: every pass is a permutation of its own.

    Args:
        num_rows: of the data.
        seed: of the permutations.
    """

    def __init__(self, num_rows: int, seed: int) -> None:
        self._num_rows, self._seed = num_rows, seed
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.int64)

    def rows(self, begin: int, count: int) -> list[int]:
        """Indices of the rows at these positions of the endless sequence of passes."""
        return [self._row(position) for position in range(begin, begin + count)]

    def _row(self, position: int) -> int:
        epoch, at = divmod(position, self._num_rows)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            self._permutation = torch.randperm(self._num_rows, generator=generator)
            self._epoch = epoch
        return int(self._permutation[at])


def make_batch(examples: Sequence[Example], device: torch.device) -> Batch:
    """Put examples side by side, padded on the right, where a causal model never looks.

    Returns:
        input_ids, attention_mask, labels: (batch, longest) int64, labels -100 outside answers; of an
        encoder-decoder labels are (batch, longest answer); task_ids, classes: (batch,) int64.
    """
    longest = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, example in enumerate(examples):
        length = len(example.ids)
        ids[row, :length] = torch.tensor(example.ids)
        mask[row, :length] = 1
        labels[row, example.start : length] = ids[row, example.start : length]
    if any(example.target for example in examples):
        longest = max(len(example.target) for example in examples)
        labels = torch.full((len(examples), longest), -100)
        for row, example in enumerate(examples):
            labels[row, : len(example.target)] = torch.tensor(example.target)
    tasks = torch.tensor([example.task for example in examples])
    classes = torch.tensor([example.label for example in examples])
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "task_ids": tasks,
        "classes": classes,
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def eval_batches(
    examples: Sequence[Example], batch_size: int, device: torch.device
) -> Iterator[Batch]:
    """All examples once, the short ones first, so that little is padded."""
    ordered = sorted(examples, key=lambda example: len(example.ids))
    for begin in range(0, len(ordered), batch_size):
        yield make_batch(ordered[begin : begin + batch_size], device)
