"""A measured number with its error: means, perplexities, shares over tokens.

All formulas and error bars are llama-perplexity's (tools/perplexity/perplexity.cpp); sums run in
float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from ggprune.files.keys import LEFT_OUT

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A measured number, its standard error and the number of tokens it rests on."""

    value: float
    se: float
    n: Annotated[int, LEFT_OUT] = 0  # 0: it was read from a document, which does not say


def mean_estimate(values: Float64) -> Estimate:
    """Mean and its standard error, sqrt((E[x^2] - E[x]^2) / (n - 1))."""
    n = len(values)
    mean = float(np.mean(values))
    variance = float(np.mean(np.square(values))) - mean * mean
    return Estimate(mean, math.sqrt(max(variance, 0.0) / max(n - 1, 1)), n)


def ppl_estimate(nll: Float64) -> Estimate:
    """Perplexity exp(mean nll); its error follows from the mean's to first order."""
    mean = mean_estimate(nll)
    ppl = math.exp(mean.value) if mean.value < 700 else math.inf
    return Estimate(ppl, ppl * mean.se, mean.n)


def rms_estimate(values: Float64) -> Estimate:
    """Root of the mean square; its error follows from the mean square's to first order."""
    square = mean_estimate(np.square(values))
    rms = math.sqrt(square.value)
    return Estimate(rms, 0.5 * square.se / rms if rms > 0 else 0.0, square.n)


def share_estimate(hits: NDArray[np.bool_]) -> Estimate:
    """Share of true values with the binomial error sqrt(p (1 - p) / (n - 1))."""
    n, share = len(hits), float(np.mean(hits))
    return Estimate(share, math.sqrt(share * (1 - share) / max(n - 1, 1)), n)
