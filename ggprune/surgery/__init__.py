"""Plan what leaves, lay out what stays, stream its bytes, prove the result. No llama.cpp here."""

from ggprune.surgery.layout import Layout, Split
from ggprune.surgery.plan import PrunePlan, load_plan, make_plan

__all__ = ["Layout", "PrunePlan", "Split", "load_plan", "make_plan"]
