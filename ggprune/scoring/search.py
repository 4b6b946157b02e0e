"""Finds the cheapest set of so many layers: sets are measured, not added up from single layers.

The best pair is not the best layer and the second best, and after each removal the order changes.
All sets that are measured can be removed exactly, and race against each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ggprune.arch.hparams import n_trunk
from ggprune.arch.legal import first_legal, legal_cut, no_set, shortest_runs
from ggprune.errors import ArchitectureError, UsageError
from ggprune.metrics.estimates import Float64, mean_estimate
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.model.unit import Unit
from ggprune.progress import SILENT, Progress
from ggprune.scoring.choice import Step, Strategy
from ggprune.scoring.race import Race, RaceRules, Seen, ranked
from ggprune.scoring.rows import NOTHING, RowSource
from ggprune.scoring.target import Target
from ggprune.scoring.units import UnitSearch, pair_exchanges

TOLERANCE = 0.03  # of the KL divergence: sets that are closer need not be told apart
MAX_SETS = 5000  # for the exhaustive search
MAX_ROUNDS = 8  # of exchanges
N_LOWEST, N_RUN = 3, 3  # sets and runs that are compared once they are healed
MAX_EXCHANGES = 256  # tried in one round: the most promising ones, and others at random


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What a search goes by, and what is known before it begins."""

    protect: frozenset[int] = frozenset()
    confidence: float = 0.95
    order: Sequence[int] | None = None  # least important first: in place of a race of single layers
    unit: Unit = Unit.LAYER  # what leaves: layers, or their attentions, or their FFNs
    target: Target | None = None  # what sets of units take is counted by
    windows: Float64 | None = None  # as `Ranking.windows`: in place of a race of runs
    seed: int = 0  # draws the exchanges of a large search


