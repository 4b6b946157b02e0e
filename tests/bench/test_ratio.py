from __future__ import annotations

import math

import numpy as np
import pytest

from ggprune.bench.ratio import N_LEAST, Ratio, Wanted, paired_ratio, t_quantile


@pytest.mark.parametrize(
    ("p", "df", "t"),  # from tables of Student's t
    [
        (0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 3, 3.182), (0.975, 4, 2.776),
        (0.975, 9, 2.262), (0.975, 30, 2.042), (0.95, 5, 2.015), (0.995, 10, 3.169),
    ],
)  # fmt: skip
def test_quantiles_of_student(p: float, df: int, t: float) -> None:
    assert t_quantile(p, df) == pytest.approx(t, abs=6e-4)


def test_a_known_interval() -> None:
    ratio = paired_ratio([math.e**1, math.e**2, math.e**3], [1, 1, 1])
    half = 4.302653 * 1 / math.sqrt(3)
    assert ratio.value == pytest.approx(math.e**2)
    assert ratio.low == pytest.approx(math.exp(2 - half), rel=1e-6)
    assert ratio.high == pytest.approx(math.exp(2 + half), rel=1e-6)
    assert ratio.n == 3


def test_what_slows_down_both_cancels() -> None:
    machine = [1.0, 0.5, 2.0, 0.1]
    ratio = paired_ratio([1.25 * speed for speed in machine], machine)
    assert ratio.low == pytest.approx(1.25) == ratio.high


def test_one_pair_has_no_interval() -> None:
    ratio = paired_ratio([3.0], [2.0])
    assert ratio.value == pytest.approx(1.5)
    assert ratio.low is ratio.high is None


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        noise = rng.normal(0, 0.1, 5)
        ratio = paired_ratio([math.exp(x) for x in noise], [1.0] * 5)
        assert ratio.low is not None
        assert ratio.high is not None
        hits += ratio.low <= 1 <= ratio.high
    assert 925 <= hits <= 975


def test_how_wide_an_interval_is_and_on_which_side() -> None:
    ratio = Ratio(value=1.25, low=1.2, high=1.3, n=5)
    assert ratio.width == pytest.approx(0.08)
    assert (ratio.is_above(1.1), ratio.is_above(1.4)) == (True, False)
    assert ratio.is_above(1.2) is ratio.is_above(1.25) is ratio.is_above(1.3) is None
    once = Ratio(value=1.25, low=None, high=None, n=1)
    assert once.width == math.inf
    assert once.is_above(1.0) is None


def test_ratios_are_known_when_all_that_are_asked_for_are_narrow() -> None:
    steady, noisy = [1.0] * 5, [1.0, 1.1, 1.0, 1.1, 1.0]
    assert Wanted(pairs=((1, 0),)).is_reached([steady, [2.0] * 5, noisy])
    assert not Wanted(pairs=((1, 0), (2, 0))).is_reached([steady, steady, noisy])
    assert Wanted(pairs=((2, 0),), width=0.2).is_reached([steady, steady, noisy])
    assert not Wanted(pairs=((1, 0),)).is_reached([steady[1:], steady[1:]])  # too few to tell


def test_intervals_of_repetitions_that_stopped_in_time_hold_the_truth() -> None:
    """Looking after every repetition costs some of the confidence, and not much."""
    rng, wanted, hits, n_taken = np.random.default_rng(1), Wanted(pairs=((1, 0),)), 0, 0
    for _ in range(200):
        samples: list[list[float]] = [[], []]
        while not wanted.is_reached(samples):
            for own in samples:
                own.append(math.exp(rng.normal(0, 0.02)))
        ratio = paired_ratio(*samples)
        assert ratio.low is not None and ratio.high is not None
        assert ratio.width < 0.03
        hits += ratio.low <= 1 <= ratio.high
        n_taken += ratio.n
    assert hits >= 175
    assert N_LEAST < n_taken / 200 < 25  # 2 * 1.96 * 0.02 * sqrt(2 / n) = 0.03: n = 14
