"""Plan which layers leave, stream the kept bytes, prove the result. Never touches llama.cpp."""

from ggprune.surgery.layout import Layout, Split
from ggprune.surgery.plan import PrunePlan, load_plan, make_plan

__all__ = ["Layout", "PrunePlan", "Split", "load_plan", "make_plan"]
