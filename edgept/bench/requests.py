"""One request after the other under prompts that take turns, each answer checked."""

from collections.abc import Sequence

from edgept.bench.answers import Answers
from edgept.bench.loop import Request
from edgept.bench.phases import Samples, of_latencies, of_latency
from edgept.bench.question import Question
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model

__all__ = ["make_request"]


def make_request(
    model: Model,
    pool: Sequence[LoadedPrompt],
    question: Question,
    answers: Answers,
    *,
    batch: int = 1,
) -> Request:
    """A function that runs the next request, so that every one follows a swap that copies.

    The runtime's memory of recent prompts is cleared before each, a microsecond or two of its end to
    end: between two prompts that take turns, a swap would cost nothing.

    Args:
        model: that answers.
        pool: prompts that take turns, in order.
        question: what is asked under each.
        answers: where each answer is checked.
        batch: rows of a request; each row takes the next prompt.
    """
    turn = 0
    decoder = model._generator("generate").decoder

    def request() -> Samples:
        nonlocal turn
        decoder.forget_prefixes()
        chosen = [pool[(turn + row) % len(pool)] for row in range(batch)]
        turn += batch
        if batch == 1:
            result = model.generate(
                question.content, prompt=chosen[0], max_new_tokens=question.new_tokens
            )
            answers.check(chosen[0].name, result.token_ids)
            return of_latency(result.latency)
        results = model.generate_batch(
            [(question.content, prompt) for prompt in chosen], max_new_tokens=question.new_tokens
        )
        for prompt, row in zip(chosen, results, strict=True):
            answers.check(prompt.name, row.token_ids, batch=True)
        return of_latencies([row.latency for row in results])

    return request
