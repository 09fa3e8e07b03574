"""Percentiles, outliers and ratios: what a series of latencies may be said to show."""

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from edgept.bench.comparison import _length, _pairs, _turn
from edgept.bench.phases import Samples
from edgept.bench.plan import length_of_run
from edgept.bench.ratio import FEWEST, Ratio, _correlation, ratio_of_pairs, ratio_of_series
from edgept.bench.statistics import SAMPLES_FOR, outliers, percentile, summarise

Array = npt.NDArray[np.float64]


@pytest.mark.parametrize(("percent", "needed"), [(90.0, 64), (99.0, 662), (99.9, 6636)])
def test_a_percentile_needs_samples(percent: float, needed: int) -> None:
    assert SAMPLES_FOR[percent] == needed
    samples = [float(i) for i in range(needed)]
    assert percentile(samples[1:], percent) is None
    found = percentile(samples, percent)
    assert found in samples  # one that was really seen
    assert found >= percent / 100 * (needed - 1)
    assert found <= percent / 100 * (needed - 1) + 1


def test_summary_of_a_short_series() -> None:
    summary = summarise([3.0, 1.0, 2.0])
    assert (summary.n, summary.median, summary.minimum, summary.maximum) == (3, 2.0, 1.0, 3.0)
    assert summary.p90 is summary.p99 is summary.p999 is None


def test_outliers_are_flagged_and_kept() -> None:
    samples = [10.0, 10.1, 9.9, 10.2, 9.8, 10.0, 10.1, 9.9, 14.0, 10.0]
    assert outliers(samples) == (8,)
    summary = summarise(samples)
    assert summary.outliers == (8,)
    assert summary.maximum == 14.0
    assert summary.n == 10
    # 14.826 median absolute deviations (0.1 here) away and no more is no outlier
    assert outliers([*samples[:8], 10.0 + 1.48, 10.0]) == ()


def latencies(random: np.random.Generator, count: int, memory: float) -> Array:
    """A series like a real one: a floor, skew, spikes, and neighbours that resemble each other."""
    noise = random.normal(0, 0.05, count)
    level = np.zeros(count)
    for i in range(1, count):
        level[i] = memory * level[i - 1] + noise[i]
    spikes = (random.random(count) < 0.02) * random.exponential(1, count)
    return 10 * np.exp(level + spikes) + random.gamma(2, 0.1, count)


PHASES = 6


def compared_turns(seed: int, turns: int, factor: float) -> Ratio:
    """Turns of requests of about 10 ms whose first in a block is 8 % slower, on whichever side it is."""
    random, count = np.random.default_rng(seed), itertools.count()

    def side(times: float) -> Callable[[], Samples]:
        def run() -> Samples:
            first = 1.08 if next(count) % 4 == 0 else 1.0
            return {"run": [10 * times * first * float(np.exp(random.normal(0, 0.01)))]}

        return run

    taken: list[tuple[Samples, Samples]] = []
    for _ in range(turns):
        _turn(side(factor), side(1.0), taken)
    return ratio_of_pairs(*_pairs(taken)["run"], together=PHASES, seed=seed)


def test_the_place_in_a_block_hides_no_difference_and_makes_none() -> None:
    assert [compared_turns(seed, FEWEST, 1.05).word for seed in range(8)] == ["slower"] * 8
    assert sum(compared_turns(seed, FEWEST, 1.0).differs for seed in range(12)) <= 1


def test_comparisons_of_all_lengths_can_be_judged() -> None:
    """In turns of eight requests of 20 ms, where time counts."""
    quick = _length(length_of_run(quick=True, seconds=None, samples=None))
    assert quick.seconds / (8 * 0.02) >= FEWEST
    usual = _length(length_of_run(quick=False, seconds=None, samples=None))
    assert (usual.samples, usual.seconds) == (512, 60)
    for samples, turns in ((60, 60), (600, 512), (5000, 2500)):
        given = _length(length_of_run(quick=False, seconds=None, samples=samples))
        assert (given.samples, given.seconds) == (turns, 0)


@pytest.mark.parametrize("blocks", [FEWEST, 48])
@pytest.mark.parametrize("memory", [0.0, 0.8])
def test_the_same_thing_twice_interleaved_is_rarely_called_different(
    blocks: int, memory: float
) -> None:
    """100 A/A comparisons of six phases each: a call in any phase counts."""
    called = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        drift = np.exp(0.3 * np.arange(4 * blocks) / (4 * blocks))  # the machine gets slower
        differs = False
        for _ in range(PHASES):
            series = (latencies(random, 4 * blocks, memory) * drift).reshape(blocks, 4)
            logs = np.log(series)  # A B B A
            this, other = (np.exp(logs[:, pair].mean(axis=1)) for pair in ([0, 3], [1, 2]))
            ratio = ratio_of_pairs(this.tolist(), other.tolist(), together=PHASES, seed=seed)
            differs = differs or ratio.differs
        called += differs
    assert called <= 5


@pytest.mark.parametrize("blocks", [FEWEST, 60, 240])
def test_pairs_that_resemble_their_neighbours_are_rarely_called_different(blocks: int) -> None:
    """What meets one side for a while (its files, its place in memory) does not cancel in a block."""
    called = 0
    for seed in range(100):
        noise = np.random.default_rng(seed).normal(0, 0.01, blocks)
        logs = np.zeros(blocks)
        for i in range(1, blocks):
            logs[i] = 0.8 * logs[i - 1] + noise[i]
        ratio = ratio_of_pairs(np.exp(logs).tolist(), [1.0] * blocks, together=PHASES, seed=seed)
        called += ratio.differs
    assert called <= 5


def test_equal_samples_do_not_resemble_a_trend() -> None:
    """A clock of whole microseconds gives the same latency again and again."""
    assert _correlation(np.full(200, 5.0)) == 1
    coarse = np.round(5 + 0.0004 * np.random.default_rng(0).normal(size=200), 3)
    assert len(set(coarse)) < 5
    assert _correlation(coarse) < 2
    ratio = ratio_of_series([5.0] * 200, [10.0] * 200)
    assert (ratio.n, ratio.word) == (200, "faster")


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_the_same_thing_in_two_reports_is_rarely_called_different(memory: float) -> None:
    called = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        this, other = latencies(random, 100, memory), latencies(random, 100, memory)
        called += ratio_of_series(this.tolist(), other.tolist(), seed=seed).differs
    assert called <= 5


def test_a_difference_is_called() -> None:
    random = np.random.default_rng(1)
    this, other = latencies(random, 64, 0.2), 1.2 * latencies(random, 64, 0.2)
    for ratio in (
        ratio_of_pairs(this.tolist(), other.tolist(), together=PHASES),
        ratio_of_series(this.tolist(), other.tolist(), together=PHASES),
    ):
        assert ratio.word == "faster"
        assert ratio.low < ratio.ratio < ratio.high < 1
        assert ratio.ratio == pytest.approx(1 / 1.2, rel=0.05)
    assert ratio_of_pairs(other.tolist(), this.tolist()).word == "slower"


def test_no_difference_is_called_when_the_interval_holds_1_or_samples_are_few() -> None:
    random = np.random.default_rng(2)
    same = ratio_of_pairs(latencies(random, 40, 0).tolist(), latencies(random, 40, 0).tolist())
    assert same.low < 1 < same.high
    assert same.word == "no difference shown"
    few = ratio_of_pairs([1.0, 1.01] * 4, [2.0, 2.01] * 4)
    assert few.high < 1
    assert few.word == "too few samples"
