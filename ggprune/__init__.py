"""ggprune makes GGUF models shallower: rank layers, drop them, requantize, prove what it cost.

The names below are the library; they are loaded when they are first used, so that importing the
package costs nothing. `import ggprune; model = ggprune.open_model("model.gguf")`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ggprune.version import __version__

if TYPE_CHECKING:
    from ggprune.bench import benchmark
    from ggprune.errors import GGPruneError
    from ggprune.evaluation import evaluate
    from ggprune.metrics.text import read_text, shipped_text
    from ggprune.model import Model, open_model
    from ggprune.model.imatrix import read_imatrix
    from ggprune.model.layers import parse_layers
    from ggprune.pipeline import auto, prune, requantize
    from ggprune.quantize.options import QuantizeOptions
    from ggprune.runtime.isolate import isolated
    from ggprune.runtime.session import Compute
    from ggprune.scoring import DropRequest, Goal, Limits, MeasureOptions, RankOptions, Target, rank
    from ggprune.surgery import PrunePlan, load_plan, make_plan, verify

_HOME = {
    "Compute": "ggprune.runtime.session",
    "DropRequest": "ggprune.scoring",
    "GGPruneError": "ggprune.errors",
    "Goal": "ggprune.scoring",
    "Limits": "ggprune.scoring",
    "MeasureOptions": "ggprune.scoring",
    "Model": "ggprune.model",
    "PrunePlan": "ggprune.surgery",
    "QuantizeOptions": "ggprune.quantize.options",
    "RankOptions": "ggprune.scoring",
    "Target": "ggprune.scoring",
    "auto": "ggprune.pipeline",
    "benchmark": "ggprune.bench",
    "evaluate": "ggprune.evaluation",
    "isolated": "ggprune.runtime.isolate",
    "load_plan": "ggprune.surgery",
    "make_plan": "ggprune.surgery",
    "open_model": "ggprune.model",
    "parse_layers": "ggprune.model.layers",
    "prune": "ggprune.pipeline",
    "rank": "ggprune.scoring",
    "read_imatrix": "ggprune.model.imatrix",
    "read_text": "ggprune.metrics.text",
    "requantize": "ggprune.pipeline",
    "shipped_text": "ggprune.metrics.text",
    "verify": "ggprune.surgery",
}

__all__ = [
    "Compute",
    "DropRequest",
    "GGPruneError",
    "Goal",
    "Limits",
    "MeasureOptions",
    "Model",
    "PrunePlan",
    "QuantizeOptions",
    "RankOptions",
    "Target",
    "__version__",
    "auto",
    "benchmark",
    "evaluate",
    "isolated",
    "load_plan",
    "make_plan",
    "open_model",
    "parse_layers",
    "prune",
    "rank",
    "read_imatrix",
    "read_text",
    "requantize",
    "shipped_text",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ggprune' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
