"""Rules about results that another architecture must compute, since this one no longer can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ggprune.arch.change import Change
from ggprune.arch.hparams import (
    HEAD_COUNT,
    ROPE_PATTERN,
    SLIDING_WINDOW,
    SWA_PATTERN,
    Flags,
    Hparams,
    Illegal,
    Removal,
)
from ggprune.arch.rules.base import Rule
from ggprune.model import ValueType
from ggprune.model.metadata import array, scalar

LOGIT_SCALE = "{arch}.logit_scale"

# More tokens than any context has, and still far from overflowing 32 bits in llama.cpp's sums of
# windows over up to 256 sequences.
ENDLESS_WINDOW = 1 << 23
NO_SINK = -1e30  # exp() of it is 0: an attention sink that takes nothing
HOST_NOTE = "stored as architecture granite_swa, which is told per layer where RoPE applies"


@dataclass(frozen=True, eq=False)
class Hosted(Rule, binds=False):
    """At some depths llama.cpp computes the architecture differently; another one does not."""

    hosts: Mapping[int, str]  # the architecture that computes the same at any depth, by old depth
    why: str

    def change(self, removal: Removal) -> Change:
        host, n_after = self.hosts.get(removal.n_trunk), len(removal.trunk)
        if host is None and n_after in self.hosts:
            raise Illegal(f"with {n_after} layers {self.why}")
        if host is None:
            return Change()
        if any(name.endswith(".scale") for name in removal.model.by_name):
            raise Illegal(f"with its .scale tensors it cannot become {host}, and {self.why}")
        note = f"stored as architecture {host}, which computes the same at any depth ({self.why})"
        return Change(arch=host, notes=(note,))


@dataclass(frozen=True, eq=False)
class RopeByArray(Rule, binds=False):
    """Every p-th layer has no position encoding. Where that breaks, granite_swa can be told so.

    It wants sliding windows and attention sinks: endless ones, and some that take nothing
    (smollm3.cpp:70, granite-swa.cpp:30-43).
    """

    p: int

    def change(self, removal: Removal) -> Change:
        kept = [self._has_rope(n) for n in removal.trunk]
        if kept == [self._has_rope(n) for n in range(len(kept))]:
            return Change()
        n, n_head = len(kept), removal.integer(HEAD_COUNT)
        if not n_head or removal.number(LOGIT_SCALE):
            raise Illegal("the position encoding of the remaining layers cannot be stored")
        stored = {
            SWA_PATTERN: array(ValueType.BOOL, [True] * n),
            SLIDING_WINDOW: scalar(ValueType.UINT32, ENDLESS_WINDOW),
            ROPE_PATTERN: array(ValueType.BOOL, kept),
            LOGIT_SCALE: scalar(ValueType.FLOAT32, 1.0),
        }
        return Change(
            values={removal.key(template): value for template, value in stored.items()},
            gone=frozenset({removal.key("{arch}.expert_count")}),
            arch="granite_swa",
            added={f"blk.{i}.attn_sinks.weight": (NO_SINK,) * n_head for i in range(n)},
            notes=(HOST_NOTE,),
        )

    def traits(self, hparams: Hparams, windows: Flags | None) -> Mapping[int, str]:
        return {n: "NoPE" for n in range(hparams.n_trunk) if not self._has_rope(n)}

    def _has_rope(self, layer: int) -> bool:
        return (layer + 1) % self.p != 0
