"""A chosen set of layers: what it costs, what it gives, how it was found. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from ggprune.arch.footprint import Footprint
from ggprune.errors import UsageError
from ggprune.files.documents import INLINE, LEFT_OUT, Key, written
from ggprune.metrics.estimates import Estimate
from ggprune.model.cut import Cut


class Strategy(str, Enum):
    """How a set is found."""

    ONESHOT = "oneshot"  # the lowest single layers
    GREEDY = "greedy"  # one after the other, measured anew each time (SLEB)
    WINDOW = "window"  # the best run of neighbours (Gromov et al.)
    WHOLE = "whole"  # greedy, then exchanges of one layer while they help (as EvoPress mutates)
    SEARCH = "search"  # and then of runs that begin with an FFN and end with an attention
    EXHAUSTIVE = "exhaustive"  # every set
    UNITS = "units"  # and then of attentions and FFNs that leave alone
    HEALED = "healed"  # search; its best sets and the best runs are healed, and compared then


@dataclass(frozen=True, kw_only=True)
class Step:
    """One race: the set that won it, and what it took."""

    what: Annotated[str, "what was compared"]
    drop: Annotated[Cut, "the set that won"]
    kld: Estimate
    n_set: Annotated[int, "that took part"]
    n_pass: Annotated[int, "through the model, or what was left of it"]
    time_s: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """A set of layers: what dropping it costs, on all chunks, and what it gives."""

    drop: Annotated[Cut, "the layers"]
    kld: Annotated[Estimate, "nats"]
    ppl: Annotated[Estimate, "perplexity without them"]
    ppl_ratio: Annotated[Estimate, "PPL without / PPL with"]
    footprint: Annotated[Footprint, INLINE]
    speedup: Annotated[float, Key(name="predicted_speedup"),
        "of generating, predicted from the bytes read per token"]  # fmt: skip

    @property
    @written(before="drop")
    def n_drop(self) -> Annotated[int, "layers; or units, where some are not in pairs"]:
        return self.drop.count


@dataclass(frozen=True)
class Alternative:
    """What another strategy chooses."""

    strategy: Strategy
    point: Annotated[Point, INLINE]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A set of layers that was healed to be compared; on chunks that nothing was fitted to."""

    drop: Annotated[Cut, "the layers"]
    before: Annotated[Estimate, Key(name="kld_before"), "nats"]
    after: Annotated[Estimate, Key(name="kld_after"), "nats"]
    n_fitted: Annotated[int, "tokens"]
    time_s: float


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The set that was chosen, how it was found, and what stands beside it."""

    strategy: Strategy
    best: Annotated[Point, INLINE]
    front: Annotated[tuple[Point, ...],
        "the best set found for every number of layers up to it, where the way went through them; "
        "the whole model first"]  # fmt: skip
    others: Annotated[tuple[Alternative, ...], "what simpler strategies choose"]
    steps: Annotated[tuple[Step, ...], "the races"]
    candidates: Annotated[tuple[Point, ...], LEFT_OUT] = ()  # that are to be healed
    trials: Annotated[
        tuple[Trial, ...] | None, Key(optional=True), "with --strategy healed, the best one first"
    ] = None

    @property
    def drop(self) -> Cut:
        return self.best.drop

    @property
    @written(before="front")
    def n_set(self) -> Annotated[int, "that were measured"]:
        return sum(step.n_set for step in self.steps)


def parse_strategy(name: str) -> Strategy:
    """Raises UsageError for an unknown name."""
    try:
        return Strategy(name)
    except ValueError as e:
        raise UsageError(f"--strategy {name}: one of {', '.join(s.value for s in Strategy)}") from e
