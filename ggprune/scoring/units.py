"""Finds the cheapest set of attentions and FFNs that takes as much with it as a set of layers.

An attention and an FFN do not take the same: sets grow by what they lose for what they take, and
are then exchanged for others that take enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np

from ggprune.arch.footprint import Footprint, footprints_of
from ggprune.model.cut import Cut
from ggprune.scoring.race import ranked
from ggprune.scoring.rows import NOTHING
from ggprune.scoring.target import Goal, Target

if TYPE_CHECKING:
    from ggprune.scoring.search import Search

MAX_ROUNDS = 8  # of exchanges
MAX_TRIED = 128  # of one round: half those that promise the most, half at random
MAX_BACK, MAX_OUT = 2, 2  # units that come back, and that leave for them


class UnitSearch:
    """What has been tried so far, beside a search of layers."""

    def __init__(self, search: Search, target: Target | None) -> None:
        self.search, self.model, self.target = search, search.model, target
        footprints = footprints_of(self.model)
        self.without, self.whole = footprints.without, footprints.without(NOTHING)
        allowed = search.source.divided.intersection(search.layers)
        self.units = [2 * n + half for n in sorted(allowed) for half in (0, 1)]
        self.single: dict[int, float] = {}  # KLD of single units

    def find(self, base: Cut) -> Cut:
        """A set that takes as much as `base`, which reaches the target, and loses no more."""
        needed = self.taken(base)
        if self.target is not None and self.target.goal in _NEEDED:
            needed = min(needed, _NEEDED[self.target.goal](self.whole, self.target.value))

        def is_enough(cut: Cut) -> bool:
            return self.taken(cut) >= needed

        grown = self._grown(needed)
        if grown is None:
            return base
        drop = self._best("layers or units", [base, grown])
        for n_round in range(MAX_ROUNDS):
            sets = [drop, *self._exchanges(drop, is_enough)]
            better = self._best(f"units exchanged {n_round + 1}", sets)
            if better == drop:
                break
            drop = better
        return drop

    def taken(self, cut: Cut) -> float:
        """What the target counts: bytes of the file, parameters, or bytes read for a token."""
        after = self.without(cut)
        goal = self.target.goal if self.target is not None else Goal.SPEEDUP
        if goal is Goal.SIZE:
            return self.whole.size_bytes - after.size_bytes
        if goal is Goal.PARAMS:
            return self.whole.n_param - after.n_param
        return self.whole.token_bytes - after.token_bytes

    def _grown(self, needed: float) -> Cut | None:
        """One unit after the other, by what a set loses for what it takes of the needed."""
        drop = NOTHING
        while self.taken(drop) < needed:
            gone = frozenset(drop.units)
            sets = [Cut.of_units({*gone, unit}) for unit in self.units if unit not in gone]
            worth = {cut: min(self.taken(cut), needed) for cut in sets}
            more = min(self.taken(drop), needed)
            legal = [c for c in sets if worth[c] > more and self.search.is_possible(c)]
            if not legal:
                return None
            what = f"{len(gone)} units gone"
            seen = self.search.race(what, legal, 1, within=drop, worth=worth)
            if not gone:
                self.single = {
                    cut.units[0]: float(np.mean(np.concatenate(list(rows)))) * worth[cut]
                    for cut, rows in seen.items()
                }
            drop = ranked(seen)[0]
        return drop

    def _exchanges(self, drop: Cut, is_enough: Callable[[Cut], bool]) -> list[Cut]:
        """Legal sets that take enough, with one or two units exchanged for none to two others."""
        gone = frozenset(drop.units)
        others = [unit for unit in self.units if unit not in gone]
        promise: dict[Cut, float] = {}
        for back in _some(sorted(gone), 1, MAX_BACK):
            for out in _some(others, 0, MAX_OUT):
                cut = Cut.of_units(gone.difference(back).union(out))
                if is_enough(cut):
                    promise[cut] = sum(map(self._lost, out)) - sum(map(self._lost, back))
        order = sorted(promise, key=promise.__getitem__)
        first = order[: MAX_TRIED // 2]
        rest = order[MAX_TRIED // 2 :]
        drawn = self.search.rng.permutation(len(rest))[: MAX_TRIED // 2]
        chosen = [*first, *(rest[int(i)] for i in drawn)]
        return [cut for cut in chosen if self.search.is_possible(cut)]

    def _lost(self, unit: int) -> float:
        return self.single.get(unit, 0.0)

    def _best(self, what: str, sets: Sequence[Cut]) -> Cut:
        return ranked(self.search.race(what, sets, 1))[0]


def pair_exchanges(drop: Cut, n_layer: int) -> list[Cut]:
    """Sets with an attention and an FFN of `drop` exchanged for two others that are neighbours in
    what remains, the nearest first; none that differs from it in whole layers alone."""
    distance: dict[Cut, float] = {}
    for back in combinations(drop.units, 2):
        gone = set(drop.units).difference(back)
        left = [unit for unit in range(2 * n_layer) if unit not in gone]
        if [unit % 2 for unit in left] != [0, 1] * (len(left) // 2):
            continue  # attention and FFN would not take turns
        for pair in pairwise(left):
            new = Cut.of_units(gone.union(pair))
            if not (new.is_whole and drop.is_whole):  # those have been tried
                apart = abs(sum(pair) - sum(back)) / 2
                distance[new] = min(apart, distance.get(new, apart))
    distance.pop(drop, None)
    return sorted(distance, key=distance.__getitem__)


def _some(units: Sequence[int], least: int, most: int) -> list[tuple[int, ...]]:
    sizes = range(least, most + 1)
    return list(chain.from_iterable(combinations(units, size) for size in sizes))


# What a target wants to be taken of the whole model.
_NEEDED: dict[Goal, Callable[[Footprint, float], float]] = {
    Goal.SIZE: lambda whole, value: whole.size_bytes - value,
    Goal.PARAMS: lambda whole, value: whole.n_param - value,
    Goal.SPEEDUP: lambda whole, value: whole.token_bytes * (1 - 1 / value),
}
