from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from edgept.errors import EdgeptError, UsageError
from edgept.runtime.sampling import Sampler, Sampling

VOCAB = 500


def random_logits(seed: int, size: int = VOCAB) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)


def transformers_scores(
    sampling: Sampling, context: list[int], logits: npt.NDArray[np.float32]
) -> torch.Tensor:
    steps = LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        steps.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature:
        steps.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if sampling.top_k:
            steps.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            steps.append(TopPLogitsWarper(sampling.top_p))
    scores: torch.Tensor = steps(torch.LongTensor([context]), torch.from_numpy(logits.copy())[None])
    return scores[0]


def distribution(sampler: Sampler, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """What `choose` draws from, as (vocab,)."""
    penalised = sampler._penalise(logits) if sampler._penalises else logits
    ids, probabilities = sampler._candidates(penalised)
    full = np.zeros(logits.size)
    full[ids] = probabilities
    return full


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.3),
        Sampling(temperature=1.7, top_k=7),
        Sampling(temperature=1.0, top_k=VOCAB * 2),
        Sampling(temperature=0.8, top_p=0.9),
        Sampling(temperature=2.0, top_p=0.999),
        Sampling(temperature=1.0, top_p=0.01),
        Sampling(temperature=1.0, top_p=0.0),
        Sampling(temperature=0.7, top_k=40, top_p=0.95, repetition_penalty=1.2),
        Sampling(temperature=1.0, top_k=5, top_p=0.5, repetition_penalty=0.7),
    ],
    ids=repr,
)
def test_the_distribution_is_that_of_transformers(sampling: Sampling) -> None:
    context = [3, 4, 4, 99, 499]
    for seed in range(30):
        logits = random_logits(seed)
        expected = transformers_scores(sampling, context, logits).softmax(-1).numpy()
        found = distribution(Sampler(sampling, context), logits)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        assert ((found > 0) == (expected > 0)).all()


def test_equal_logits_at_the_top_k_border_all_stay() -> None:
    logits = np.array([1, 5, 5, 5, 0], np.float32)
    found = distribution(Sampler(Sampling(temperature=1.0, top_k=2)), logits)
    np.testing.assert_allclose(found, [0, 1 / 3, 1 / 3, 1 / 3, 0])


def test_top_p_of_equal_logits_keeps_as_many_as_transformers() -> None:
    logits = np.zeros(8, np.float32)
    for top_p in (0.0, 0.1, 0.5, 0.6):
        sampling = Sampling(temperature=1.0, top_p=top_p)
        expected = transformers_scores(sampling, [0], logits).isfinite().numpy()
        found = distribution(Sampler(sampling), logits) > 0
        assert found.sum() == expected.sum()


@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.6])
def test_greedy_steps_equal_those_of_transformers(penalty: float) -> None:
    sampling = Sampling(repetition_penalty=penalty)
    context = [1, 2, 2]
    sampler = Sampler(sampling, context)
    for seed in range(60):
        logits = random_logits(seed % 3)  # repeated, so that a penalty changes the choice
        expected = int(transformers_scores(sampling, context, logits).argmax())
        assert sampler.choose(logits) == expected
        context.append(expected)
    assert (len(set(context)) > 8) == (penalty > 1)


def test_greedy_takes_the_lowest_of_equal_ids() -> None:
    assert Sampler(Sampling()).choose(np.array([0, 7, 7], np.float32)) == 1


def test_logits_are_left_as_they_are() -> None:
    logits = random_logits(0)
    logits.flags.writeable = False
    before = logits.copy()
    sampling = Sampling(temperature=0.5, top_k=9, top_p=0.9, repetition_penalty=1.5, seed=0)
    Sampler(sampling, [1, 2, 3]).choose(logits)
    Sampler(Sampling(repetition_penalty=1.5), [1, 2, 3]).choose(logits)
    assert (logits == before).all()


def test_virtual_tokens_take_no_penalty() -> None:
    logits = random_logits(0)
    sampling = Sampling(temperature=1.0, repetition_penalty=2.0)
    with_prompt = distribution(Sampler(sampling, [VOCAB, VOCAB + 1, 5, VOCAB + 2]), logits)
    without = distribution(Sampler(sampling, [5]), logits)
    np.testing.assert_array_equal(with_prompt, without)


def test_top_k_of_one_is_greedy() -> None:
    sampler = Sampler(Sampling(temperature=1.5, top_k=1, seed=0))
    for seed in range(50):
        logits = random_logits(seed)
        assert sampler.choose(logits) == int(logits.argmax())


def test_a_seed_repeats_itself() -> None:
    def tokens(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, top_p=0.95, seed=seed))
        return [sampler.choose(random_logits(step)) for step in range(40)]

    assert tokens(7) == tokens(7)
    assert tokens(7) != tokens(8)
    assert tokens(None) != tokens(None)


def test_tokens_come_as_often_as_they_are_probable() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    sampler = Sampler(Sampling(temperature=1.0, seed=1))
    draws = 20_000
    counts = np.bincount([sampler.choose(logits) for _ in range(draws)], minlength=4)
    expected = draws * np.array([0.4, 0.3, 0.2, 0.1])
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 16.3  # 99.9 % of fair draws, 3 degrees of freedom


def test_impossible_tokens_are_never_chosen() -> None:
    logits = np.full(100, -np.inf, np.float32)
    logits[[17, 60]] = 0.0
    sampler = Sampler(Sampling(temperature=1.0, top_k=50, top_p=0.99, seed=0))
    assert {sampler.choose(logits) for _ in range(200)} == {17, 60}


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, top_k=3)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_an_error(sampling: Sampling, bad: float) -> None:
    logits = random_logits(0)
    logits[123] = bad
    with pytest.raises(EdgeptError, match=r"not finite \(token 123.*fp32"):
        Sampler(sampling).choose(logits)


def test_no_possible_token_is_an_error() -> None:
    with pytest.raises(EdgeptError, match="not finite"):
        Sampler(Sampling()).choose(np.full(4, -np.inf, np.float32))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("temperature", 1e-9),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_k", True),
        ("top_p", 1.1),
        ("top_p", -0.1),
        ("top_p", float("nan")),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", float("inf")),
        ("seed", -1),
        ("seed", 1.0),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{name} is .*found"):
        Sampling(**{name: value})
