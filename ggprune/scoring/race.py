"""A race of cuts: which are the lowest, by as few chunks as that takes.

All candidates see the same chunks, so they are compared token by token: the difference of two
layers is known much better than either of them. A candidate leaves as soon as it is surely on its
side of the border between the lowest k and the others; when all are, the race is over. Knows
nothing of models, or of where the rows come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

import numpy as np

from ggprune.metrics.estimates import Float64
from ggprune.model.cut import Cut
from ggprune.scoring.rows import NOTHING, Rows, RowSource

K = TypeVar("K")

# Tokens of a chunk are not independent: the mean of a chunk varies as if it had fewer of them. What
# is assumed before chunks have shown how much, with the weight of so many chunks.
DESIGN_EFFECT = 4.0
N_ASSUMED = 4

# By candidate: per-token numbers of every chunk it has seen; lower is better.
Seen = Mapping[K, Sequence[Float64]]


def kld_of(rows: Rows) -> Float64:
    return rows.kld


@dataclass(frozen=True, kw_only=True)
class RaceRules:
    """What cuts are compared by, and when the race is over."""

    n_lowest: int | None  # that are to be known; None: all cuts see all chunks
    by: Callable[[Rows], Float64] = kld_of  # (n_token,); lower is better
    confidence: float = 0.95  # of all comparisons together
    tolerance: float = 0.0  # share of the value that a wrong order may cost
    within: Cut = NOTHING  # what all cuts contain
    worth: Mapping[Cut, float] | None = None  # by which a cut's numbers are divided


class Race:
    """What every cut has shown so far, and the cuts that need more chunks."""

    def __init__(self, source: RowSource, cuts: Sequence[Cut], rules: RaceRules) -> None:
        self.source, self.rules = source, rules
        self.seen: dict[Cut, list[Float64]] = {cut: [] for cut in cuts}
        self.active = list(cuts)

    def laps(self) -> Iterator[int]:
        """Numbers of the chunks to go through, as long as an order is open."""
        for number in range(self.source.n_chunk):
            yield number
            if not self.active:
                break

    def lap(self, number: int, take: Callable[[Cut, Rows], object] | None = None) -> None:
        """Go through a chunk; `take` is given everything that is measured."""
        seen = {cut: len(self.seen[cut]) for cut in self.active}
        self.source.expect(seen, self.rules.within, is_sure=self.rules.n_lowest is None)
        for earlier in range(number + 1):  # one that comes back catches up
            cuts = [cut for cut in self.active if len(self.seen[cut]) == earlier]
            measured = self.source.rows(earlier, cuts, self.rules.within) if cuts else ()
            for cut, rows in zip(cuts, measured, strict=True):
                worth = self.rules.worth
                self.seen[cut].append(self.rules.by(rows) / (worth[cut] if worth else 1.0))
                if take is not None:
                    take(cut, rows)
        rules, n_chunk = self.rules, self.source.n_chunk
        if (k := rules.n_lowest) is not None:
            self.active = survivors(self.seen, k, rules.confidence, n_chunk, rules.tolerance)


def survivors(
    seen: Seen[K], k: int, confidence: float, n_chunk: int, tolerance: float = 0.0
) -> list[K]:
    """The candidates that need more of the text's `n_chunk` chunks. Empty: the lowest k are known.

    Known is what all chunks would say, or that a wrong choice costs no more than the share
    `tolerance` of the value. One that had left comes back if it is close to another one now.
    `confidence` is that of all comparisons together (Bonferroni).
    """
    if len(seen) <= 1:
        return []
    pairs = undecided_pairs(seen, k, confidence, n_chunk, tolerance)
    open_ = {c for pair in pairs for c in pair}
    return [c for c in ranked(seen) if c in open_]


def undecided_pairs(
    seen: Seen[K], k: int, confidence: float, n_chunk: int | None = None, tolerance: float = 0.0
) -> list[tuple[K, K]]:
    """Pairs that decide which the lowest k are and whose order is not sure.

    All of the lowest k against the next one, and all others against the k-th. Without `n_chunk`:
    not sure for any text of this kind, rather than for the rest of this one.
    """
    order = ranked(seen)
    z = NormalDist().inv_cdf(1 - (1 - confidence) / len(order))
    last = min(k, len(order) - 1)
    pairs = [(c, order[last]) for c in order[:last]]
    pairs += [(order[last - 1], c) for c in order[last + 1 :]]
    return [(a, b) for a, b in pairs if not is_worse(seen[b], seen[a], z, n_chunk, tolerance)]


def ranked(seen: Seen[K]) -> list[K]:
    """Candidates by their mean, lowest first."""
    return sorted(seen, key=lambda c: float(np.mean(np.concatenate(list(seen[c])))))


def is_worse(
    a: Sequence[Float64],
    b: Sequence[Float64],
    z: float,
    n_chunk: int | None = None,
    tolerance: float = 0.0,
) -> bool:
    """Is a's mean above b's by more than z standard errors of the paired difference?

    With a `tolerance`, above b's mean less that share of it.

    Paired over the chunks both have seen. The variance of a chunk's mean is that of its tokens and
    that between the chunks in one (a scaled inverse chi-squared prior with N_ASSUMED degrees of
    freedom), so the difference follows Student's t. With `n_chunk` chunks in all, those not seen
    are what is uncertain (finite population correction).
    """
    n = min(len(a), len(b))
    differences = [x - y for x, y in zip(a[:n], b[:n], strict=True)]
    tokens = np.concatenate(differences)
    means = np.array([d.mean() for d in differences])
    assumed = DESIGN_EFFECT * float(np.var(tokens)) * n / len(tokens)
    between = float(np.square(means - means.mean()).sum())
    n_free = N_ASSUMED + n - 1
    error = math.sqrt((N_ASSUMED * assumed + between) / n_free / n)
    unseen = 1.0 if n_chunk is None else max(1 - n / n_chunk, 0.0)
    allowed = tolerance * float(np.mean(np.concatenate(b[:n])))
    # The quantile of Student's t where the normal one is z (Abramowitz and Stegun 26.7.5).
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    student = z + first / n_free + second / n_free**2
    return float(tokens.mean()) + allowed > student * error * math.sqrt(unseen)
