"""Rows to token ids, so that training sees exactly what the device will be given.

A request is encoded as `edgept run` encodes it, with the special tokens that stand before a text;
the answer follows with an end-of-text token. A text to classify has those behind it, too, and no
answer: its class is the head's. A conversation is rendered by the chat template as
`edgept run --chat` renders it, once for every answer of the assistant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgept.errors import InvalidFileError, UsageError
from edgept.tune.data import Data, Row

__all__ = ["Example", "encode"]

_SHOWN = 20


@dataclass(frozen=True)
class Example:
    """A sequence to learn.

    Attributes:
        ids: token ids of request and answer.
        start: where the answer begins; the loss is over ids[start:]. 1 in a text alone, whose first
            token nothing predicts.
        answer: the answer's text; "" in a text alone.
        task: index of the task in multitask prompt tuning, else 0.
        target: token ids of an encoder-decoder's answer, which is not in ids; else none.
        label: index of the class under a classifier's head, which is not in ids; else 0.
    """

    ids: tuple[int, ...]
    start: int
    answer: str
    task: int
    label: int = 0
    target: tuple[int, ...] = ()

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """Token ids of the answer, an end-of-text token included."""
        return self.target or self.ids[self.start :]


def encode(
    data: Data,
    tokenizer: Any,
    *,
    eos_token_ids: Sequence[int],
    max_length: int,
    drop_long: bool = False,
    tasks: Sequence[str] = ("",),
    labels: Sequence[str] = (),
    is_seq2seq: bool = False,
) -> list[Example]:
    """Encode rows.

    Args:
        data: the rows.
        tokenizer: a transformers tokenizer.
        eos_token_ids: that end a generation; the first one is put behind an answer.
        max_length: longest sequence in tokens. A text alone is cut into pieces of it.
        drop_long: leave longer rows out.
        tasks: names of the tasks, by index.
        labels: names of a classifier's classes, by index; none where the model answers in words.
        is_seq2seq: whether the model is an encoder-decoder, which reads requests and writes answers
            apart; `max_length` is of each.

    Raises:
        InvalidFileError: rows are too long or the chat template refuses them; each is named.
        UsageError: the model has no end-of-text token, its tokenizer no chat template, or rows of this
            kind are not for it.
    """
    if is_seq2seq and data.kind not in ("io", "label"):
        raise UsageError(
            f"{data.path} has rows of the kind {data.kind}, and an encoder-decoder learns from the columns "
            "input and output, or text and label. Name them with --input-column and --output-column."
        )
    if data.kind == "messages" and not getattr(tokenizer, "chat_template", None):
        raise UsageError(
            f"{data.path} holds conversations, and the model's tokenizer has no chat template. Give "
            "input and output columns, or put chat_template.jinja into the model's folder."
        )
    if data.kind != "text" and not labels and not eos_token_ids:
        raise UsageError(
            "the model has no end-of-text token, so an answer would never end. Set eos_token_id in "
            "its config.json."
        )
    examples: list[Example] = []
    problems: list[tuple[int, str]] = []
    for row in data.rows:
        task = tasks.index(row.task) if row.task in tasks else 0
        if data.kind == "text":
            examples += _pieces(row, tokenizer, eos_token_ids, max_length, task)
            continue
        try:
            if is_seq2seq:
                found = [_pair(row, tokenizer, eos_token_ids, task)]
            elif labels:
                found = [_labelled(row, tokenizer, task, labels)]
            else:
                found = _answers(row, tokenizer, eos_token_ids, task)
        except _TemplateError as error:
            problems.append((row.line, str(error)))
            continue
        for example in found:
            length = max(len(example.ids), len(example.target))
            if length <= max_length:
                examples.append(example)
            elif not drop_long:
                problems.append((row.line, f"has {length} tokens, room is {max_length}"))
    if problems:
        shown = "".join(f"\n  line {line} {problem}" for line, problem in problems[:_SHOWN])
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InvalidFileError(
            "training-data",
            f"{data.path}: {len(problems)} rows cannot be used. Shorten or correct them, raise "
            f"--max-length, or leave long ones out with --drop-long.{shown}{more}",
        )
    if not examples:
        raise InvalidFileError(
            "training-data", f"{data.path} leaves no row to learn from. Give longer texts."
        )
    return examples


class _TemplateError(Exception):
    """What the chat template makes of a row cannot be learnt from."""


def _answers(row: Row, tokenizer: Any, eos: Sequence[int], task: int) -> list[Example]:
    if row.answer is not None:
        request = _encode_request(tokenizer, row.text, eos)
        if not request:
            raise _TemplateError("has a request without a token")
        answer = list(tokenizer(row.answer, add_special_tokens=False).input_ids)
        return [Example((*request, *answer, eos[0]), len(request), row.answer, task)]
    examples = []
    for turn, message in enumerate(row.messages):
        if message["role"] != "assistant":
            continue
        before = _render(tokenizer, row.messages[:turn], add_generation_prompt=True)
        whole = _render(tokenizer, row.messages[: turn + 1], add_generation_prompt=False)
        if not whole.startswith(before):
            raise _TemplateError(
                "is rendered otherwise by the chat template once it is answered, so the answer's "
                "beginning cannot be told"
            )
        request = list(tokenizer(before, add_special_tokens=False).input_ids)
        ids = list(tokenizer(whole, add_special_tokens=False).input_ids)
        if ids[: len(request)] == request:
            answer = ids[len(request) :]
        else:  # a token stands on the border; the device's request ends there, so this one does
            rest = whole[len(before) :]
            answer = list(tokenizer(rest, add_special_tokens=False).input_ids)
        # Generation ends at the first end-of-text token; what the template puts behind is not learnt.
        end = next((at for at, token in enumerate(answer) if token in eos), None)
        answer = [*answer, eos[0]] if end is None else answer[: end + 1]
        examples.append(Example((*request, *answer), len(request), message["content"], task))
    return examples


def _labelled(row: Row, tokenizer: Any, task: int, labels: Sequence[str]) -> Example:
    ids = tuple(tokenizer(row.text).input_ids)
    if not ids:
        raise _TemplateError("has a text without a token")
    return Example(ids, len(ids), row.label, task, labels.index(row.label))


def _pair(row: Row, tokenizer: Any, eos: Sequence[int], task: int) -> Example:
    """A request with the special tokens around it, and an answer with those that the family writes."""
    ids = tuple(tokenizer(row.text).input_ids)
    if not ids:
        raise _TemplateError("has a request without a token")
    answer = row.answer if row.answer is not None else row.label
    target = tuple(tokenizer(text_target=answer).input_ids)
    if not {*target} & {*eos}:
        target = (*target, eos[0])
    return Example(ids, len(ids), answer, task, target=target)


def _render(
    tokenizer: Any, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool
) -> str:
    import jinja2

    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise _TemplateError(f"is refused by the chat template ({str(error)[:120]})") from error


def _encode_request(tokenizer: Any, text: str, eos: Sequence[int]) -> list[int]:
    """With the special tokens that stand before a text, without one that would end it."""
    ids = list(tokenizer(text).input_ids)
    while ids and ids[-1] in eos:
        ids.pop()
    return ids


def _pieces(
    row: Row, tokenizer: Any, eos: Sequence[int], max_length: int, task: int
) -> list[Example]:
    ids = [*_encode_request(tokenizer, row.text, eos), *eos[:1]]
    pieces = [ids[begin : begin + max_length] for begin in range(0, len(ids), max_length)]
    # A piece of one token predicts nothing.
    return [Example(tuple(piece), 1, "", task) for piece in pieces if len(piece) > 1]
