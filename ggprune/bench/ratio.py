"""How much faster one model is than another, from repetitions in which they took turns.

A repetition of both ran on the machine as it was at that moment: so each gives one ratio, and what
slows the machine down for a while cancels. The interval is Student's, on the logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

CONFIDENCE = 0.95
WIDTH = 0.03  # of an interval, from end to end, as a share of the ratio
N_LEAST = 5  # repetitions before an interval is believed: by chance, two or three may agree


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Geometric mean of the ratios, and the interval that holds the true one; None for one pair."""

    value: Annotated[float, "geometric mean of the ratios"]
    low: Annotated[float | None, "Student's interval, on the logarithms; null for one pair"]
    high: float | None
    n: Annotated[int, "pairs of repetitions"]
    confidence: float = CONFIDENCE

    @property
    def width(self) -> float:
        """Of the interval, as a share of the value; infinite where there is none."""
        if self.low is None or self.high is None:
            return math.inf
        return (self.high - self.low) / self.value

    def is_above(self, value: float) -> bool | None:
        """None where the interval holds the value, or there is none: not known."""
        if self.low is None or self.high is None or self.low <= value <= self.high:
            return None
        return self.low > value


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How well ratios are to be known, and what that may cost at most."""

    pairs: tuple[tuple[int, int], ...]  # models whose speeds are compared: above, below
    width: float = WIDTH  # that every interval is narrower than
    n_most: int = 100  # repetitions
    most_s: float = 120.0  # of one test of all models; -r takes what it takes

    def is_reached(self, samples: Sequence[Sequence[float]]) -> bool:
        """`samples` are the times of every model, taken in turns."""
        if any(len(times) < N_LEAST for times in samples):
            return False
        ratios = (paired_ratio(samples[below], samples[above]) for above, below in self.pairs)
        return all(ratio.width < self.width for ratio in ratios)


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """Of `above` to `below`, whose i-th values were measured side by side; all positive."""
    logs = np.log(np.asarray(above, np.float64)) - np.log(np.asarray(below, np.float64))
    n, mean = len(logs), float(np.mean(logs))
    if n < 2:
        return Ratio(value=math.exp(mean), low=None, high=None, n=n)
    half = t_quantile((1 + CONFIDENCE) / 2, n - 1) * float(np.std(logs, ddof=1)) / math.sqrt(n)
    return Ratio(value=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half), n=n)


def t_quantile(p: float, df: int) -> float:
    """Student's t that is not exceeded with probability p, 0.5 <= p < 1; by bisection."""
    low, high = 0.0, 1.0
    while _t_cdf(high, df) < p:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


def _t_cdf(t: float, df: int) -> float:
    """For t >= 0, as a finite sum: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    theta = math.atan(t / math.sqrt(df))
    cos2 = math.cos(theta) ** 2
    is_odd = df % 2 == 1
    term = math.cos(theta) if is_odd else 1.0
    total = term if df > 1 else 0.0
    for k in range(3 if is_odd else 2, df - 1, 2):
        term *= cos2 * (k - 1) / k
        total += term
    inside = math.sin(theta) * total
    inside = 2 / math.pi * (theta + inside) if is_odd else inside
    return 0.5 + inside / 2
