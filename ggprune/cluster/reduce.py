"""Sums over chunks that many workers make, with the bits of one process.

Groups of chunks are fixed, and summed in the order of the chunks; a fixed binary tree adds the
groups, from worker to worker. Nothing of it depends on who computes what. Sums are as large as a
layer is wide, squared: they never come to the coordinator, and only who holds the root has the
whole. A summand must give the same bits everywhere; products by BLAS depend on its threads, which
`ggprune worker` has as many of as its machine has cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ggprune.cluster import engine
from ggprune.cluster.crew import FETCH_S, Crew
from ggprune.cluster.inorder import MAX_LOST
from ggprune.cluster.roll import TIMEOUTS
from ggprune.cluster.work import Engine, Setup
from ggprune.errors import LlamaAbortError
from ggprune.metrics.chunks import Chunk
from ggprune.metrics.estimates import Float64

T = TypeVar("T")
N_GROUP = 64
# What is summed: of an engine and a chunk; an array, or whatever can be added.
Summand = Callable[[Engine, Chunk], Any]


@dataclass(frozen=True)
class Group:
    """Chunks that one worker sums."""

    numbers: tuple[int, ...]
    tokens: tuple[bytes, ...]


def groups_of(chunks: Sequence[Chunk], n_group: int = N_GROUP) -> list[Group]:
    """As even as it goes; never more than there are chunks."""
    n = min(n_group, len(chunks))
    return [
        Group(
            tuple(int(i) for i in part), tuple(chunks[int(i)].tokens.tobytes() for i in part),
        )
        for part in np.array_split(np.arange(len(chunks)), n)
    ]  # fmt: skip


def reduce(crew: Crew, groups: Sequence[Group], summand: Summand, finish: Callable[[Any], T]) -> T:
    """`finish` of the sum, called where the sum is; what it returns is what comes home.

    Both functions must be importable by workers. Raises what they raise.
    """
    for _ in range(MAX_LOST):
        crew.gather()
        places = sorted(crew.members)
        futures = _submitted(crew, places, groups, summand, finish)
        try:
            if _is_done(crew, futures[-1], places):
                done: T = futures[-1].result(timeout=FETCH_S)
                return done
        except TIMEOUTS:  # whoever had it is gone
            pass
        finally:  # all are gone that had a part: anew, with those that are there
            crew.forget(futures)
    raise LlamaAbortError(f"{MAX_LOST} times all workers ended over a sum")


def _submitted(
    crew: Crew, places: Sequence[str], groups: Sequence[Group], summand: Summand,
    finish: Callable[[Any], object],
) -> list[Any]:  # fmt: skip
    """Futures of all sums, and of what is made of the last one."""
    futures = []

    def submit(function: Callable[..., object], *args: object) -> Any:
        futures.append(crew.submit_to(places, function, *args))
        return futures[-1]

    sums = [submit(sum_group, crew.setup, summand, group) for group in groups]
    submit(finish, in_tree(sums, lambda a, b: submit(add, a, b)))
    return futures


def _is_done(crew: Crew, future: Any, places: Sequence[str]) -> bool:
    """Wait for it; False if nobody is left who could compute it."""

    def is_over() -> bool:
        return bool(future.done()) or not set(places) & set(crew.members)

    for _ in crew.events_until(is_over):
        pass
    return bool(future.done()) and future.status != "cancelled"


def in_tree(level: Sequence[T], add: Callable[[T, T], T]) -> T:
    """Neighbours are added, then their sums, until one is left."""
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        level = [add(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0]


def sum_group(setup: Setup, summand: Summand, group: Group) -> Any:
    """In a worker."""
    with engine.using(setup) as mine:
        return sum_chunks(mine, summand, group)


def sum_chunks(mine: Engine, summand: Summand, group: Group) -> Any:
    """In the order of the chunks, in float64."""
    total = None
    for number, tokens in zip(group.numbers, group.tokens, strict=True):
        part = np.asarray(summand(mine, Chunk(number, np.frombuffer(tokens, np.int32))), np.float64)
        total = part if total is None else total + part
    return total


def add(a: Float64, b: Float64) -> Float64:
    return a + b
