"""Rules about the number of layers, and results that another architecture must compute."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ggprune.arch.change import Added, Change
from ggprune.arch.hparams import Flags, Hparams, Illegal, Key, Removal
from ggprune.arch.rules.base import Condition, Rule, holds
from ggprune.model.metadata import ValueType, array, scalar
from ggprune.model.unit import Unit

LOGIT_SCALE = "{arch}.logit_scale"

# More tokens than any context has, and still far from overflowing 32 bits in llama.cpp's sums of
# windows over up to 256 sequences.
ENDLESS_WINDOW = 1 << 23
NO_SINK = -1e30  # exp() of it is 0: an attention sink that takes nothing
HOST_NOTE = "stored as architecture granite_swa, which is told per layer where RoPE applies"


@dataclass(frozen=True, eq=False)
class NLayerNot(Rule, binds=True):
    """A depth at which llama.cpp takes the model for another one."""

    values: tuple[int, ...]
    why: str
    window: Condition | None = None

    def change(self, removal: Removal) -> Change:
        if holds(self.window, removal) and len(removal.trunk) in self.values:
            raise Illegal(f"with {len(removal.trunk)} layers {self.why}")
        return Change()


@dataclass(frozen=True, eq=False)
class NLayerAtLeast(Rule, binds=True):
    """A depth below which llama.cpp takes the model for another one."""

    value: int
    tensor: str  # which only models beyond that depth have
    why: str

    def change(self, removal: Removal) -> Change:
        if self.tensor in removal.model.by_name and len(removal.trunk) < self.value:
            raise Illegal(f"at least {self.value} layers must stay: {self.why}")
        return Change()


@dataclass(frozen=True, eq=False)
class FrozenDepth(Rule, binds=True):
    """At one depth llama.cpp computes something else than at all others."""

    value: int
    why: str

    def change(self, removal: Removal) -> Change:
        if removal.n_trunk == self.value:
            raise Illegal(f"models of {self.value} layers cannot lose any: {self.why}")
        return Change()


@dataclass(frozen=True, eq=False)
class ResidualScale(Rule, binds=False):
    """Minicpm's default depends on the depth, so the old one is written down (minicpm.cpp:6)."""

    def change(self, removal: Removal) -> Change:
        key = removal.key("{arch}.residual_scale")
        if key in removal.model.metadata:
            return Change()
        default = 1.4 / math.sqrt(removal.n_trunk)
        return Change(values={key: scalar(ValueType.FLOAT32, default)})


@dataclass(frozen=True, eq=False)
class DeepseekLite(Rule, binds=True):
    """`is_lite` follows the depth and decides whether q_lora_rank is read (deepseek2.cpp:8-26)."""

    def change(self, removal: Removal) -> Change:
        n_vocab, n_before = removal.integer("{arch}.vocab_size"), removal.n_trunk
        n_after = len(removal.trunk)
        has_rank = any(t.name.endswith("attn_q_a.weight") for t in removal.model.tensors)
        stays_lite = _is_lite(n_after, n_vocab)
        if stays_lite and has_rank:
            raise Illegal(f"with {n_after} layers llama.cpp takes it for a lite model")
        gating = removal.value("{arch}.expert_gating_func") is not None
        if not gating and n_vocab == 154880 and {n_before, n_after} & {47, 48}:
            raise Illegal("the default of expert_gating_func depends on the number of layers")
        if not _is_lite(n_before, n_vocab) or stays_lite:
            return Change()
        no_rank = scalar(ValueType.UINT32, 0)
        return Change(values={removal.key("{arch}.attention.q_lora_rank"): no_rank})


def _is_lite(n_layer: int, n_vocab: int) -> bool:
    return n_layer in (26, 27) or (n_layer == 48 and n_vocab == 128256)


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
class RopeByArray(Rule, binds=False, half=Unit.ATTN):
    """Every p-th layer has no position encoding. Where that breaks, granite_swa can be told so.

    It wants sliding windows and attention sinks: endless ones, and some that take nothing
    (smollm3.cpp:70, granite-swa.cpp:30-43).
    """

    p: int

    def change(self, removal: Removal) -> Change:
        kept = [self._has_rope(n) for n in removal.trunk]
        if kept == [self._has_rope(n) for n in range(len(kept))]:
            return Change()
        n, n_head = len(kept), removal.n_head
        if not n_head or removal.number(LOGIT_SCALE):
            raise Illegal("the position encoding of the remaining layers cannot be stored")
        sinks = [f"blk.{i}.attn_sinks.weight" for i in range(n)]
        stored = {
            Key.SWA_PATTERN: array(ValueType.BOOL, [True] * n),
            Key.SLIDING_WINDOW: scalar(ValueType.UINT32, ENDLESS_WINDOW),
            Key.ROPE_PATTERN: array(ValueType.BOOL, kept),
            LOGIT_SCALE: scalar(ValueType.FLOAT32, 1.0),
        }
        return Change(
            values={removal.key(template): value for template, value in stored.items()},
            gone=frozenset({removal.key("{arch}.expert_count")}),
            arch="granite_swa",
            added=dict.fromkeys(sinks, Added((n_head,), (NO_SINK,) * n_head)),
            notes=(HOST_NOTE,),
        )

    def traits(self, hparams: Hparams, windows: Flags | None) -> Mapping[int, str]:
        return {n: "NoPE" for n in range(hparams.n_trunk) if not self._has_rope(n)}

    def _has_rope(self, layer: int) -> bool:
        return (layer + 1) % self.p != 0
