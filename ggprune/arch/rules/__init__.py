"""What a layer's position means, one class per rule, and the names that the rows call them by.

A rule returns what a removal changes, or raises Illegal with the reason why it cannot be exact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ggprune.arch.rules.base import UNSAID, Rule
from ggprune.arch.rules.depth import (
    DeepseekLite,
    FrozenDepth,
    NLayerAtLeast,
    NLayerNot,
    ResidualScale,
)
from ggprune.arch.rules.generic import Generic, NotSet, Sliced
from ggprune.arch.rules.hosts import Hosted, RopeByArray
from ggprune.arch.rules.positions import FrozenBelow, LastHasFfn, MoeStep, Period
from ggprune.arch.rules.recurrence import BothKinds, RecurrentInterval
from ggprune.arch.rules.sharing import Deepstack, SharedIndex, SharedKv, TwoStacks
from ggprune.arch.rules.tensors import AttentionScale, OneEmbeddingLayer, RescaledByDepth, Slices
from ggprune.arch.rules.windows import FirstSwa, SwaArray, SwaPeriod, WindowsNeeded

__all__ = ["RULES", "UNSAID", "Generic", "Rule"]

# By the names that the rows have for them: `swa_period` is SwaPeriod.
RULES: Mapping[str, type[Rule]] = {
    re.sub(r"(?<!^)(?=[A-Z])", "_", rule.__name__).lower(): rule
    for rule in (
        AttentionScale, BothKinds, DeepseekLite, Deepstack, FirstSwa, FrozenBelow, FrozenDepth,
        Hosted, LastHasFfn, MoeStep, NLayerAtLeast, NLayerNot, NotSet, OneEmbeddingLayer, Period,
        RecurrentInterval, RescaledByDepth, ResidualScale, RopeByArray, SharedIndex, SharedKv,
        Sliced, Slices, SwaArray, SwaPeriod, TwoStacks, WindowsNeeded,
    )
}  # fmt: skip
