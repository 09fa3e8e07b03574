"""What a request may hold, and what it becomes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgept.errors import UsageError
from edgept.prompt import Prompt
from edgept.runtime.content import Input, LoadedPrompt, compose
from edgept.runtime.text import Tokenizer
from tests.conftest import VOCABULARY, tiny_tokenizer

HIDDEN = 4
MODEL = object()  # stands for the model that prompts are resident on


def rows_prompt(count: int, value: float, model: object = MODEL) -> LoadedPrompt:
    rows = np.full((count, HIDDEN), value, np.float32)
    prompt = Prompt({"prompt_embeds": rows}, name=f"rows-{value:g}", method="prompt_tuning")
    return LoadedPrompt(prompt, rows, np.zeros((2, 1, count, 2), np.float32), 0.5, model)


def prefix_prompt(count: int) -> LoadedPrompt:
    cache = np.ones((1, 2, 1, count, 2), np.float32)
    prompt = Prompt({"prompt_kv": cache}, name="prefix", method="prefix_tuning")
    return LoadedPrompt(prompt, None, cache.reshape(2, 1, count, 2), 0.5, MODEL)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer that puts <s> in front, as most models' do."""
    from tokenizers.processors import TemplateProcessing

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    wrapper = tiny_tokenizer()
    wrapper.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    wrapper.save_pretrained(folder)
    loaded = Tokenizer.from_bundle(folder)
    assert loaded is not None
    return loaded


def request(
    content: Any, prompt: Any = None, tokenizer: Tokenizer | None = None, model: object = MODEL
) -> Input:
    return compose(content, prompt, tokenizer=tokenizer, vocab_size=VOCABULARY, model=model)


def test_text_gets_its_special_tokens_once(tokenizer: Tokenizer) -> None:
    alone = request("where is", tokenizer=tokenizer)
    assert alone.ids[0] == 1
    parts = request(["where", " is", " my"], tokenizer=tokenizer)
    bare = [tokenizer.encode(text, special_tokens=False) for text in ("where", " is", " my")]
    assert parts.ids.tolist() == [1, *bare[0], *bare[1], *bare[2]]
    assert (alone.prefix, alone.table, alone.virtual_tokens) == (None, None, 0)


def test_ids_are_taken_as_they_are(tokenizer: Tokenizer) -> None:
    for content in ([5, 6], (5, 6), np.array([5, 6]), [[5], [6]], [np.array([5, 6])]):
        assert request(content, tokenizer=tokenizer).ids.tolist() == [5, 6]
    mixed = request([[5, 6], "where"], tokenizer=tokenizer)
    assert mixed.ids.tolist() == [5, 6, *tokenizer.encode("where", special_tokens=False)]


def test_leading_prompt_is_not_run_but_copied(tokenizer: Tokenizer) -> None:
    prompt = rows_prompt(3, 1)
    for composed in (
        request("where", prompt, tokenizer),
        request([prompt, "where"], tokenizer=tokenizer),
    ):
        assert composed.prefix is prompt
        assert composed.table is None
        assert composed.ids.tolist() == tokenizer.encode("where", special_tokens=True)
        assert composed.length == 3 + len(composed.ids)
        assert (composed.virtual_tokens, composed.text_tokens) == (3, len(composed.ids))


def test_prompts_inside_a_text_are_rows_of_one_table() -> None:
    first, second = rows_prompt(2, 1), rows_prompt(3, 2)
    composed = request([[5], first, [6, 7], second, first])
    v = VOCABULARY
    assert composed.ids.tolist() == [5, v, v + 1, 6, 7, v + 2, v + 3, v + 4, v + 5, v + 6]
    assert composed.table is not None
    assert composed.table[:, 0].tolist() == [1, 1, 2, 2, 2, 1, 1]
    assert (composed.virtual_tokens, composed.text_tokens, composed.length) == (7, 3, 10)


