"""Rules about a layer's own number: what repeats by it, what comes first or last, recurrence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ggprune.arch.change import Change
from ggprune.arch.hparams import (
    Flags,
    Hparams,
    Illegal,
    Key,
    Removal,
    recurrent_flags,
    removed_below,
)
from ggprune.arch.rules.base import UNSAID, Condition, Rule, holds
from ggprune.model.unit import Unit

LAST_GONE = "the last {} layer would be gone, and llama.cpp needs one"


@dataclass(frozen=True, eq=False)
class Period(Rule, binds=True, half=Unit.ATTN):
    """Something hard-coded follows the index with a period: whole periods must go."""

    p: int
    what: str
    window: Condition | None = None
    no_rope_at: int | None = field(default=None, metadata=UNSAID)  # n % p of layers without RoPE

    def change(self, removal: Removal) -> Change:
        if not holds(self.window, removal):
            return Change()
        if any(n % self.p for n in removed_below(removal.trunk)):
            raise Illegal(
                f"{self.what} repeats every {self.p} layers by their position: in front of every "
                f"layer that stays, a multiple of {self.p} layers must go"
            )
        return Change()

    def traits(self, hparams: Hparams, windows: Flags | None) -> Mapping[int, str]:
        return {n: "NoPE" for n in range(hparams.n_trunk) if n % self.p == self.no_rope_at}


@dataclass(frozen=True, eq=False)
class MoeStep(Rule, binds=True, half=Unit.FFN):
    """Every step-th layer has experts: another step may fit what remains.

    llama4.cpp:62; ernie4-5-moe.cpp:64, where the leading dense layers never have any.
    """

    behind_dense: bool = field(default=False, metadata=UNSAID)

    def change(self, removal: Removal) -> Change:
        step = removal.integer(Key.MOE_STEP)
        if step <= 0:
            return Change()
        n_dense = removal.integer(Key.LEADING_DENSE) if self.behind_dense else 0
        kept = _with_experts(removal.trunk, step, n_dense)
        n_dense_kept = sum(1 for n in removal.trunk if n < n_dense)
        positions, first = range(len(kept)), kept.index(True) if any(kept) else len(kept)
        for candidate in (step, *(n for n in range(1, first + 2) if (first + 1) % n == 0)):
            if kept == _with_experts(positions, candidate, n_dense_kept):
                new_step = removal.with_type_of(Key.MOE_STEP, candidate)
                return Change(values={removal.key(Key.MOE_STEP): new_step})
        raise Illegal("the layers with experts would no longer be every k-th layer")


def _with_experts(layers: Sequence[int], step: int, n_dense: int) -> Flags:
    return tuple(n >= n_dense and (n + 1) % step == 0 for n in layers)


@dataclass(frozen=True, eq=False)
class FrozenBelow(Rule, binds=True):
    """Layers in front of a number that the code knows."""

    value: int
    why: str

    def change(self, removal: Removal) -> Change:
        if not set(range(min(self.value, removal.n_trunk))) <= set(removal.keep):
            raise Illegal(f"layers 0 to {self.value - 1} must stay: {self.why}")
        return Change()


@dataclass(frozen=True, eq=False)
class LastHasFfn(Rule, binds=True, half=Unit.FFN):
    """The rows that yield logits are picked in the feed-forward part of the last layer."""

    def change(self, removal: Removal) -> Change:
        lengths, last = removal.per_layer(Key.FEED_FORWARD_LENGTH), removal.trunk[-1]
        if lengths is not None and not lengths[last]:
            raise Illegal(f"layer {last} would come last and has no feed-forward part")
        return Change()


@dataclass(frozen=True, eq=False)
class RecurrentInterval(Rule, binds=False, half=Unit.ATTN):
    """Recurrent layers by an interval: kept while it still fits, else written as an array."""

    default: int

    def change(self, removal: Removal) -> Change:
        if removal.is_array(Key.RECURRENT):
            return Change()
        interval = removal.integer(Key.INTERVAL, self.default, least=1)
        before = recurrent_flags(interval, removal.n_trunk)
        kept = tuple(before[n] for n in removal.trunk)
        if kept == recurrent_flags(interval, len(kept)):
            return Change()
        return Change(values=removal.flag_array(Key.RECURRENT, kept))


@dataclass(frozen=True, eq=False)
class BothKinds(Rule, binds=False, half=Unit.ATTN):
    """Hybrid memory needs at least one attention layer and one recurrent layer."""

    interval: int | None = None  # the default, where an interval says which layers are recurrent

    def change(self, removal: Removal) -> Change:
        recurrent = removal.recurrent(self.interval)
        if recurrent is None:
            return Change()
        kept = [recurrent[n] for n in removal.trunk]
        if any(recurrent) and not any(kept):
            raise Illegal(LAST_GONE.format("recurrent"))
        if not all(recurrent) and all(kept):
            raise Illegal(LAST_GONE.format("attention"))
        return Change()

    def traits(self, hparams: Hparams, windows: Flags | None) -> Mapping[int, str]:
        recurrent = hparams.recurrent(self.interval) or ()
        return {n: "recurrent" for n, flag in enumerate(recurrent) if flag}
