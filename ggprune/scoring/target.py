"""How many layers are to go, a number of them or what the model may still take or lose; experts."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import Enum

from ggprune.arch.experts import ALIKE, Routing
from ggprune.arch.footprint import Footprint, footprints_of
from ggprune.arch.hparams import n_trunk
from ggprune.arch.legal import alone_half
from ggprune.errors import ArchitectureError, UsageError
from ggprune.files.amounts import parse_number
from ggprune.metrics.estimates import Estimate
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.model.unit import HALVES, Unit
from ggprune.scoring.choice import Strategy

_DROP = re.compile(r"(\d{1,9})|(\d{1,3}(?:\.\d{1,3})?)%")


class Goal(str, Enum):
    """What a target counts."""

    LAYERS = "layers"
    PERCENT = "percent"  # of the layers, rounded to the nearest number of them
    SIZE = "size"  # bytes of the file, at most
    PARAMS = "params"  # at most
    SPEEDUP = "speedup"  # predicted from the bytes read per token, at least


# What the command line calls them.
OPTIONS = {
    Goal.LAYERS: "--drop", Goal.PERCENT: "--drop-percent", Goal.SIZE: "--target-size",
    Goal.PARAMS: "--target-params", Goal.SPEEDUP: "--target-speedup",
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """What is reached when enough layers are gone."""

    goal: Goal
    value: float

    def __str__(self) -> str:
        return f"{OPTIONS[self.goal]} {self.value:.12g}"

    def n_drop(self, model: Model) -> int | None:
        """The number of layers, if the target says it.

        Raises UsageError if it is impossible, ArchitectureError if no layer can be dropped.
        """
        n_layer = n_trunk(model)
        if n_layer < 2:
            raise ArchitectureError(
                f"{model.path}: has {n_layer} layers that are not MTP blocks: none can be dropped"
            )
        if self.goal is Goal.LAYERS:
            n = int(self.value)
        elif self.goal is Goal.PERCENT:
            n = max(1, math.floor(n_layer * self.value / 100 + 0.5))
        else:
            return None
        if not 1 <= n < n_layer:
            most = n_layer - 1
            raise UsageError(f"{self}: the model has {n_layer} layers, 1 to {most} can be dropped")
        return n

    def is_reached(self, before: Footprint, after: Footprint) -> bool:
        """By what is left; a number of layers is not seen here."""
        return {
            Goal.LAYERS: True,
            Goal.PERCENT: True,
            Goal.SIZE: after.size_bytes <= self.value,
            Goal.PARAMS: after.n_param <= self.value,
            Goal.SPEEDUP: before.token_bytes >= self.value * after.token_bytes,
        }[self.goal]


@dataclass(frozen=True)
class Limits:
    """What a set of layers may cost."""

    kld: float | None = None  # nats
    ppl_ratio: float | None = None  # PPL without / PPL with

    def __bool__(self) -> bool:
        return self.kld is not None or self.ppl_ratio is not None

    def exceeded(self, kld: Estimate, ppl_ratio: Estimate) -> str | None:
        """What is exceeded, in words; None if nothing is."""
        if self.kld is not None and kld.value > self.kld:
            return f"KLD {kld.value:.4g}, more than --max-kld {self.kld:g}"
        if self.ppl_ratio is not None and ppl_ratio.value > self.ppl_ratio:
            return f"{ppl_ratio.value:.4g}x the PPL, more than --max-ppl-ratio {self.ppl_ratio:g}"
        return None


@dataclass(frozen=True)
class DropRequest:
    """The set of layers that is asked for: how many, how it is found, what must not happen."""

    target: Target | None
    strategy: Strategy = Strategy.SEARCH
    limits: Limits = Limits()
    protect: tuple[int, ...] = ()  # layers that stay
    whole: bool = False  # no runs that begin with an FFN and end with an attention

    @property
    def halves(self) -> bool:
        """May the set be made of such runs?"""
        shifted = (Strategy.SEARCH, Strategy.WINDOW, Strategy.UNITS)
        return not self.whole and self.strategy in shifted

    def __post_init__(self) -> None:
        if self.target is None and not self.limits:
            raise UsageError("say how many layers are to go: --drop, --target-size, --max-kld, ...")


def check_units(model: Model, request: DropRequest, unit: Unit = Unit.LAYER) -> None:
    """Raises UsageError for a strategy that is of whole layers only, ArchitectureError if halves of
    layers are asked for and none can leave alone."""
    if unit is not Unit.LAYER:
        if request.strategy in (Strategy.HEALED, Strategy.UNITS):
            raise UsageError(
                f"--strategy {request.strategy.value}: of layers, not of --unit {unit.value}"
            )
        ways, said = [alone_half(model, unit)], f"--unit {unit.value}"
    elif request.strategy is Strategy.UNITS:
        ways, said = [alone_half(model, half) for half in HALVES], "--strategy units"
    else:
        return
    if all(way.stored_as is None for way in ways):
        raise ArchitectureError(f"{model.path}: {said}: {ways[0].refused}")


def sizes_to_try(model: Model, target: Target | None, free: int, unit: Unit = Unit.LAYER) -> range:
    """Numbers of layers, or of that half of them, that may reach the target, fewest first; `free`
    may be dropped at most.

    Without a target: all of them. Raises UsageError if the target cannot be reached.
    """
    if target is None:
        return range(1, free + 1)
    n_drop = target.n_drop(model)
    if n_drop is not None:
        return range(n_drop, n_drop + 1)
    footprints = footprints_of(model)
    before = footprints.without(())
    if target.is_reached(before, before):
        raise UsageError(f"{target}: reached already, nothing has to be dropped")
    weight = [footprints.without(Cut.of((n,), unit)) for n in range(n_trunk(model))]
    by_size = sorted(range(len(weight)), key=lambda n: (weight[n].size_bytes, n))
    for n in range(1, free + 1):
        orders = (by_size, sorted(by_size, key=lambda i: weight[i].token_bytes))
        if any(target.is_reached(before, footprints.without(Cut.of(o[:n], unit))) for o in orders):
            return range(n, free + 1)
    raise UsageError(f"{target}: not reached with {free} of {len(weight)} layers dropped")


def parse_amount(text: str, goal: Goal) -> int:
    """`4.2G`, `4.2GB`: decimal; `4GiB`: binary; `6.5B`: bytes of a size, billions of parameters.

    Raises UsageError for anything else.
    """
    return parse_number(text, OPTIONS[goal], of_bytes=goal is Goal.SIZE)


def parse_drop(text: str, routing: Routing) -> int:
    """How many experts are to leave every layer: `8`, or `25%`, which leaves a multiple of 4 and of
    the number of groups.

    Raises UsageError for anything else, and for a number that cannot be.
    """
    n, n_group = routing.n_expert, routing.n_group
    least, step = max(routing.n_used, 2 * n_group), math.lcm(ALIKE, n_group)
    match = _DROP.fullmatch(text)
    if match is None:
        raise UsageError(f"--drop-experts {text}: write a number like 8, or a share like 25%")
    n_drop = int(match[1] or 0)
    if match[2]:
        wanted = n * (1 - float(match[2]) / 100)
        n_drop = n - max(round(wanted / step) * step, -(-least // step) * step)
    if not 0 < n_drop <= n - least:
        raise UsageError(
            f"--drop-experts {text}: a layer has {n} experts and every token uses "
            f"{routing.n_used}, so that 1 to {n - least} can leave"
            + (f"; {text} of them are none, as a multiple of {step} stays" if match[2] else "")
        )
    if n_drop % n_group:
        raise UsageError(
            f"--drop-experts {text}: a layer's experts are in {n_group} groups, and as many must "
            f"leave each: write a multiple of {n_group}"
        )
    return n_drop
