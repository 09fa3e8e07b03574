"""The measuring code itself: known durations come out, warm-up ends, throttling and drift are seen."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgept.bench.conditions import Conditions
from edgept.bench.loop import Series, run_loop, timed
from edgept.bench.measurement import _joules_per_request
from edgept.bench.plan import Length, Plan, length_of_run
from edgept.bench.power import Energy
from edgept.bench.reference_kernel import LIMIT, ReferenceKernel
from edgept.bench.steady import WarmUp, drift, warm_up
from edgept.bench.turns import round_of
from edgept.bench.verdict import judge_loop_phase
from edgept.errors import UsageError

SPIN_NS = 1_000_000


def wait(milliseconds: float, truth: list[float]) -> None:
    """Take a known time: sleep, then spin to the end. What it really took is the truth.

    A busy machine may hold a process up at any moment, inside the wait too.
    """
    begin = time.perf_counter_ns()
    until = begin + round(milliseconds * 1e6)
    if milliseconds * 1e6 > 2 * SPIN_NS:
        time.sleep((milliseconds * 1e6 - 2 * SPIN_NS) / 1e9)
    while time.perf_counter_ns() < until:
        pass
    truth.append((time.perf_counter_ns() - begin) / 1e6)


def calm() -> Conditions:
    return Conditions(mhz=1500, governor="performance", temperature_c=40.0, load=0.1)


def compute(milliseconds: float) -> None:
    """Use so much processor time."""
    until = time.thread_time_ns() + round(milliseconds * 1e6)
    while time.thread_time_ns() < until:
        pass


def still() -> ReferenceKernel:
    """A kernel whose time does not change."""
    return ReferenceKernel(lambda: compute(0.5), calm)


@pytest.mark.parametrize("milliseconds", [1, 5, 20])
def test_known_durations_are_recovered(milliseconds: int) -> None:
    """Within 2 % of what the work took by its own clock; nothing is subtracted."""
    truth: list[float] = []

    def request() -> dict[str, list[float]]:
        wait(milliseconds, truth)
        return {"prefill": [truth[-1]]}

    length = Length(samples=25, seconds=0.0, limit_s=None, once=1, warm_up_s=0.3)
    series = run_loop(request, length, kernel=still())
    assert len(series.samples["end_to_end"]) == len(series.at_s) == 25
    real = truth[series.warm_up.requests :]
    assert series.samples["prefill"] == real
    assert np.median(series.samples["end_to_end"]) == pytest.approx(np.median(real), rel=0.02)
    assert np.median(series.samples["end_to_end"]) >= milliseconds


def test_energy_is_without_the_reference_kernels() -> None:
    """10 J over 10 s, of which the kernel took 1; half of the rest is each of two requests'."""
    warmed = WarmUp(1, 1.0, [], steady=True)
    series = Series({}, [0.0], 8.0, warmed, 1.0, [], kernel_s=1.0)
    energy = Energy("RAPL", "", joules=10.0, seconds=10.0)
    assert _joules_per_request(energy, series) == pytest.approx(4.5)
    assert _joules_per_request(Energy(reason="nothing tells"), series) is None


def test_the_reference_kernels_time_is_known() -> None:
    kernel = still()
    length = Length(samples=3, seconds=0.0, limit_s=None, once=1, warm_up_s=0.0)
    series = run_loop(dict, length, kernel=kernel)
    assert series.kernel_s == kernel.checked_s >= len(series.checks) * 5 * 0.5e-3


