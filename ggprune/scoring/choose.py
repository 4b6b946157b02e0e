"""Which layers to drop together: sets are measured, not added up from single layers.

The best pair is not the best layer and the second best, and after each removal the order changes.
All sets that are measured can be removed exactly, and race against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations
from typing import Any

import numpy as np

from ggprune.arch import choose_legal, legal_drop, shortest_runs
from ggprune.errors import ArchitectureError, UsageError
from ggprune.scoring.measure import Layers, Measurer, Rows
from ggprune.scoring.metrics import Estimate, mean_estimate, ppl_estimate
from ggprune.scoring.race import ranked, survivors

Progress = Callable[[str], object]  # told what is measured now

MAX_SETS = 5000  # for the exhaustive search
MAX_ROUNDS = 8  # of swaps


class Strategy(str, Enum):
    """How a set is found."""

    ONESHOT = "oneshot"  # the lowest single layers
    GREEDY = "greedy"  # one after the other, measured anew each time (SLEB)
    WINDOW = "window"  # the best run of neighbours (Gromov et al.)
    SEARCH = "search"  # greedy, then exchanges of one layer while they help (as EvoPress mutates)
    EXHAUSTIVE = "exhaustive"  # every set


@dataclass(frozen=True)
class Step:
    """One race: the set that won it."""

    what: str
    drop: Layers
    kld: Estimate
    n_set: int


@dataclass(frozen=True)
class Choice:
    """A set of layers, what dropping it costs, and how it was found."""

    strategy: Strategy
    drop: Layers
    kld: Estimate  # nats, on all chunks
    ppl: Estimate
    steps: tuple[Step, ...]

    @property
    def n_set(self) -> int:
        return sum(step.n_set for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        return {
            "strategy": self.strategy.value,
            "drop": list(self.drop),
            "kld": self.kld.to_json(),
            "ppl": self.ppl.to_json(),
            "n_set": self.n_set,
            "steps": [
                {"what": s.what, "drop": list(s.drop), "kld": s.kld.to_json(), "n_set": s.n_set}
                for s in self.steps
            ],
        }


def parse_strategy(name: str) -> Strategy:
    """Raises UsageError for an unknown name."""
    try:
        return Strategy(name)
    except ValueError as e:
        raise UsageError(f"--strategy {name}: one of {', '.join(s.value for s in Strategy)}") from e


def choose_set(
    measurer: Measurer,
    n_drop: int,
    strategy: Strategy = Strategy.SEARCH,
    *,
    protect: Iterable[int] = (),
    confidence: float = 0.95,
    progress: Progress | None = None,
) -> Choice:
    """The set of `n_drop` layers, none of `protect`, whose removal costs the least KL divergence.

    Raises ArchitectureError if no such set can be removed exactly, UsageError if an exhaustive
    search would have more than MAX_SETS sets.
    """
    search = _Search(measurer, n_drop, frozenset(protect), confidence, progress)
    find = {
        Strategy.ONESHOT: search.oneshot,
        Strategy.GREEDY: search.greedy,
        Strategy.WINDOW: search.window,
        Strategy.SEARCH: search.refined,
        Strategy.EXHAUSTIVE: search.exhaustive,
    }
    drop = find[strategy]()
    rows = [measurer.measure(i, [drop])[0] for i in range(measurer.n_chunk)]
    if progress is not None:
        progress("")
    return Choice(
        strategy,
        drop,
        mean_estimate(np.concatenate([row.kld for row in rows])),
        ppl_estimate(np.concatenate([row.nll for row in rows])),
        tuple(search.steps),
    )


class _Search:
    """What has been tried so far, and the legal sets that can be."""

    def __init__(
        self,
        measurer: Measurer,
        n_drop: int,
        protect: frozenset[int],
        confidence: float,
        progress: Progress | None,
    ) -> None:
        self.measurer, self.n_drop, self.confidence = measurer, n_drop, confidence
        self.progress, self.steps = progress, list[Step]()
        self.layers = [n for n in range(measurer.arch.n_trunk) if n not in protect]

    def oneshot(self) -> Layers:
        singles: list[Layers] = [(n,) for n in self.layers]
        seen = self.race("single layers", singles, self.n_drop)
        order = [layer for (layer,) in ranked(seen)]
        drop = choose_legal(self.measurer.model, order, self.n_drop)
        if drop is None:
            raise self.impossible()
        return drop

    def greedy(self) -> Layers:
        """Add the cheapest layer, or the shortest run that can go, until there are enough."""
        drop: Layers = ()
        while len(drop) < self.n_drop:
            sets = self.wider(drop)
            if not sets:
                return self.oneshot()  # no way of legal steps leads to that many
            drop = self.best(f"{len(drop)} gone", sets, within=drop)
        return drop

    def wider(self, drop: Layers) -> list[Layers]:
        """Legal sets with one layer more; where there are none, with a run of two more, or three.

        With them the shortest runs that can go on their own.
        """
        room = self.n_drop - len(drop)
        runs = {r for r in shortest_runs(self.measurer.model) if r and len(r) > 1}
        sets = {tuple(sorted({*drop, *run})) for run in runs}
        for length in range(1, room + 1):
            starts = range(self.measurer.arch.n_trunk - length + 1)
            grown = {tuple(sorted({*drop, *range(n, n + length)})) for n in starts}
            found = {s for s in grown if len(s) == len(drop) + length and self.is_allowed(s)}
            if found:
                sets |= found
                break
        return [s for s in sorted(sets) if len(drop) < len(s) <= self.n_drop and self.is_allowed(s)]

    def window(self) -> Layers:
        runs = (tuple(range(n, n + self.n_drop)) for n in self.layers)
        return self.best("runs", list(runs))

    def refined(self) -> Layers:
        """Greedy, then exchange one layer for another as long as that is better."""
        drop = self.greedy()
        for n_round in range(MAX_ROUNDS):
            others = [n for n in self.layers if n not in drop]
            swaps = [tuple(sorted({*drop, new} - {old})) for old in drop for new in others]
            better = self.best(f"exchange {n_round + 1}", [drop, *swaps])
            if better == drop:
                break
            drop = better
        return drop

    def exhaustive(self) -> Layers:
        sets = [s for s in combinations(self.layers, self.n_drop) if self.is_allowed(s)]
        if len(sets) > MAX_SETS:
            raise UsageError(f"{len(sets)} sets are too many to try: use --strategy search")
        return self.best("all sets", sets)

    def best(self, what: str, sets: Sequence[Layers], within: Layers = ()) -> Layers:
        """The winner of a race between the legal ones of these sets."""
        legal = [s for s in sets if self.is_allowed(s)]
        if not legal:
            raise self.impossible()
        seen = self.race(what, legal, 1, within)
        winner: Layers = ranked(seen)[0]
        return winner

    def race(
        self, what: str, sets: Sequence[Layers], k: int, within: Layers = ()
    ) -> dict[Layers, list[Any]]:
        """KL divergences of every set, chunk by chunk, until the lowest k are sure."""
        rows: dict[Layers, list[Rows]] = {s: [] for s in sets}
        active: list[Layers] = list(sets)
        for i in range(self.measurer.n_chunk):
            if self.progress is not None:
                self.progress(f"{what}: {len(active)} sets, chunk {i + 1}")
            for j in range(i + 1):
                todo = [s for s in active if len(rows[s]) == j]
                for s, row in zip(todo, self.measurer.measure(j, todo, within), strict=True):
                    rows[s].append(row)
            seen = {s: [row.kld for row in r] for s, r in rows.items()}
            active = survivors(seen, k, self.confidence, self.measurer.n_chunk)
            if not active:
                break
        winner = ranked(seen)[0]
        self.steps.append(
            Step(what, winner, mean_estimate(np.concatenate(seen[winner])), len(sets))
        )
        return seen

    def is_allowed(self, drop: Layers) -> bool:
        """Can these go together, and is none of them protected?"""
        return set(drop) <= set(self.layers) and legal_drop(self.measurer.model, drop)

    def impossible(self) -> ArchitectureError:
        model = self.measurer.model
        return ArchitectureError(
            f"{model.path}: no set of {self.n_drop} layers of {model.arch} can be removed exactly; "
            "ggprune inspect shows which layers can"
        )