class Search:
    """What has been tried so far, and the legal sets that can be."""

    def __init__(
        self,
        model: Model,
        source: RowSource,
        options: SearchOptions,
        is_enough: Callable[[Cut], bool] = lambda _: True,
        progress: Progress = SILENT,
    ) -> None:
        """`is_enough` says of a set of the size looked for whether it reaches the target."""
        self.model, self.source, self.options = model, source, options
        self.layers = [n for n in source.parts if n not in options.protect]
        self.is_enough, self.progress = is_enough, progress
        self.rng = np.random.default_rng(options.seed)
        self.steps: list[Step] = []
        self.grown = [NOTHING]  # by greedy, one out of the other
        self.whole: dict[int, Cut] = {}  # the best sets of whole layers, by `refined`
        self.paired: dict[int, Cut] = {}  # the best sets of pairs of units, by `shifted`
        self.by_size: dict[int, Cut] = {}  # the best set of a size, as far as one was looked for
        self.seen: Seen[Cut] = {}  # by the last race
        self.by_unit: UnitSearch | None = None
        self.single: dict[int, float] = {}  # KLD of single layers, as far as it was measured

    def find(self, strategy: Strategy, n: int) -> Cut:
        """A set of n layers. Raises ArchitectureError if none can be removed exactly."""
        find = {
            Strategy.ONESHOT: self.oneshot, Strategy.GREEDY: self.greedy,
            Strategy.WINDOW: self.window, Strategy.WHOLE: self.refined,
            Strategy.SEARCH: self.shifted, Strategy.EXHAUSTIVE: self.exhaustive,
            Strategy.HEALED: self.refined, Strategy.UNITS: self.apart,
        }[strategy]  # fmt: skip
        self.by_size[n] = drop = find(n)
        return drop

    def cut(self, layers: Iterable[int]) -> Cut:
        """What leaves of these layers."""
        return Cut.of(layers, self.options.unit)

    def oneshot(self, n: int) -> Cut:
        """The lowest single layers, or the first of the order that can go together."""
        order = self.options.order
        if order is None:
            singles = [self.cut((layer,)) for layer in self.layers]
            order = [cut.layers[0] for cut in ranked(self.race("single layers", singles, n))]
        drop = self.first_of(order, n)
        if drop is None or not self.is_allowed(drop, n):
            raise self.impossible(n)
        return drop

    def first_of(self, order: Sequence[int], n: int) -> Cut | None:
        free = [layer for layer in order if layer in self.layers]
        layers = first_legal(self.model, free, n, self.options.unit)
        return self.cut(layers) if layers is not None else None

    def greedy(self, n: int) -> Cut:
        """Add the cheapest layer, or the shortest run that can go, until there are enough."""
        drop = next(cut for cut in reversed(self.grown) if len(cut) <= n)
        while len(drop) < n:
            sets = self.wider(drop, n)
            if not sets:
                return self.oneshot(n)  # no way of legal steps leads to that many
            drop = self.best(f"{len(drop)} gone", sets, n, within=drop)
            if drop not in self.grown:
                self.grown.append(drop)
            self.by_size.setdefault(len(drop), drop)
        return drop

    def wider(self, drop: Cut, n: int) -> list[Cut]:
        """Legal sets with one layer more; where there are none, with a run of two more, or three.

        With them the shortest runs that can go on their own.
        """
        is_whole = self.options.unit is Unit.LAYER
        shortest = shortest_runs(self.model) if is_whole else ()
        sets = {drop | Cut.of(run) for run in shortest if run and len(run) > 1}
        for length in range(1, n - len(drop) + 1):
            starts = range(n_trunk(self.model) - length + 1)
            grown = {drop | self.cut(range(i, i + length)) for i in starts}
            legal = {s for s in grown if len(s) == len(drop) + length and self.is_allowed(s, n)}
            if legal:
                sets |= legal
                break
        return [s for s in sorted(sets) if len(drop) < len(s) <= n and self.is_allowed(s, n)]

    def window(self, n: int) -> Cut:
        runs = [self.cut(range(first, first + n)) for first in self.layers]
        if self.options.unit is not Unit.LAYER:
            return self.best("runs", runs, n)
        distances = self.options.windows
        between = [Cut.of_units(range(2 * i + 1, 2 * (i + n) + 1)) for i in self.layers]
        shifted = [run for run in between if self.is_allowed(run, n)]
        if distances is None:
            return self.best("runs", [*runs, *shifted], n)
        legal = self.allowed(runs, n)
        best = min(legal, key=lambda run: float(distances[run.layers[0], run.layers[-1] + 1]))
        return self.best("runs", [best, *shifted], n) if shifted else best

    def candidates(self, n: int) -> list[Cut]:
        """Sets of n layers that may be better once they are healed: the lowest of the last race,
        and the best runs."""
        lowest = [cut for cut in ranked(self.seen) if len(cut) == n][:N_LOWEST]
        runs = [self.cut(range(first, first + n)) for first in self.layers]
        legal = [run for run in runs if self.is_allowed(run, n)]
        distances = self.options.windows
        if distances is not None:
            legal.sort(key=lambda run: float(distances[run.layers[0], run.layers[-1] + 1]))
        elif legal:
            legal = list(ranked(self.race("runs", legal, min(N_RUN, len(legal)))))
        return list(dict.fromkeys([*lowest, *legal[:N_RUN]]))

    def refined(self, n: int) -> Cut:
        """Greedy, then exchange one layer for another as long as that is better."""
        drop = self.greedy(n)
        for n_round in range(MAX_ROUNDS):
            better = self.best(f"exchange {n_round + 1}", [drop, *self.exchanges(drop)], n)
            if better == drop:
                break
            drop = better
        self.whole[n] = drop
        return drop

    def shifted(self, n: int) -> Cut:
        """The best set of whole layers, then exchange an attention and an FFN for others that are
        neighbours in what remains, as long as that is better."""
        drop = self.refined(n)
        for n_round in range(MAX_ROUNDS if self.source.divided else 0):
            sets = [drop, *self.shifts(drop, n)]
            better = self.best(f"half-shift {n_round + 1}", sets, n)
            if better == drop:
                break
            drop = better
        self.paired[n] = drop
        return drop

    def apart(self, n: int) -> Cut:
        """The best set of attentions and FFNs that takes as much with it, together or alone."""
        if self.by_unit is None:
            self.by_unit = UnitSearch(self, self.options.target)
        return self.by_unit.find(self.shifted(n))

    def shifts(self, drop: Cut, n: int) -> list[Cut]:
        """Sets with a pair of units exchanged; of many, the nearest ones and others at random."""
        sets = pair_exchanges(drop, n_trunk(self.model))
        near = [cut for cut in sets if self.is_allowed(cut, n)]
        if len(near) > MAX_EXCHANGES:
            half = MAX_EXCHANGES // 2
            others = self.rng.permutation(len(near) - half)[: MAX_EXCHANGES - half]
            near = [*near[:half], *(near[half + int(i)] for i in others)]
        return near

    def exchanges(self, drop: Cut) -> list[Cut]:
        """Sets with one layer exchanged. If they are too many: half those that promise the most by
        their single layers, half at random."""
        gone = drop.layers
        pairs = [(old, new) for old in gone for new in self.layers if new not in gone]
        if len(pairs) > MAX_EXCHANGES:
            worth = [self.single.get(new, 0.0) - self.single.get(old, 0.0) for old, new in pairs]
            order = [int(i) for i in np.argsort(worth, kind="stable")]
            half = MAX_EXCHANGES // 2
            order[half:] = [int(i) for i in self.rng.permutation(order[half:])]
            pairs = [pairs[i] for i in order[:MAX_EXCHANGES]]
        return [self.cut({*gone, new} - {old}) for old, new in pairs]

    def exhaustive(self, n: int) -> Cut:
        sets = [s for s in map(self.cut, combinations(self.layers, n)) if self.is_allowed(s, n)]
        if len(sets) > MAX_SETS:
            raise UsageError(f"{len(sets)} sets are too many to try: use --strategy search")
        return self.best("all sets", sets, n)

    def best(self, what: str, sets: Sequence[Cut], n: int, within: Cut = NOTHING) -> Cut:
        return ranked(self.race(what, self.allowed(sets, n), 1, within))[0]

    def race(
        self, what: str, sets: Sequence[Cut], n_lowest: int, within: Cut = NOTHING,
        worth: Mapping[Cut, float] | None = None,
    ) -> dict[Cut, list[Float64]]:  # fmt: skip
        """KL divergences of every set, chunk by chunk, until the lowest ones are sure.

        With `worth` they compete, and are told, by what a set loses for each unit of that.
        """
        start, n_pass = time.perf_counter(), self.source.effort.n_pass
        sure = self.options.confidence
        rules = RaceRules(
            n_lowest=n_lowest, confidence=sure, tolerance=TOLERANCE, within=within, worth=worth
        )
        race, n_chunk = Race(self.source, sets, rules), self.source.n_chunk
        for i in race.laps():
            n_set = len(race.active)
            said = f"{what}: {n_set} sets, chunk {i + 1} of at most {n_chunk}"
            self.progress.say(said, i / n_chunk)
            race.lap(i)
        self.seen = race.seen
        winner = ranked(race.seen)[0]
        lost = np.concatenate(race.seen[winner]) * (worth[winner] if worth else 1.0)
        step = Step(
            what=what, drop=winner, kld=mean_estimate(lost),
            n_set=len(sets), n_pass=self.source.effort.n_pass - n_pass,
            time_s=time.perf_counter() - start,
        )  # fmt: skip
        self.steps.append(step)
        if worth is None:
            singles = {cut: rows for cut, rows in race.seen.items() if len(cut) == 1}
            self.single |= {
                cut.layers[0]: float(np.mean(np.concatenate(rows)))
                for cut, rows in singles.items()
                if cut == self.cut(cut.layers)
            }
        return race.seen

    @property
    def most(self) -> int:
        """Layers that may go; one stays in any case."""
        return min(len(self.layers), n_trunk(self.model) - 1)

    def allowed(self, sets: Iterable[Cut], n: int) -> list[Cut]:
        """The legal ones of these sets. Raises ArchitectureError if there are none."""
        legal = [cut for cut in sets if self.is_allowed(cut, n)]
        if not legal:
            raise self.impossible(n)
        return legal

    def is_allowed(self, drop: Cut, n: int) -> bool:
        """Can these go together, is none of them protected, and are n of them enough?"""
        return self.is_possible(drop) and (drop.count < n or self.is_enough(drop))

    def is_possible(self, drop: Cut) -> bool:
        """Can these go together, and is none of them protected?"""
        halves = {piece.layer for piece in drop if piece.unit is not Unit.LAYER}
        known = self.layers if self.options.unit is not Unit.LAYER else self.source.divided
        if not (set(drop.layers) <= set(self.layers) and halves <= set(known)):
            return False
        return legal_cut(self.model, drop)

    def impossible(self, n: int) -> ArchitectureError:
        return no_set(self.model, n, self.options.unit)
