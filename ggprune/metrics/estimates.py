"""Measured numbers with their errors: means, perplexities, all of `--kl-divergence`.

All formulas and error bars are llama-perplexity's (tools/perplexity/perplexity.cpp); inputs are
numbers per token, sums run in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from ggprune.files.keys import LEFT_OUT, Key

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
PERCENTILES = (99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1)


@dataclass(frozen=True)
class Estimate:
    """A measured number, its standard error and the number of tokens it rests on."""

    value: float
    se: float
    n: Annotated[int, LEFT_OUT] = 0  # 0: it was read from a document, which does not say


def mean_estimate(values: Float64) -> Estimate:
    """Mean and its standard error, sqrt((E[x^2] - E[x]^2) / (n - 1))."""
    n, mean = len(values), float(np.mean(values))
    variance = float(np.mean(np.square(values))) - mean * mean
    return Estimate(mean, math.sqrt(max(variance, 0.0) / max(n - 1, 1)), n)


def ppl_estimate(nll: Float64) -> Estimate:
    """Perplexity, exp(mean nll)."""
    return exp_estimate(mean_estimate(nll))


def exp_estimate(mean: Estimate) -> Estimate:
    """What a mean logarithm stands for; its error follows from the mean's to first order."""
    value = math.exp(mean.value) if mean.value < 700 else math.inf
    return Estimate(value, value * mean.se, mean.n)


def rms_estimate(values: Float64) -> Estimate:
    """Root of the mean square; its error follows from the mean square's to first order."""
    square = mean_estimate(np.square(values))
    rms = math.sqrt(square.value)
    return Estimate(rms, 0.5 * square.se / rms if rms > 0 else 0.0, square.n)


def share_estimate(hits: NDArray[np.bool_]) -> Estimate:
    """Share of true values with the binomial error sqrt(p (1 - p) / (n - 1))."""
    n, share = len(hits), float(np.mean(hits))
    return Estimate(share, math.sqrt(share * (1 - share) / max(n - 1, 1)), n)


@dataclass(frozen=True)
class Distribution:
    """Mean, extremes and percentiles of a per-token quantity."""

    mean: Estimate
    minimum: Annotated[float, Key(name="min")]
    maximum: Annotated[float, Key(name="max")]
    percentiles: Annotated[dict[float, float], "99.9 to 0.1 % of the tokens have less"]


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The three blocks that llama-perplexity prints."""

    base_ppl: Estimate
    correlation: Annotated[float, "of ln PPL(model) and ln PPL(base), -1 to 1"]
    ln_ratio: Annotated[Estimate, Key(name="ln_ppl_ratio"), "its error is paired token by token"]
    ratio: Annotated[Estimate, Key(name="ppl_ratio"), "PPL(model) / PPL(base)"]
    difference: Annotated[Estimate, Key(name="ppl_difference")]
    kld: Annotated[Distribution, "KL(base || model) of the tokens, nats"]
    delta_p: Annotated[Distribution, "change of the probability of the token that came, -1 to 1"]
    rms_delta_p: Estimate
    same_top_p: Annotated[Estimate, "share of tokens where both find the same token most likely"]


def distribution(values: Float64) -> Distribution:
    ordered = np.sort(values)
    percentiles = {p: _percentile(ordered, p) for p in PERCENTILES}
    return Distribution(mean_estimate(values), float(ordered[0]), float(ordered[-1]), percentiles)


def _percentile(ordered: Float64, percent: float) -> float:
    """Between two neighbours; the place is a float32, as there, which shows in the tails."""
    if percent == 50.0:
        return float(np.median(ordered))
    place = np.float32(percent / 100) * np.float32(len(ordered) - 1)
    below = int(place)
    share = float(np.float32(place - below))
    above = min(below + 1, len(ordered) - 1)
    return (1 - share) * float(ordered[below]) + share * float(ordered[above])


def divergence(
    nll: Float64, base_nll: Float64, kld: Float64, delta_p: Float64, same_top: NDArray[np.bool_]
) -> Divergence:
    """All statistics from per-token values, (n_token,) each."""
    mean, base_mean = mean_estimate(nll), mean_estimate(base_nll)
    ppl, base_ppl = exp_estimate(mean), exp_estimate(base_mean)
    covariance = float(np.mean(nll * base_nll)) - mean.value * base_mean.value
    covariance /= max(mean.n - 1, 1)  # of the means
    errors = mean.se * base_mean.se
    ln_ratio = _difference(mean, base_mean, 2 * covariance)
    return Divergence(
        base_ppl=base_ppl,
        correlation=covariance / errors if errors > 0 else math.nan,
        ln_ratio=ln_ratio,
        ratio=exp_estimate(ln_ratio),
        difference=_difference(ppl, base_ppl, 2 * ppl.value * base_ppl.value * covariance),
        kld=distribution(kld),
        delta_p=distribution(delta_p),
        rms_delta_p=rms_estimate(delta_p),
        same_top_p=share_estimate(same_top),
    )


def _difference(a: Estimate, b: Estimate, shared: float) -> Estimate:
    """`shared`: twice the covariance, which a difference of the two does not have."""
    variance = a.se**2 + b.se**2 - shared
    return Estimate(a.value - b.value, math.sqrt(max(variance, 0.0)), a.n)
