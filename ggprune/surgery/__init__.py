"""Plan which layers leave, stream the kept bytes, prove the result. Never touches llama.cpp."""

from ggprune.surgery.layout import Layout, make_layout
from ggprune.surgery.plan import PrunePlan, load_plan, make_plan
from ggprune.surgery.rewrite import rewrite
from ggprune.surgery.verify import verify

__all__ = [
    "Layout",
    "PrunePlan",
    "load_plan",
    "make_layout",
    "make_plan",
    "rewrite",
    "verify",
]
