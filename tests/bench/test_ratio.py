from __future__ import annotations

import math

import numpy as np
import pytest

from ggprune.bench import paired_ratio
from ggprune.bench.ratio import t_quantile


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
