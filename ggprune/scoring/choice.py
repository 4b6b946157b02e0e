"""A chosen set of layers: what it costs, what it gives, how it was found. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from ggprune.arch.footprint import Footprint
from ggprune.errors import UsageError
from ggprune.files.documents import encode
from ggprune.metrics.estimates import Estimate
from ggprune.scoring.measure import Layers


class Strategy(str, Enum):
    """How a set is found."""

    ONESHOT = "oneshot"  # the lowest single layers
    GREEDY = "greedy"  # one after the other, measured anew each time (SLEB)
    WINDOW = "window"  # the best run of neighbours (Gromov et al.)
    SEARCH = "search"  # greedy, then exchanges of one layer while they help (as EvoPress mutates)
    EXHAUSTIVE = "exhaustive"  # every set


@dataclass(frozen=True)
class Step:
    """One race: the set that won it, and what it took."""

    what: str
    drop: Layers
    kld: Estimate
    n_set: int
    n_pass: int
    time_s: float

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "drop": list(self.drop), "kld": encode(self.kld)}


@dataclass(frozen=True)
class Point:
    """A set of layers: what dropping it costs, on all chunks, and what it gives."""

    drop: Layers
    kld: Estimate  # nats
    ppl: Estimate
    ppl_ratio: Estimate  # PPL without / PPL with
    footprint: Footprint
    speedup: float  # of generating, predicted from the bytes read per token

    def to_json(self) -> dict[str, Any]:
        return {
            "n_drop": len(self.drop),
            "drop": list(self.drop),
            "kld": encode(self.kld),
            "ppl": encode(self.ppl),
            "ppl_ratio": encode(self.ppl_ratio),
            **self.footprint.to_json(),
            "predicted_speedup": self.speedup,
        }


@dataclass(frozen=True)
class Choice:
    """The set that was chosen, how it was found, and what stands beside it.

    `front` has the best set found for every number of layers up to it, where the way went through
    them, the whole model first. `others` is what simpler strategies choose.
    """

    strategy: Strategy
    best: Point
    front: tuple[Point, ...]
    others: tuple[tuple[Strategy, Point], ...]
    steps: tuple[Step, ...]

    @property
    def drop(self) -> Layers:
        return self.best.drop

    @property
    def n_set(self) -> int:
        return sum(step.n_set for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        return {
            "strategy": self.strategy.value,
            **self.best.to_json(),
            "n_set": self.n_set,
            "front": [point.to_json() for point in self.front],
            "others": [{"strategy": s.value, **point.to_json()} for s, point in self.others],
            "steps": [step.to_json() for step in self.steps],
        }


def parse_strategy(name: str) -> Strategy:
    """Raises UsageError for an unknown name."""
    try:
        return Strategy(name)
    except ValueError as e:
        raise UsageError(f"--strategy {name}: one of {', '.join(s.value for s in Strategy)}") from e
