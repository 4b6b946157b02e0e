"""Rules about the number of layers, by which llama.cpp tells one variant from another."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ggprune.arch.change import Change
from ggprune.arch.hparams import Illegal, Removal
from ggprune.arch.rules.base import Condition, Rule, holds
from ggprune.model import ValueType
from ggprune.model.metadata import scalar


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
