"""What a layer's position means, one class per rule, and the names that the rows call them by.

A rule returns what a removal changes, or raises Illegal with the reason why it cannot be exact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ggprune.arch.rules import depth, positions, sharing, tensors, windows  # noqa: F401  subclasses
from ggprune.arch.rules.base import UNSAID, Rule
from ggprune.arch.rules.generic import Generic

__all__ = ["RULES", "UNSAID", "Generic", "Rule"]

# By the names that the rows have for them: `swa_period` is SwaPeriod. No row names Generic.
RULES: Mapping[str, type[Rule]] = {
    re.sub(r"(?<!^)(?=[A-Z])", "_", rule.__name__).lower(): rule
    for rule in Rule.__subclasses__()
    if rule is not Generic
}
