"""Sets of layers that can be removed exactly: the nearest ones, and the cheapest ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, islice

from ggprune.arch.architecture import is_legal
from ggprune.arch.removal import n_trunk
from ggprune.model import Model

MAX_TRIES = 20_000


def legal_drop(model: Model, drop: Sequence[int], *, trust: bool = False) -> bool:
    """Can these layers be removed together? Raises ArchitectureError if none can ever be."""
    gone = set(drop)
    keep = [n for n in range(model.n_layer) if n not in gone]
    return bool(keep) and is_legal(model, keep, trust=trust)


def smallest_legal(model: Model, layer: int) -> tuple[int, ...] | None:
    """The shortest run with this layer that can be removed, of those the nearest around it."""
    for length in range(1, model.n_layer):
        starts = range(max(0, layer - length + 1), min(layer, model.n_layer - length) + 1)
        for start in sorted(starts, key=lambda s: abs(2 * s + length - 1 - 2 * layer)):
            if legal_drop(model, range(start, start + length)):
                return tuple(range(start, start + length))
    return None


def nearest_legal(
    model: Model, drop: Sequence[int], n: int = 3, *, trust: bool = False
) -> tuple[tuple[int, ...], ...]:
    """Up to `n` legal sets close to `drop`: of its size if possible, else runs a little longer."""
    wanted = set(drop)

    def distance(candidate: tuple[int, ...]) -> tuple[int, int]:
        differ = wanted ^ set(candidate)
        return len(differ), abs(sum(candidate) - sum(wanted))

    near = sorted(set(_neighbours(model, tuple(sorted(wanted)))), key=distance)
    legal = (c for c in near if c != tuple(sorted(wanted)) and legal_drop(model, c, trust=trust))
    return tuple(islice(legal, n))


def _neighbours(model: Model, drop: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Sets that differ in one layer, and runs of every length up to a few more layers."""
    layers = range(model.n_layer)
    for i in range(len(drop)):
        rest = drop[:i] + drop[i + 1 :]
        if rest:
            yield rest
        for other in layers:
            if other not in drop:
                yield tuple(sorted((*rest, other)))
    for length in range(1, min(len(drop) + 8, model.n_layer)):
        for start in range(model.n_layer - length + 1):
            yield tuple(range(start, start + length))


def choose_legal(model: Model, order: Sequence[int], k: int) -> tuple[int, ...] | None:
    """The legal set of `k` layers that comes first in `order` (least important first).

    Sets are tried with the layers at the front of the order first; None if none of them is legal.
    MTP blocks are never chosen: they cost nothing in perplexity and are not part of it.
    """
    order = [layer for layer in order if layer < n_trunk(model)]
    tries = (set_ for reach in range(k, len(order) + 1) for set_ in _reaching(order, k, reach))
    for candidate in islice(tries, MAX_TRIES):
        if legal_drop(model, candidate):
            return tuple(sorted(candidate))
    return None


def _reaching(order: Sequence[int], k: int, reach: int) -> Iterator[tuple[int, ...]]:
    """Sets of k of the first `reach` layers that contain the last of those."""
    for rest in combinations(order[: reach - 1], k - 1):
        yield (*rest, order[reach - 1])
