"""The jobs that join the packages: each reads from top to bottom as what it does."""

from ggprune.pipeline.auto import AutoOptions, auto, choose
from ggprune.pipeline.files import OutputFiles
from ggprune.pipeline.prune import prune, pruned_size, requantize, requantized_size
from ggprune.pipeline.result import AutoResult

__all__ = [
    "AutoOptions",
    "AutoResult",
    "OutputFiles",
    "auto",
    "choose",
    "prune",
    "pruned_size",
    "requantize",
    "requantized_size",
]
