"""How far a changed model is from its base: the statistics of `llama-perplexity --kl-divergence`.

Formulas and error bars follow tools/perplexity/perplexity.cpp; inputs are per-token numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from ggprune.files.keys import Key
from ggprune.metrics.estimates import (
    Estimate,
    Float64,
    mean_estimate,
    ppl_estimate,
    rms_estimate,
    share_estimate,
)

PERCENTILES = (99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1)


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
    return Distribution(
        mean=mean_estimate(values),
        minimum=float(ordered[0]),
        maximum=float(ordered[-1]),
        percentiles={p: _percentile(ordered, p) for p in PERCENTILES},
    )


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
    nll: Float64,
    base_nll: Float64,
    kld: Float64,
    delta_p: Float64,
    same_top: NDArray[np.bool_],
) -> Divergence:
    """All statistics from per-token values, (n_token,) each."""
    ppl, base_ppl = ppl_estimate(nll), ppl_estimate(base_nll)
    covariance = _covariance_of_means(nll, base_nll)
    ln_ratio = _ln_ratio(nll, base_nll, covariance)
    ratio = math.exp(ln_ratio.value) if ln_ratio.value < 700 else math.inf
    return Divergence(
        base_ppl=base_ppl,
        correlation=_correlation(nll, base_nll, covariance),
        ln_ratio=ln_ratio,
        ratio=Estimate(ratio, ratio * ln_ratio.se, ln_ratio.n),
        difference=_difference(ppl, base_ppl, covariance),
        kld=distribution(kld),
        delta_p=distribution(delta_p),
        rms_delta_p=rms_estimate(delta_p),
        same_top_p=share_estimate(same_top),
    )


def _covariance_of_means(a: Float64, b: Float64) -> float:
    covariance = float(np.mean(a * b)) - float(np.mean(a)) * float(np.mean(b))
    return covariance / max(len(a) - 1, 1)


def _correlation(a: Float64, b: Float64, covariance: float) -> float:
    product = mean_estimate(a).se * mean_estimate(b).se
    return covariance / product if product > 0 else math.nan


def _ln_ratio(nll: Float64, base_nll: Float64, covariance: float) -> Estimate:
    mean, base = mean_estimate(nll), mean_estimate(base_nll)
    variance = mean.se**2 + base.se**2 - 2 * covariance
    return Estimate(mean.value - base.value, math.sqrt(max(variance, 0.0)), mean.n)


def _difference(ppl: Estimate, base: Estimate, covariance: float) -> Estimate:
    variance = ppl.se**2 + base.se**2 - 2 * ppl.value * base.value * covariance
    return Estimate(ppl.value - base.value, math.sqrt(max(variance, 0.0)), ppl.n)
