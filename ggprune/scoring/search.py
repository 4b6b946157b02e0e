"""Finds the cheapest set of so many layers: sets are measured, not added up from single layers.

The best pair is not the best layer and the second best, and after each removal the order changes.
All sets that are measured can be removed exactly, and race against each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from ggprune.arch import first_legal, legal_drop, shortest_runs
from ggprune.errors import ArchitectureError, UsageError
from ggprune.scoring.choice import Step, Strategy
from ggprune.scoring.measure import Layers, Measurer
from ggprune.scoring.metrics import Float64, mean_estimate
from ggprune.scoring.race import ranked, survivors

Progress = Callable[[str], object]  # told what is measured now

TOLERANCE = 0.03  # of the KL divergence: sets that are closer need not be told apart
MAX_SETS = 5000  # for the exhaustive search
MAX_ROUNDS = 8  # of exchanges
MAX_EXCHANGES = 256  # tried in one round: the most promising ones, and others at random


class Search:
    """What has been tried so far, and the legal sets that can be."""

    def __init__(
        self,
        measurer: Measurer,
        *,
        protect: frozenset[int] = frozenset(),
        confidence: float = 0.95,
        is_enough: Callable[[Layers], bool] = lambda _: True,
        order: Sequence[int] | None = None,
        windows: Float64 | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        """`is_enough` says of a set of the size looked for whether it reaches the target; the
        others are those of `choose_set`."""
        self.measurer, self.model, self.confidence = measurer, measurer.model, confidence
        self.layers = [n for n in measurer.layers if n not in protect]
        self.is_enough, self.order, self.windows = is_enough, order, windows
        self.rng = np.random.default_rng(seed)
        self.progress: Progress = progress or (lambda _: None)
        self.steps: list[Step] = []
        self.grown: list[Layers] = [()]  # by greedy, one out of the other
        self.found: dict[int, Layers] = {}  # the best set of a size
        self.single: dict[int, float] = {}  # KLD of single layers, as far as it was measured

    def find(self, strategy: Strategy, n: int) -> Layers:
        """A set of n layers. Raises ArchitectureError if none can be removed exactly."""
        find = {
            Strategy.ONESHOT: self.oneshot,
            Strategy.GREEDY: self.greedy,
            Strategy.WINDOW: self.window,
            Strategy.SEARCH: self.refined,
            Strategy.EXHAUSTIVE: self.exhaustive,
        }[strategy]
        self.found[n] = drop = find(n)
        return drop

    def oneshot(self, n: int) -> Layers:
        """The lowest single layers, or the first of the order that can go together."""
        order = self.order
        if order is None:
            singles: list[Layers] = [(layer,) for layer in self.layers]
            order = [layer for (layer,) in ranked(self.race("single layers", singles, n))]
        drop = first_legal(self.model, [layer for layer in order if layer in self.layers], n)
        if drop is None or not self.is_allowed(drop, n):
            raise self.impossible(n)
        return drop

    def greedy(self, n: int) -> Layers:
        """Add the cheapest layer, or the shortest run that can go, until there are enough."""
        drop = next(s for s in reversed(self.grown) if len(s) <= n)
        while len(drop) < n:
            sets = self.wider(drop, n)
            if not sets:
                return self.oneshot(n)  # no way of legal steps leads to that many
            drop = self.best(f"{len(drop)} gone", sets, n, within=drop)
            if drop not in self.grown:
                self.grown.append(drop)
            self.found.setdefault(len(drop), drop)
        return drop

    def wider(self, drop: Layers, n: int) -> list[Layers]:
        """Legal sets with one layer more; where there are none, with a run of two more, or three.

        With them the shortest runs that can go on their own.
        """
        runs = {r for r in shortest_runs(self.model) if r and len(r) > 1}
        sets = {tuple(sorted({*drop, *run})) for run in runs}
        for length in range(1, n - len(drop) + 1):
            starts = range(self.measurer.arch.n_trunk - length + 1)
            grown = {tuple(sorted({*drop, *range(i, i + length)})) for i in starts}
            found = {s for s in grown if len(s) == len(drop) + length and self.is_allowed(s, n)}
            if found:
                sets |= found
                break
        return [s for s in sorted(sets) if len(drop) < len(s) <= n and self.is_allowed(s, n)]

    def window(self, n: int) -> Layers:
        runs: list[Layers] = [tuple(range(first, first + n)) for first in self.layers]
        if self.windows is None:
            return self.best("runs", runs, n)
        legal = [run for run in runs if self.is_allowed(run, n)]
        if not legal:
            raise self.impossible(n)
        distances = self.windows
        return min(legal, key=lambda run: float(distances[run[0], run[-1] + 1]))

    def refined(self, n: int) -> Layers:
        """Greedy, then exchange one layer for another as long as that is better."""
        drop = self.greedy(n)
        for n_round in range(MAX_ROUNDS):
            better = self.best(f"exchange {n_round + 1}", [drop, *self.exchanges(drop)], n)
            if better == drop:
                break
            drop = better
        return drop

    def exchanges(self, drop: Layers) -> list[Layers]:
        """Sets with one layer exchanged. If they are too many: half those that promise the most by
        their single layers, half at random."""
        pairs = [(old, new) for old in drop for new in self.layers if new not in drop]
        if len(pairs) > MAX_EXCHANGES:
            worth = [self.single.get(new, 0.0) - self.single.get(old, 0.0) for old, new in pairs]
            order = [int(i) for i in np.argsort(worth, kind="stable")]
            half = MAX_EXCHANGES // 2
            order[half:] = [int(i) for i in self.rng.permutation(order[half:])]
            pairs = [pairs[i] for i in order[:MAX_EXCHANGES]]
        return [tuple(sorted({*drop, new} - {old})) for old, new in pairs]

    def exhaustive(self, n: int) -> Layers:
        sets = [s for s in combinations(self.layers, n) if self.is_allowed(s, n)]
        if len(sets) > MAX_SETS:
            raise UsageError(f"{len(sets)} sets are too many to try: use --strategy search")
        return self.best("all sets", sets, n)

    def best(self, what: str, sets: Sequence[Layers], n: int, within: Layers = ()) -> Layers:
        """The winner of a race between the legal ones of these sets."""
        legal = [s for s in sets if self.is_allowed(s, n)]
        if not legal:
            raise self.impossible(n)
        winner: Layers = ranked(self.race(what, legal, 1, within))[0]
        return winner

    def race(
        self, what: str, sets: Sequence[Layers], k: int, within: Layers = ()
    ) -> dict[Layers, list[Float64]]:
        """KL divergences of every set, chunk by chunk, until the lowest k are sure."""
        start, n_pass = time.perf_counter(), self.measurer.effort.n_pass
        seen: dict[Layers, list[Float64]] = {s: [] for s in sets}
        active, n_chunk = list(sets), self.measurer.n_chunk
        for i in range(n_chunk):
            self.progress(f"{what}: {len(active)} sets, chunk {i + 1} of at most {n_chunk}")
            for j in range(i + 1):  # one that comes back catches up
                todo = [s for s in active if len(seen[s]) == j]
                for s, row in zip(todo, self.measurer.measure(j, todo, within), strict=True):
                    seen[s].append(row.kld)
            active = survivors(seen, k, self.confidence, n_chunk, TOLERANCE)
            if not active:
                break
        winner = ranked(seen)[0]
        kld = mean_estimate(np.concatenate(seen[winner]))
        n_pass = self.measurer.effort.n_pass - n_pass
        time_s = time.perf_counter() - start
        self.steps.append(Step(what, winner, kld, len(sets), n_pass, time_s))
        self.single |= {s[0]: float(np.mean(np.concatenate(seen[s]))) for s in sets if len(s) == 1}
        return seen

    @property
    def most(self) -> int:
        """Layers that may go; one stays in any case."""
        return min(len(self.layers), self.measurer.arch.n_trunk - 1)

    def is_allowed(self, drop: Layers, n: int) -> bool:
        """Can these go together, is none of them protected, and are n of them enough?"""
        if not set(drop) <= set(self.layers) or not legal_drop(self.model, drop):
            return False
        return len(drop) < n or self.is_enough(drop)

    def impossible(self, n: int) -> ArchitectureError:
        return ArchitectureError(
            f"{self.model.path}: no set of {n} layers of {self.model.arch} can be removed exactly; "
            "ggprune inspect shows which layers can"
        )
