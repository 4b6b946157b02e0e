"""Which work comes next, and how much of it at once. Knows nothing of workers but their numbers.

A race wants the sets that are left on one chunk after the other. There is work for many only if
later chunks are begun ahead, which is in vain where a set loses meanwhile; and a chunk that several
share is computed as a whole by each of them. So: ahead as far as gives each worker about so many
sets; where that is less than a chunk for each, several share one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Open:
    """What is not begun of a chunk."""

    n_set: int
    n_sharing: int  # workers that have a part of it, or its state
    is_urgent: bool  # the race waits for it


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Found by simulation: benchmarks/cluster_model.py."""

    sets_each: int = 16  # ahead, for each worker
    group: int = 8  # sets of a task, at most
    group_alone: int = 16  # on a single worker
    n_ahead: int | None = None  # chunks ahead, whatever the number of sets

    def n_ahead_of(self, n_worker: int, n_set: int, n_left: int, *, is_sure: bool) -> int:
        """Chunks to begin beyond the one that is asked for, of `n_left` behind it.

        None on a worker alone; if all of them are surely wanted, as many as give each worker two.
        """
        if n_set < 1 or (n_worker < 2 and not is_sure):
            return 0
        if self.n_ahead is not None:
            ahead = self.n_ahead
        elif is_sure:
            ahead = 2 * n_worker - 1
        else:
            ahead = max(0, -(-n_worker * self.sets_each // n_set) - 1)
        return min(ahead, n_left)

    def n_share(self, n_worker: int, n_ahead: int) -> int:
        """Workers that share a chunk."""
        return max(1, n_worker // (1 + n_ahead))

    def pick(
        self, chunks: Mapping[int, Open], held: Collection[int], n_share: int, *, is_idle: bool
    ) -> int | None:
        """The chunk to go on with for a worker that has the state of the chunks `held`.

        `chunks` are those with open sets, lowest first. None: nothing is worth it.
        """
        urgent = (n for n, open_ in chunks.items() if open_.is_urgent)
        for n in urgent:
            if n in held or not chunks[n].n_sharing:
                return n
        has_own = any(n in held for n in chunks)
        for n, open_ in chunks.items():
            if n in held:
                return n
            if open_.n_sharing < n_share and (open_.is_urgent or not has_own):
                return n
        # Helping costs a pass through the whole model.
        return next((n for n, open_ in chunks.items() if is_idle and open_.n_set > 1), None)

    def n_take(self, n_set: int, n_share: int, n_worker: int) -> int:
        """Sets of an open chunk to take at once."""
        most = self.group if n_worker > 1 else self.group_alone
        return max(1, min(most, -(-n_set // n_share)))
