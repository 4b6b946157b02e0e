"""The jobs that join the packages: each reads from top to bottom as what it does."""

from ggprune.pipeline.auto import AutoOptions, AutoReport, auto
from ggprune.pipeline.prune import Written, prune, pruned_size, requantize, requantized_size

__all__ = [
    "AutoOptions",
    "AutoReport",
    "Written",
    "auto",
    "prune",
    "pruned_size",
    "requantize",
    "requantized_size",
]