class Clock:
    """Nanoseconds that only its own sleep moves."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def sleep(self, milliseconds: float) -> None:
        self.now += round(milliseconds * 1e6)


def slept(clock: Clock, times: Callable[[int], float]) -> Callable[[], dict[str, list[float]]]:
    """A request that takes times(0), times(1) … milliseconds of a clock of ours."""
    count = itertools.count()

    def request() -> dict[str, list[float]]:
        clock.sleep(times(next(count)))
        return {"ttft": [1.0]}

    return request


def test_warm_up_ends_when_two_windows_agree() -> None:
    clock = Clock()
    request = slept(clock, lambda i: 20 + 40 * 0.8**i)
    warmed = warm_up(lambda: timed(request, clock)["end_to_end"][0], 100, clock)
    assert warmed.steady
    last, before = warmed.windows_ms[-1], warmed.windows_ms[-2]
    assert abs(last / before - 1) <= 0.02
    assert all(abs(b / a - 1) > 0.02 for a, b in itertools.pairwise(warmed.windows_ms[:-1]))


def test_warm_up_gives_up() -> None:
    clock = Clock()
    request = slept(clock, lambda i: 20 * 1.05**i)
    warmed = warm_up(lambda: timed(request, clock)["end_to_end"][0], 2.0, clock)
    assert not warmed.steady
    assert 2.0 <= warmed.seconds < 2.5
    # a request that is longer than the limit is run once
    assert warm_up(
        lambda: timed(slept(clock, lambda _: 5e3), clock)["end_to_end"][0], 1, clock
    ) == (WarmUp(1, 5.0, [], steady=False))


def test_a_schedule_counts_from_the_scheduled_moment() -> None:
    """One slow request holds up those behind it; a closed loop would not show it."""

    def one_slow() -> Callable[[], dict[str, list[float]]]:
        count = itertools.count()

        def request() -> dict[str, list[float]]:
            time.sleep(0.2 if next(count) == 20 else 0.0)
            return {"ttft": [1.0]}

        return request

    length = Length(samples=80, seconds=0.0, limit_s=None, once=1, warm_up_s=0.0)
    series = run_loop(one_slow(), length, kernel=still(), rate=200.0, seed=1)
    latency = series.samples["end_to_end"]
    assert max(latency) >= 200
    assert sum(value > 50 for value in latency) > 15  # about 40 were due meanwhile
    queue, first = series.samples["queue"], series.samples["ttft"]
    assert first == [1.0 + waited for waited in queue]
    closed = run_loop(one_slow(), length, kernel=still())
    assert sum(value > 50 for value in closed.samples["end_to_end"]) < 10
    assert "queue" not in closed.samples


def test_throttling_is_seen() -> None:
    """The kernel slows down half way; the whole run is called throttled, with the reason."""
    slow = [False]
    kernel = ReferenceKernel(lambda: compute(4.0 if slow[0] else 2.0), calm)
    count = itertools.count()

    def request() -> dict[str, list[float]]:
        if next(count) > 30:
            slow[0] = True
        wait(40, [])
        return {}

    length = Length(samples=60, seconds=0.0, limit_s=None, once=1, warm_up_s=0.0)
    series = run_loop(request, length, kernel=kernel)
    assert len(series.checks) >= 4  # before, during, after
    assert not series.checks[0].throttled
    assert series.checks[-1].throttled
    assert series.checks[-1].ratio > LIMIT
    assert series.checks[-1].conditions == calm()
    verdict = judge_loop_phase("end_to_end", series)
    assert verdict.word == "throttled"
    assert "times its start" in verdict.reasons[0]
    assert "cool" in verdict.reasons[0]


def test_a_burst_is_not_throttling() -> None:
    """A neighbour who takes the core, or its cache for some of the tries, is not heat."""
    held_up_s = [0.0]

    def held_up() -> None:
        compute(2.0)
        time.sleep(held_up_s[0])  # off the core

    kernel = ReferenceKernel(held_up, calm)
    held_up_s[0] = 0.01
    assert not kernel.check(0.0).throttled
    count = itertools.count()
    kernel = ReferenceKernel(lambda: compute(8.0 if next(count) % 3 else 2.0), calm)
    assert not kernel.check(1.0).throttled


def test_drift_between_halves() -> None:
    assert drift([1.0] * 9) is None
    assert drift([1.0] * 5 + [1.1] * 5) == pytest.approx(0.1)
    steady = Series({"end_to_end": [1.0] * 20}, [], 1.0, WarmUp(10, 1.0, [], steady=True), 1.0, [])
    assert judge_loop_phase("end_to_end", steady).word == "steady"
    steady.samples["end_to_end"][10:] = [1.1] * 10
    verdict = judge_loop_phase("end_to_end", steady)
    assert verdict.word == "not steady"
    assert "10.0 % slower" in verdict.reasons[0]
    few = Series({"end_to_end": [1.0]}, [], 1.0, WarmUp(10, 1.0, [], steady=True), 1.0, [])
    assert judge_loop_phase("end_to_end", few).word == "few samples"
    cold = Series({"end_to_end": [1.0] * 20}, [], 1.0, WarmUp(3, 1.0, [], steady=False), 1.0, [])
    assert judge_loop_phase("end_to_end", cold).word == "not steady"


@pytest.mark.parametrize("count", [304, 306, 308, 310])
def test_turns_of_different_work_are_judged_whole(count: int) -> None:
    """10 and 20 ms in turn, which neither rise nor fall; and 5 % that are seen all the same."""
    random = np.random.default_rng(count)
    times = np.array([10.0, 20.0, 20.0] * 200)[: count + 1] * random.normal(1, 0.005, count + 1)
    warmed = WarmUp(10, 1.0, [], steady=True)
    series = Series({"end_to_end": times.tolist()}, [0.0] * (count + 1), 1, warmed, 1.0, [], turn=3)
    assert judge_loop_phase("end_to_end", series).word == "steady"
    series.samples["end_to_end"][count // 2 :] = (1.05 * times[count // 2 :]).tolist()
    assert judge_loop_phase("end_to_end", series).word == "not steady"
    two = np.array([10.0, 20.0] * 200)[:count] * random.normal(1, 0.005, count)
    assert abs(drift(two.tolist(), 2) or 1) < 0.02
    series.samples["tpot"] = times[::3].tolist()  # of the prompts, one has more than a token
    assert [series.turn_of(name) for name in ("end_to_end", "tpot")] == [3, 1]


def test_warm_up_of_turns_of_different_work() -> None:
    clock = Clock()
    request = slept(clock, lambda i: (10, 30, 30)[i % 3])
    warmed = warm_up(lambda: timed(request, clock)["end_to_end"][0], 100, clock, turn=3)
    assert (warmed.requests, warmed.steady) == (30, True)
    assert warmed.windows_ms == pytest.approx([70 / 3] * 2)


def test_when_the_same_work_comes_again() -> None:
    assert round_of(["a"], 1) is round_of(["a", "a"], 1) is None
    assert round_of(["a", "b"], 1) == round_of(["a", "b", "a", "b"], 1) == 2
    assert round_of(["a", "b", "c", "a"], 1) == 4
    assert [round_of(["a", "b"], batch) for batch in (2, 3)] == [1, 2]


def test_lengths() -> None:
    default = length_of_run(quick=False, seconds=None, samples=None)
    assert not default.is_enough(1023, 100)
    assert not default.is_enough(2000, 59)
    assert default.is_enough(1024, 60)
    quick = length_of_run(quick=True, seconds=None, samples=None)
    assert not quick.is_enough(9, 5)
    assert not quick.is_enough(100, 2.9)
    assert quick.is_enough(10, 3)
    timed_ = length_of_run(quick=False, seconds=2.0, samples=None)
    assert not timed_.is_enough(10**6, 1.9)
    assert not timed_.is_enough(0, 2.1)
    assert timed_.is_enough(1, 2.0)
    counted = length_of_run(quick=False, seconds=None, samples=7)
    assert not counted.is_enough(6, 1e6)
    assert counted.is_enough(7, 0)
    both = length_of_run(quick=False, seconds=2.0, samples=7)
    assert both.is_enough(7, 0.1)
    assert both.is_enough(1, 2.0)
    assert both.part(100, 0.1).is_enough(1, 0.2)


def test_plans_that_cannot_be() -> None:
    length = length_of_run(quick=True, seconds=None, samples=None)
    three = tuple((None, Path(name)) for name in "abc")
    with pytest.raises(UsageError, match="2 resident prompts are too few"):
        Plan(Path(), three, length, resident=2)
    with pytest.raises(UsageError, match="exclude each other"):
        Plan(Path(), (), length, batch=2, rate=1.0)


def test_conditions_of_a_machine(tmp_path: Path) -> None:
    for core, kilohertz in enumerate((1200000, 1800000)):
        policy = tmp_path / f"sys/devices/system/cpu/cpufreq/policy{core}"
        policy.mkdir(parents=True)
        (policy / "scaling_cur_freq").write_text(f"{kilohertz}\n")
        (policy / "scaling_governor").write_text("schedutil\n")
    for zone, heat in enumerate(("45500\n", "52250\n", "")):
        folder = tmp_path / f"sys/class/thermal/thermal_zone{zone}"
        folder.mkdir(parents=True)
        (folder / "temp").write_text(heat)
    found = Conditions.read(tmp_path)
    assert (found.mhz, found.governor, found.temperature_c) == (1800, "schedutil", 52.25)
    nothing = Conditions.read(tmp_path / "nothing")
    assert (nothing.mhz, nothing.governor, nothing.temperature_c) == (None, None, None)
