"""Which layers to drop: as few as reach a target, or as many as limits allow.

A set is searched for size by size; what was found on the way is kept beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ggprune.arch.footprint import footprints_of
from ggprune.arch.hparams import n_trunk
from ggprune.errors import ArchitectureError, DataError, UsageError
from ggprune.metrics.estimates import Estimate, Float64, mean_estimate, ppl_estimate
from ggprune.metrics.text import Text
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.model.unit import Unit
from ggprune.progress import SILENT, Progress
from ggprune.runtime.compute import Compute
from ggprune.scoring.choice import Alternative, Choice, Point, Strategy
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.ranking import Ranking
from ggprune.scoring.remembered import RememberedRows, RowsOpener, open_rows
from ggprune.scoring.rows import NOTHING, Rows
from ggprune.scoring.search import Search, SearchOptions
from ggprune.scoring.target import DropRequest, Target, check_units, sizes_to_try


@dataclass(frozen=True, kw_only=True)
class ChooseOptions:
    """How sets of layers are measured on top of a ranking."""

    n_chunk: int | None = None  # None: on the chunks that the ranking had
    compute: Compute | None = None
    cache: Path | None = None  # folder for finished measurements
    confidence: float = 0.95
    keep_bytes: int | None = None  # as `MeasureOptions`


def choose(
    model: Model,
    text: Text,
    ranking: Ranking,
    request: DropRequest,
    options: ChooseOptions | None = None,
    progress: Progress = SILENT,
    rows_of: RowsOpener = open_rows,
) -> Choice:
    """A set of layers on top of a finished ranking of the model on this text, as `choose_set`.

    What the ranking protected stays.
    """
    options = options or ChooseOptions()
    n_ctx, n_chunk = ranking.calibration.n_ctx, ranking.calibration.n_chunk_limit
    measuring = MeasureOptions(
        n_ctx=n_ctx, n_chunk=options.n_chunk or n_chunk, compute=options.compute,
        cache=options.cache, unit=ranking.unit, keep_bytes=options.keep_bytes,
        halves=request.halves and ranking.unit is Unit.LAYER,
    )  # fmt: skip
    search = search_options(model, ranking, options.confidence)
    with rows_of(model, text, measuring, progress) as source:
        return choose_set(model, source, request, search, progress)


def search_options(model: Model, ranking: Ranking, confidence: float) -> SearchOptions:
    """What a ranking says before a search begins."""
    return SearchOptions(
        protect=frozenset(ranking.by.protected(n_trunk(model))), confidence=confidence,
        order=ranking.order, unit=ranking.unit,
        windows=ranking.run_distances if ranking.unit is Unit.LAYER else None,
    )  # fmt: skip


def choose_set(
    model: Model,
    source: RememberedRows,
    request: DropRequest,
    options: SearchOptions | None = None,
    progress: Progress = SILENT,
) -> Choice:
    """The set of layers that reaches the target and costs the least KL divergence; without a
    target the largest one that the limits allow.

    Raises ArchitectureError if no such set can be removed exactly, UsageError if the target cannot
    be reached or an exhaustive search would have more than MAX_SETS sets, DataError if the set
    exceeds the limits.
    """
    options = options or SearchOptions()
    protect = options.protect.union(request.protect)
    options = replace(options, protect=protect, target=request.target)
    check_units(model, request, options.unit)
    target, progress = request.target, progress.part("choose")
    wanted = target if target is not None else "as many layers as the limits allow"
    strategy = request.strategy.value
    progress.begin(f"{wanted} by {strategy}, on at most {source.n_chunk} chunks a set")
    chooser = _Chooser(model, source, request, options, progress)
    choice = chooser.beside(chooser.within() if target is None else chooser.reaching(target))
    progress.say("")
    return choice


class _Chooser:
    """Goes through the sizes of sets, and measures what was found on all chunks."""

    def __init__(
        self,
        model: Model,
        source: RememberedRows,
        request: DropRequest,
        options: SearchOptions,
        progress: Progress,
    ) -> None:
        self.model, self.source, self.request, self.progress = model, source, request, progress
        self.footprints = footprints_of(model)
        self.n_found = 0  # layers of the set that was chosen, or of one that takes as much
        self.search = Search(model, source, options, self.is_enough, progress)

    def is_enough(self, drop: Cut) -> bool:
        target, without = self.request.target, self.footprints.without
        return target is None or target.is_reached(without(()), without(drop))

    def reaching(self, target: Target) -> Point:
        """The set with the fewest layers that reaches the target."""
        for n in sizes_to_try(self.model, target, self.search.most, self.search.options.unit):
            drop = self.find(n, is_only=target.n_drop(self.model) is not None)
            if drop is not None and self.is_enough(drop):
                (point,) = self.points([drop])
                if (exceeded := self.exceeded(point)) is not None:
                    raise DataError(f"{target}: {exceeded}")
                self.n_found = n
                return point
        raise UsageError(f"{target}: no set of layers that can be removed reaches it")

    def within(self) -> Point:
        """The largest set that the limits allow; the first size beyond them ends it."""
        best, reason = None, "no layer can be removed"
        for n in sizes_to_try(self.model, None, self.search.most):
            drop = self.find(n)
            if drop is None:
                continue
            (point,) = self.points([drop])
            if (exceeded := self.exceeded(point)) is not None:
                reason = exceeded
                break
            best, self.n_found = point, n
        if best is None:
            raise DataError(f"{self.model.path}: {reason}")
        return best

    def exceeded(self, point: Point) -> str | None:
        exceeded = self.request.limits.exceeded(point.kld, point.ppl_ratio)
        return f"without layers {point.drop}: {exceeded}" if exceeded is not None else None

    def find(self, n: int, *, is_only: bool = False) -> Cut | None:
        """None if no set of that size can be removed; an error if no other size will do."""
        try:
            return self.search.find(self.request.strategy, n)
        except ArchitectureError:
            if is_only:
                raise
            return None

    def beside(self, best: Point) -> Choice:
        """With smaller sets that were found on the way, and those of simpler strategies."""
        n_drop, by_size = self.n_found, self.search.by_size
        is_healed = self.request.strategy is Strategy.HEALED
        candidates = self.points(self.search.candidates(n_drop)) if is_healed else []
        smaller = [by_size[n] for n in sorted(by_size) if n < n_drop]
        simpler = self.simpler(n_drop)
        points = self.points([*smaller, *simpler.values()])
        others = zip(simpler, points[len(smaller) :], strict=True)
        whole = Point(
            drop=NOTHING, kld=Estimate(0.0, 0.0, len(self.base_nll)),
            ppl=ppl_estimate(self.base_nll), ppl_ratio=Estimate(1.0, 0.0, len(self.base_nll)),
            footprint=self.footprints.without(()), speedup=1.0,
        )  # fmt: skip
        return Choice(
            strategy=self.request.strategy, best=best,
            front=(whole, *points[: len(smaller)], best),
            others=tuple(Alternative(strategy, point) for strategy, point in others),
            steps=tuple(self.search.steps), candidates=tuple(candidates),
        )  # fmt: skip

    def simpler(self, n: int) -> dict[Strategy, Cut]:
        """The sets of simpler strategies, which cost nothing to find by now."""
        search, strategy = self.search, self.request.strategy
        sets: dict[Strategy, Cut | None] = {}
        shifted = (Strategy.SEARCH, Strategy.UNITS)
        if strategy in (Strategy.GREEDY, Strategy.WHOLE, Strategy.HEALED, *shifted):
            order = search.options.order or sorted(search.single, key=search.single.__getitem__)
            sets[Strategy.ONESHOT] = search.first_of(order, n)
        if strategy is Strategy.UNITS:
            sets[Strategy.SEARCH] = search.paired.get(n)
        if strategy in shifted and self.source.divided:
            sets[Strategy.WHOLE] = search.whole.get(n)
        if strategy in (Strategy.WHOLE, Strategy.HEALED, *shifted):
            sets[Strategy.GREEDY] = next((cut for cut in search.grown if len(cut) == n), None)
        return {s: drop for s, drop in sets.items() if drop is not None and self.is_enough(drop)}

    def points(self, sets: Sequence[Cut]) -> list[Point]:
        rows: dict[Cut, list[Rows]] = {drop: [] for drop in sets}
        n_chunk = self.source.n_chunk if sets else 0
        for i in range(n_chunk):
            self.source.expect(dict.fromkeys(rows, i), is_sure=True)
            said = f"measuring {len(rows)} sets, chunk {i + 1} of {n_chunk}"
            self.progress.say(said, i / n_chunk)
            for kept, row in zip(rows.values(), self.source.rows(i, list(rows)), strict=True):
                kept.append(row)
        return [self.point(drop, rows[drop]) for drop in sets]

    def point(self, drop: Cut, rows: Sequence[Rows]) -> Point:
        nll = np.concatenate([row.nll for row in rows])
        return Point(
            drop=drop, kld=mean_estimate(np.concatenate([row.kld for row in rows])),
            ppl=ppl_estimate(nll),
            ppl_ratio=ppl_estimate(nll - self.base_nll),  # paired: the same tokens
            footprint=self.footprints.without(drop), speedup=self.footprints.speedup(drop),
        )  # fmt: skip

    @cached_property
    def base_nll(self) -> Float64:
        return np.concatenate([self.source.base_nll(i) for i in range(self.source.n_chunk)])
