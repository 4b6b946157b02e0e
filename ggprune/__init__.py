"""ggprune makes GGUF models shallower: rank layers, drop them, requantize, prove what it cost.

The names below are the library; they are loaded when they are first used, so that importing the
package costs nothing. Whatever computes through llama.cpp does so in a child process: a bad file
never ends yours. `import ggprune; model = ggprune.open_model("model.gguf")`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ggprune.version import __version__

if TYPE_CHECKING:
    from ggprune.errors import GGPruneError
    from ggprune.healing.result import HealOptions
    from ggprune.metrics.text import read_text, read_texts, shipped_text
    from ggprune.model import Model, open_model
    from ggprune.model.cut import Cut
    from ggprune.model.imatrix import read_imatrix
    from ggprune.model.layers import parse_layers
    from ggprune.pipeline.auto import auto
    from ggprune.pipeline.heal import HealJob, heal
    from ggprune.pipeline.job import Job, planned, write
    from ggprune.pipeline.options import AutoOptions
    from ggprune.pipeline.result import read_report
    from ggprune.pipeline.safe import benchmark, choose, evaluate, rank
    from ggprune.pipeline.train import TrainJob, train
    from ggprune.progress import Progress
    from ggprune.quantize.options import QuantizeOptions
    from ggprune.runtime.session import Compute
    from ggprune.scoring import (
        ChooseOptions,
        DropRequest,
        Goal,
        Limits,
        MeasureOptions,
        RankOptions,
        Target,
        read_ranking,
    )  # fmt: skip
    from ggprune.surgery import PrunePlan, Split, load_plan, make_plan
    from ggprune.training.options import TrainOptions
    from ggprune.training.samples import read_corpus

_HOMES = {
    "ggprune.errors": ("GGPruneError",),
    "ggprune.healing.result": ("HealOptions",),
    "ggprune.metrics.text": ("read_text", "read_texts", "shipped_text"),
    "ggprune.model": ("Model", "open_model"),
    "ggprune.model.cut": ("Cut",),
    "ggprune.model.imatrix": ("read_imatrix",),
    "ggprune.model.layers": ("parse_layers",),
    "ggprune.pipeline.auto": ("auto",),
    "ggprune.pipeline.heal": ("HealJob", "heal"),
    "ggprune.pipeline.options": ("AutoOptions",),
    "ggprune.pipeline.train": ("TrainJob", "train"),
    "ggprune.training.options": ("TrainOptions",),
    "ggprune.training.samples": ("read_corpus",),
    "ggprune.pipeline.job": ("Job", "planned", "write"),
    "ggprune.pipeline.result": ("read_report",),
    "ggprune.pipeline.safe": ("benchmark", "choose", "evaluate", "rank"),
    "ggprune.progress": ("Progress",),
    "ggprune.quantize.options": ("QuantizeOptions",),
    "ggprune.runtime.session": ("Compute",),
    "ggprune.scoring": (
        "ChooseOptions",
        "DropRequest",
        "Goal",
        "Limits",
        "MeasureOptions",
        "RankOptions",
        "Target",
        "read_ranking",
    ),
    "ggprune.surgery": ("PrunePlan", "Split", "load_plan", "make_plan"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AutoOptions", "ChooseOptions", "Compute", "Cut", "DropRequest", "GGPruneError", "Goal",
    "HealJob", "HealOptions", "Job", "Limits", "MeasureOptions", "Model", "Progress", "PrunePlan",
    "QuantizeOptions", "RankOptions", "Split", "Target", "TrainJob", "TrainOptions", "__version__",
    "auto", "benchmark", "choose", "evaluate", "heal", "load_plan", "make_plan", "open_model",
    "parse_layers", "planned", "rank", "read_corpus", "read_imatrix", "read_ranking", "read_report",
    "read_text", "read_texts", "shipped_text", "train", "write",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'ggprune' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
