"""ggprune makes GGUF models shallower: rank layers, drop them, requantize, prove what it cost.

The names below are the library; they are loaded when they are first used, so that importing the
package costs nothing. Whatever computes through llama.cpp does so in a child process: a bad file
never ends yours. `import ggprune; model = ggprune.open_model("model.gguf")`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ggprune.lean import import_lean
from ggprune.version import __version__

if TYPE_CHECKING:
    from ggprune.errors import GGPruneError
    from ggprune.healing.result import HealOptions
    from ggprune.metrics.text import read_text, read_texts, shipped_text
    from ggprune.model.cut import Cut
    from ggprune.model.imatrix import read_imatrix
    from ggprune.model.layers import parse_layers
    from ggprune.model.model import Model, open_model
    from ggprune.pipeline.auto import auto
    from ggprune.pipeline.bench import benchmark
    from ggprune.pipeline.evaluate import evaluate
    from ggprune.pipeline.heal import HealJob, heal
    from ggprune.pipeline.job import Job, planned, write
    from ggprune.pipeline.options import AutoOptions
    from ggprune.pipeline.rank import choose, rank, rank_experts
    from ggprune.pipeline.result import read_report
    from ggprune.pipeline.train import TrainJob, train
    from ggprune.progress import Progress
    from ggprune.quantize.options import QuantizeOptions
    from ggprune.runtime.compute import Compute
    from ggprune.scoring.choose import ChooseOptions
    from ggprune.scoring.experts import ExpertsOptions
    from ggprune.scoring.measure import MeasureOptions
    from ggprune.scoring.rank import RankOptions
    from ggprune.scoring.ranking import read_ranking
    from ggprune.scoring.target import DropRequest, Goal, Limits, Target
    from ggprune.surgery.layout import Split
    from ggprune.surgery.plan import PrunePlan, load_plan, make_plan
    from ggprune.training.options import TrainOptions
    from ggprune.training.samples import read_corpus

_HOMES = {
    "ggprune.errors": ("GGPruneError",),
    "ggprune.healing.result": ("HealOptions",),
    "ggprune.metrics.text": (
        "read_text",
        "read_texts",
        "shipped_text",
    ),
    "ggprune.model.cut": ("Cut",),
    "ggprune.model.imatrix": ("read_imatrix",),
    "ggprune.model.layers": ("parse_layers",),
    "ggprune.model.model": (
        "Model",
        "open_model",
    ),
    "ggprune.pipeline.auto": ("auto",),
    "ggprune.pipeline.bench": ("benchmark",),
    "ggprune.pipeline.evaluate": ("evaluate",),
    "ggprune.pipeline.heal": (
        "HealJob",
        "heal",
    ),
    "ggprune.pipeline.job": (
        "Job",
        "planned",
        "write",
    ),
    "ggprune.pipeline.options": ("AutoOptions",),
    "ggprune.pipeline.rank": (
        "choose",
        "rank",
        "rank_experts",
    ),
    "ggprune.pipeline.result": ("read_report",),
    "ggprune.pipeline.train": (
        "TrainJob",
        "train",
    ),
    "ggprune.progress": ("Progress",),
    "ggprune.quantize.options": ("QuantizeOptions",),
    "ggprune.runtime.compute": ("Compute",),
    "ggprune.scoring.choose": ("ChooseOptions",),
    "ggprune.scoring.experts": ("ExpertsOptions",),
    "ggprune.scoring.measure": ("MeasureOptions",),
    "ggprune.scoring.rank": ("RankOptions",),
    "ggprune.scoring.ranking": ("read_ranking",),
    "ggprune.scoring.target": (
        "DropRequest",
        "Goal",
        "Limits",
        "Target",
    ),
    "ggprune.surgery.layout": ("Split",),
    "ggprune.surgery.plan": (
        "PrunePlan",
        "load_plan",
        "make_plan",
    ),
    "ggprune.training.options": ("TrainOptions",),
    "ggprune.training.samples": ("read_corpus",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AutoOptions", "ChooseOptions", "Compute", "Cut", "DropRequest", "ExpertsOptions",
    "GGPruneError", "Goal", "HealJob", "HealOptions", "Job", "Limits", "MeasureOptions", "Model",
    "Progress", "PrunePlan", "QuantizeOptions", "RankOptions", "Split", "Target", "TrainJob",
    "TrainOptions", "__version__", "auto", "benchmark", "choose", "evaluate", "heal", "load_plan",
    "make_plan", "open_model", "parse_layers", "planned", "rank", "rank_experts", "read_corpus",
    "read_imatrix", "read_ranking", "read_report", "read_text", "read_texts", "shipped_text",
    "train", "write",
]  # fmt: skip

import_lean("gguf")


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'ggprune' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
