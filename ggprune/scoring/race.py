"""A race of cuts: which are the lowest, by as few chunks as that takes.

Knows nothing of models, or of where the rows come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ggprune.metrics.estimates import Float64
from ggprune.model.cut import Cut
from ggprune.scoring.rows import NOTHING, Rows, RowSource
from ggprune.scoring.survivors import survivors


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
        for earlier in range(number + 1):  # one that comes back catches up
            cuts = [cut for cut in self.active if len(self.seen[cut]) == earlier]
            measured = self.source.rows(earlier, cuts, self.rules.within) if cuts else ()
            for cut, rows in zip(cuts, measured, strict=True):
                self.seen[cut].append(self.rules.by(rows))
                if take is not None:
                    take(cut, rows)
        if self.rules.n_lowest is not None:
            rules, n_chunk = self.rules, self.source.n_chunk
            self.active = survivors(
                self.seen, self.rules.n_lowest, rules.confidence, n_chunk, rules.tolerance
            )
