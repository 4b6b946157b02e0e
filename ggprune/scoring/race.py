"""Which candidates need more tokens: a race that stops for those whose place is settled.

All candidates see the same chunks, so they are compared token by token: the difference of two
layers is known much better than either of them. A candidate leaves as soon as it is surely on its
side of the border between the lowest k and the others; when all are, the race is over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import TypeVar

import numpy as np

from ggprune.scoring.metrics import Float64

K = TypeVar("K")
MIN_CHUNKS = 4  # enough of them to tell how much chunks differ

# By candidate: per-token numbers of every chunk it has seen; lower is better.
Seen = Mapping[K, Sequence[Float64]]


def survivors(seen: Seen[K], k: int, confidence: float) -> list[K]:
    """The candidates that need more tokens. Empty: the lowest k are decided.

    One that had left comes back if it is close to another one now.

    `confidence` is that of all comparisons together (Bonferroni).
    """
    order = ranked(seen)
    if len(order) <= 1:
        return []
    if min(map(len, seen.values())) < MIN_CHUNKS:
        return order
    z = NormalDist().inv_cdf(1 - (1 - confidence) / len(order))
    open_ = {c for pair in undecided_pairs(seen, k, z) for c in pair}
    return [c for c in order if c in open_]


def undecided_pairs(seen: Seen[K], k: int, z: float) -> list[tuple[K, K]]:
    """Pairs that decide which the lowest k are and whose order is not sure.

    All of the lowest k against the next one, and all others against the k-th.
    """
    order = ranked(seen)
    last = min(k, len(order) - 1)
    pairs = [(c, order[last]) for c in order[:last]]
    pairs += [(order[last - 1], c) for c in order[last + 1 :]]
    return [(a, b) for a, b in pairs if not is_worse(seen[b], seen[a], z)]


def ranked(seen: Seen[K]) -> list[K]:
    """Candidates by their mean, lowest first."""
    return sorted(seen, key=lambda c: float(np.mean(np.concatenate(list(seen[c])))))


def is_worse(a: Sequence[Float64], b: Sequence[Float64], z: float) -> bool:
    """Is a's mean above b's by more than z standard errors of the paired difference?

    Paired over the chunks both have seen. Tokens of a chunk are not independent, so the error is
    the larger one of the tokens' and of the chunk means'.
    """
    n = min(len(a), len(b))
    differences = [x - y for x, y in zip(a[:n], b[:n], strict=True)]
    tokens = np.concatenate(differences)
    error = float(np.std(tokens)) / math.sqrt(max(len(tokens) - 1, 1))
    if n >= MIN_CHUNKS:
        means = np.array([d.mean() for d in differences])
        spread = math.sqrt((n - 1) / (n - 3))  # of Student's t with n - 1 degrees of freedom
        error = max(error, spread * float(np.std(means, ddof=1)) / math.sqrt(n))
    return float(tokens.mean()) > z * error