def test_prompt_in_front_and_another_inside() -> None:
    first, second = rows_prompt(2, 1), rows_prompt(3, 2)
    composed = request([second, [5]], first)
    assert composed.prefix is first
    assert composed.ids.tolist() == [VOCABULARY, VOCABULARY + 1, VOCABULARY + 2, 5]
    assert (composed.virtual_tokens, composed.length) == (5, 6)


def test_prompt_alone_is_run() -> None:
    """Something has to be run for there to be logits."""
    composed = request([rows_prompt(2, 1)])
    assert composed.prefix is None
    assert composed.ids.tolist() == [VOCABULARY, VOCABULARY + 1]
    two = request([rows_prompt(2, 1), rows_prompt(1, 2)])
    assert two.prefix is not None
    assert two.ids.tolist() == [VOCABULARY]


def test_prefix_stands_at_the_start_only() -> None:
    prefix = prefix_prompt(2)
    assert request([5], prefix).prefix is prefix
    assert request([rows_prompt(2, 1), [5]], prefix).prefix is prefix
    for content, prompt in (
        ([[5], prefix], None),
        ([prefix], None),
        ([[5], prefix, [6]], rows_prompt(2, 1)),
        ([prefix, [5]], rows_prompt(2, 1)),
        ([prefix, [5]], prefix),
    ):
        with pytest.raises(UsageError, match=r"prefix_tuning.*very start"):
            request(content, prompt)


@pytest.mark.parametrize("content", [[], [[]], (), np.array([], np.int64), [[], []]])
def test_empty_request(content: Any) -> None:
    with pytest.raises(UsageError, match="empty"):
        request(content)
    with pytest.raises(UsageError, match=r"empty|very start"):
        request(content, prefix_prompt(2))


@pytest.mark.parametrize("token", [-1, VOCABULARY, VOCABULARY + 1, 1 << 31, 1 << 63, 10**30])
def test_ids_out_of_the_vocabulary(token: int) -> None:
    """Ids from the vocabulary's size on would be rows of somebody's prompt."""
    for content in ([token], [5, token], [[5], [token]]):
        with pytest.raises(UsageError, match=f"token id {token} is not in the vocabulary"):
            request(content)


@pytest.mark.parametrize(
    "content",
    [
        None,
        5,
        1.5,
        b"where",
        {"role": "user"},
        {5, 6},
        iter([5]),
        [1.5],
        [None],
        [b"x"[0], "text"],
        [5, [6]],
        [["x"]],
        [{"role": "user", "content": "x"}],
        [Prompt({})],
        [object()],
    ],
)
def test_what_is_no_request(content: Any, tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError):
        request(content, tokenizer=tokenizer)


@pytest.mark.parametrize("prompt", ["spanish.pt", Path("spanish.pt"), Prompt({}), [5], object()])
def test_prompt_must_be_loaded(prompt: Any) -> None:
    """A file's name in the prompt's place must not be read as text."""
    with pytest.raises(UsageError, match="load_prompt"):
        request([5], prompt)


def test_prompt_of_another_model() -> None:
    foreign = rows_prompt(2, 1, model=object())
    for content, prompt in (([5], foreign), ([[5], foreign], None)):
        with pytest.raises(UsageError, match="loaded on another model"):
            request(content, prompt)


def test_text_without_a_tokenizer() -> None:
    with pytest.raises(UsageError, match="no tokenizer"):
        request("where")
    assert request([5, 6]).ids.tolist() == [5, 6]


def test_lone_surrogates_are_no_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="surrogates"):
        request("a\udcff", tokenizer=tokenizer)


def test_size_of_a_resident_prompt() -> None:
    prompt = rows_prompt(3, 1)
    assert prompt.num_virtual_tokens == 3
    assert prompt.nbytes == 3 * HIDDEN * 4 + 2 * 3 * 2 * 4
    assert prefix_prompt(3).nbytes == 2 * 3 * 2 * 4
