"""One request after the other under prompts that take turns, each answer checked."""

from collections.abc import Sequence

from edgept.bench.answers import Answers, are_alike
from edgept.bench.loop import Request
from edgept.bench.phases import Samples
from edgept.bench.subject import Subject
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model

__all__ = ["count_equal_rows", "make_request"]


def make_request(
    subject: Subject,
    model: Model,
    pool: Sequence[LoadedPrompt],
    answers: Answers,
    *,
    batch: int = 1,
) -> Request:
    """A function that runs the next request, so that every one follows a swap.

    Args:
        subject: what is asked under each prompt.
        model: that answers.
        pool: prompts that take turns, in order.
        answers: where each answer is checked.
        batch: rows of a request; each row takes the next prompt.
    """
    turn = 0

    def request() -> Samples:
        nonlocal turn
        chosen = [pool[(turn + row) % len(pool)] for row in range(batch)]
        turn += batch
        samples, found = subject.run(model, chosen)
        for prompt, answer in zip(chosen, found, strict=True):
            answers.check(prompt.name, answer, batch=batch > 1)
        return samples

    return request


def count_equal_rows(
    subject: Subject, model: Model, pool: Sequence[LoadedPrompt], batch: int
) -> int:
    """Rows of a batch with the answer that they have alone; 0 where a batch is one row."""
    if batch == 1:
        return 0
    chosen = [pool[row % len(pool)] for row in range(batch)]
    alone = {prompt.name: subject.run(model, [prompt])[1][0] for prompt in chosen}
    rows = subject.run(model, chosen)[1]
    return sum(are_alike(row, alone[prompt.name]) for prompt, row in zip(chosen, rows, strict=True))
