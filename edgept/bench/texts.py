"""Text that is generated: a question, its phases, and its answer's tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgept.bench.answers import Answer
from edgept.bench.ceilings import Ceilings, measure_ceilings
from edgept.bench.earlier import Earlier, request_of
from edgept.bench.phases import TITLES, Samples
from edgept.bench.picture import PictureFile
from edgept.bench.plan import Plan
from edgept.bench.question import Question, ask, check_length, least_ids, make_question
from edgept.bench.subject import Least, Shared, Subject
from edgept.bench.turns import do_the_same
from edgept.errors import UsageError
from edgept.latency import Latency
from edgept.manifest import Manifest
from edgept.prompt import Prompt
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model

__all__ = ["Texts", "check", "choose", "least_request"]

_LENGTH = 64  # tokens, given and new
_ANSWERS_OWN = frozenset(
    {"tpot", "end_to_end"}
)  # phases that an answer's length makes long or short


@dataclass(frozen=True)
class Texts:
    """A question under any prompt; see `edgept.bench.subject.Subject`."""

    request: Question

    @property
    def titles(self) -> Mapping[str, str]:
        """Of the phases, by name."""
        return TITLES

    @property
    def message(self) -> Mapping[str, object]:
        """The text or its ids."""
        return {"content": self.request.content}

    def run(self, model: Model, prompts: Sequence[LoadedPrompt]) -> tuple[Samples, list[Answer]]:
        """Generate a row under each prompt.

        The runtime's memory of recent prompts is cleared before, a microsecond or two of the request's
        end to end: between two prompts that take turns, a swap would cost nothing.
        """
        model._generator("generate").decoder.forget_prefixes()
        content, most = self.request.content, self.request.new_tokens
        if len(prompts) == 1:
            result = model.generate(content, prompt=prompts[0], max_new_tokens=most)
            return _of_latency(result.latency), [np.array(result.token_ids)]
        rows = model.generate_batch([(content, prompt) for prompt in prompts], max_new_tokens=most)
        answers = [np.array(row.token_ids) for row in rows]
        return _of_latencies([row.latency for row in rows]), answers

    def first(self, answer: Answer) -> int:
        """The first token's id."""
        return int(answer[0])

    def ceilings(self, model: Model, prompt: LoadedPrompt) -> Ceilings:
        """Those of the prefill and of a token half way through the answer."""
        virtual, text = prompt.num_virtual_tokens, len(self.request.token_ids)
        return measure_ceilings(
            model,
            # a prompt whose keys and values are computed once is not run again
            prefill_tokens=text + (virtual if prompt.kv is None else 0),
            length=virtual + text + self.request.answered_tokens // 2,
        )

    def unlike(self, other: Question | PictureFile) -> str:
        """The same tokens are given, and as many asked for."""
        ours = self.request
        same = isinstance(other, Question) and (
            (ours.token_ids, ours.new_tokens) == (other.token_ids, other.new_tokens)
        )
        return "" if same else "the requests are not the same tokens"

    def work(self, model: Model, prompt: LoadedPrompt) -> str:
        """The length of the answer, which is made to be known."""
        return f"{len(self.run(model, [prompt])[1][0])} tokens"

    def beside(
        self,
        model: Model,
        pool: Sequence[LoadedPrompt],
        other: Model,
        other_pool: Sequence[LoadedPrompt],
    ) -> Shared:
        """The text where both tokenisers read it alike, else this one's ids."""
        for side in (model, other):  # this one has run more, and would go round among its buffers
            side._generator("generate").decoder.forget_buffers()
        notes: list[str] = []
        question = self.request
        if question.text is not None:
            tokenizers = (model.tokenizer, other.tokenizer)
            ids = [t and t.encode(question.text, special_tokens=True) for t in tokenizers]
            if ids[0] != ids[1]:
                question = replace(question, text=None)
                notes.append(
                    "the two read the text as different tokens, so both are given this one's ids"
                )
        shared = replace(self, request=question)
        ours = [shared.work(model, prompt) for prompt in pool]
        theirs = [shared.work(other, prompt) for prompt in other_pool]
        if do_the_same(ours, theirs):
            return Shared(shared, notes)
        notes.append(
            f"the answers in turn have {', '.join(ours)} here and {', '.join(theirs)} there: other work, so "
            "no ratio of what an answer's length makes long or short is called a difference"
        )
        return Shared(shared, notes, _ANSWERS_OWN)

    def notes(self) -> list[str]:
        """That answers end early, and that nothing reads text."""
        asked, notes = self.request, []
        if asked.answered_tokens < asked.new_tokens:
            notes.append(
                f"the model ends its shortest answer after {asked.answered_tokens} of "
                f"{asked.new_tokens} tokens"
            )
        if asked.text is None:
            notes.append("requests are token ids, so tokenise and detokenise do nothing")
        return notes


