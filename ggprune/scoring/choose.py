"""Which layers to drop: as few as reach a target, or as many as limits allow.

A set is searched for size by size; what was found on the way is kept beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ggprune.arch import first_legal
from ggprune.errors import ArchitectureError, DataError, UsageError
from ggprune.model.footprint import Footprints
from ggprune.scoring.choice import Choice, Point, Strategy
from ggprune.scoring.measure import Layers, Measurer, Rows
from ggprune.scoring.metrics import Estimate, Float64, mean_estimate, ppl_estimate
from ggprune.scoring.search import Progress, Search
from ggprune.scoring.target import NO_LIMITS, Limits, Target, footprints_of, sizes_to_try
from ggprune.surgery import format_layers


@dataclass(frozen=True)
class Wanted:
    """The set that is looked for: how many layers, how, and what must not happen."""

    target: Target | None
    strategy: Strategy = Strategy.SEARCH
    limits: Limits = NO_LIMITS
    protect: tuple[int, ...] = ()  # layers that stay


def choose_set(
    measurer: Measurer,
    wanted: Wanted,
    *,
    confidence: float = 0.95,
    order: Sequence[int] | None = None,
    windows: Float64 | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Choice:
    """The set of layers that reaches the target and costs the least KL divergence; without a
    target the largest one that the limits allow.

    `order` (least important first) replaces the race of single layers for `oneshot`, `windows` (as
    `Ranking.windows`) that of runs for `window`. `seed` draws the exchanges of a large search.

    Raises ArchitectureError if no such set can be removed exactly, UsageError if the target cannot
    be reached or an exhaustive search would have more than MAX_SETS sets, DataError if the set
    exceeds the limits.
    """
    target, limits = wanted.target, wanted.limits
    if target is None and not limits:
        raise UsageError("say how many layers are to go: --drop, --target-size, --max-kld, ...")
    footprints = footprints_of(measurer.model)
    whole = footprints.without(())

    def is_enough(drop: Layers) -> bool:
        return target is None or target.is_reached(whole, footprints.without(drop))

    search = Search(
        measurer, protect=frozenset(wanted.protect), confidence=confidence, is_enough=is_enough,
        order=order, windows=windows, seed=seed, progress=progress,
    )  # fmt: skip
    chooser = _Chooser(search, wanted.strategy, footprints)
    best = chooser.within(limits) if target is None else chooser.reaching(target, limits)
    choice = chooser.beside(best)
    search.progress("")
    return choice


class _Chooser:
    """Goes through the sizes of sets, and measures what was found on all chunks."""

    def __init__(self, search: Search, strategy: Strategy, footprints: Footprints) -> None:
        self.search, self.strategy, self.footprints = search, strategy, footprints
        self.measurer, self.model = search.measurer, search.measurer.model

    def reaching(self, target: Target, limits: Limits) -> Point:
        """The set with the fewest layers that reaches the target."""
        for n in sizes_to_try(self.model, target, self.search.most):
            drop = self.find(n, is_only=target.n_drop(self.model) is not None)
            if drop is not None and self.search.is_enough(drop):
                (point,) = self.points([drop])
                exceeded = limits.exceeded(point.kld, point.ppl_ratio)
                if exceeded is not None:
                    raise DataError(f"{target}: without layers {format_layers(drop)}: {exceeded}")
                return point
        raise UsageError(f"{target}: no set of layers that can be removed reaches it")

    def within(self, limits: Limits) -> Point:
        """The largest set that the limits allow; the first size beyond them ends it."""
        best, reason = None, "no layer can be removed"
        for n in sizes_to_try(self.model, None, self.search.most):
            drop = self.find(n)
            if drop is None:
                continue
            (point,) = self.points([drop])
            exceeded = limits.exceeded(point.kld, point.ppl_ratio)
            if exceeded is not None:
                reason = f"without layers {format_layers(drop)}: {exceeded}"
                break
            best = point
        if best is None:
            raise DataError(f"{self.model.path}: {reason}")
        return best

    def find(self, n: int, *, is_only: bool = False) -> Layers | None:
        """None if no set of that size can be removed; an error if no other size will do."""
        try:
            return self.search.find(self.strategy, n)
        except ArchitectureError:
            if is_only:
                raise
            return None

    def beside(self, best: Point) -> Choice:
        """With smaller sets that were found on the way, and those of simpler strategies."""
        n_drop, found = len(best.drop), self.search.found
        smaller = [found[n] for n in sorted(found) if n < n_drop]
        others = self.simpler(n_drop)
        points = self.points([*smaller, *others.values()])
        front = (self.whole(), *points[: len(smaller)], best)
        beside = tuple(zip(others, points[len(smaller) :], strict=True))
        return Choice(self.strategy, best, front, beside, tuple(self.search.steps))

    def simpler(self, n: int) -> dict[Strategy, Layers]:
        """The sets of simpler strategies, which cost nothing to find by now."""
        search, sets = self.search, dict[Strategy, Layers | None]()
        if self.strategy in (Strategy.GREEDY, Strategy.SEARCH):
            order = search.order or sorted(search.single, key=search.single.__getitem__)
            free = [layer for layer in order if layer in search.layers]
            sets[Strategy.ONESHOT] = first_legal(self.model, free, n)
        if self.strategy is Strategy.SEARCH:
            sets[Strategy.GREEDY] = next((s for s in search.grown if len(s) == n), None)
        return {s: drop for s, drop in sets.items() if drop is not None and search.is_enough(drop)}

    def points(self, sets: Sequence[Layers]) -> list[Point]:
        """Measured on all chunks."""
        rows: list[list[Rows]] = [[] for _ in sets]
        n_chunk = self.measurer.n_chunk if sets else 0
        for i in range(n_chunk):
            self.search.progress(f"measuring {len(sets)} sets, chunk {i + 1} of {n_chunk}")
            for found, row in zip(rows, self.measurer.measure(i, sets), strict=True):
                found.append(row)
        return [self.point(drop, r) for drop, r in zip(sets, rows, strict=True)]

    def point(self, drop: Layers, rows: Sequence[Rows]) -> Point:
        nll = np.concatenate([row.nll for row in rows])
        return Point(
            drop,
            mean_estimate(np.concatenate([row.kld for row in rows])),
            ppl_estimate(nll),
            ppl_estimate(nll - self.base_nll()),  # paired: the same tokens
            self.footprints.without(drop),
            self.footprints.speedup(drop),
        )

    def whole(self) -> Point:
        nll = self.base_nll()
        nothing, one = Estimate(0.0, 0.0, len(nll)), Estimate(1.0, 0.0, len(nll))
        return Point((), nothing, ppl_estimate(nll), one, self.footprints.without(()), 1.0)

    def base_nll(self) -> Float64:
        rows = [self.measurer.base_nll(i) for i in range(self.measurer.n_chunk)]
        nll: Float64 = np.concatenate(rows)
        return nll
