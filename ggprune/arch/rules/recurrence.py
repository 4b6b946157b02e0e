"""Rules about recurrent layers among layers of attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ggprune.arch.change import Change
from ggprune.arch.hparams import (
    INTERVAL,
    RECURRENT,
    Flags,
    Hparams,
    Illegal,
    Removal,
    recurrent_flags,
)
from ggprune.arch.rules.base import Rule
from ggprune.model import ValueType
from ggprune.model.metadata import array


@dataclass(frozen=True, eq=False)
class RecurrentInterval(Rule, binds=False):
    """Recurrent layers by an interval: kept while it still fits, else written as an array."""

    default: int

    def change(self, removal: Removal) -> Change:
        if removal.is_array(RECURRENT):
            return Change()
        interval = removal.integer(INTERVAL, self.default)
        before = recurrent_flags(interval, removal.n_trunk)
        kept = tuple(before[n] for n in removal.trunk)
        if kept == recurrent_flags(interval, len(kept)):
            return Change()
        padded = [*kept, *[False] * (len(removal.keep) - len(kept))]
        return Change(values={removal.key(RECURRENT): array(ValueType.BOOL, padded)})


@dataclass(frozen=True, eq=False)
class BothKinds(Rule, binds=False):
    """Hybrid memory needs at least one attention layer and one recurrent layer."""

    interval: int | None = None  # the default, where an interval says which layers are recurrent

    def change(self, removal: Removal) -> Change:
        recurrent = removal.recurrent(self.interval)
        if recurrent is None:
            return Change()
        kept = [recurrent[n] for n in removal.trunk]
        if any(recurrent) and not any(kept):
            raise Illegal(_last_gone("recurrent"))
        if not all(recurrent) and all(kept):
            raise Illegal(_last_gone("attention"))
        return Change()

    def traits(self, hparams: Hparams, windows: Flags | None) -> Mapping[int, str]:
        recurrent = hparams.recurrent(self.interval) or ()
        return {n: "recurrent" for n, flag in enumerate(recurrent) if flag}


def _last_gone(kind: str) -> str:
    return f"the last {kind} layer would be gone, and llama.cpp needs one"