def check(
    plan: Plan, manifest: Manifest, prompts: Sequence[Prompt], earlier: Earlier | None
) -> None:
    """See `edgept.bench.subject.Kind`."""
    if plan.picture is not None:
        raise UsageError(f"{plan.bundle} does not look at pictures. Leave out --picture.")
    wanted = request_of(earlier, Question)
    tokens = plan.prompt_length or (len(wanted.token_ids) if wanted else _LENGTH)
    check_length(prompts, tokens, _new_tokens(plan, wanted), manifest.max_positions)


def least_request(model: Model) -> Least:
    """One token, and one new token; its swap is a copy, whatever cache buffers begin with."""
    ids, decoder = least_ids(model), model._generator("generate").decoder

    def run(prompt: LoadedPrompt) -> Latency:
        decoder.forget_prefixes()
        return model.generate(ids, prompt=prompt, max_new_tokens=1).latency

    return run


def choose(
    plan: Plan,
    model: Model,
    pool: Sequence[LoadedPrompt],
    earlier: Earlier | None,
    folder: Path,  # noqa: ARG001 - pictures need one
) -> Subject:
    """See `edgept.bench.subject.Kind`."""
    wanted = request_of(earlier, Question)
    new_tokens = _new_tokens(plan, wanted)
    if (
        wanted is None
        or plan.prompt_length is not None
        or not wanted.token_ids
        or max(wanted.token_ids) >= model.manifest.vocab_size
    ):
        return Texts(make_question(model, pool, plan.prompt_length or _LENGTH, new_tokens))
    tokenizer, text = model.tokenizer, wanted.text
    if (
        tokenizer is None
        or text is None
        or tokenizer.encode(text, special_tokens=True) != wanted.token_ids
    ):
        text = None
    return Texts(ask(model, pool, text, wanted.token_ids, new_tokens))


def _new_tokens(plan: Plan, wanted: Question | None) -> int:
    return plan.new_tokens or (wanted.new_tokens if wanted else _LENGTH)


def _of_latency(latency: Latency) -> Samples:
    """The phases of one request, without end to end, which the caller's clock measures."""
    samples = {
        "swap": [latency.swap_ms],
        "tokenise": [latency.tokenize_ms],
        "prefill": [latency.prefill_ms],
    }
    if latency.ttft_ms is not None:
        samples["ttft"] = [latency.ttft_ms]
    if latency.tpot_ms is not None:
        samples["tpot"] = [latency.tpot_ms]
    return samples


def _of_latencies(latencies: Sequence[Latency]) -> Samples:
    """The phases of a batch: swap, prefill and first token of every row; the rest once for all."""
    rows = [_of_latency(latency) for latency in latencies]
    samples: Samples = {
        name: [row[name][0] for row in rows if name in row] for name in ("swap", "prefill", "ttft")
    }
    samples["tokenise"] = rows[0]["tokenise"]
    paces = [row["tpot"][0] for row in rows if "tpot" in row]
    if paces:
        samples["tpot"] = [max(paces)]  # the rows step together; one that ends early has fewer
    return samples
