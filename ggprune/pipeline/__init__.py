"""The jobs that join the packages: each reads from top to bottom as what it does."""

from ggprune.pipeline.auto import AutoOptions, auto, choose
from ggprune.pipeline.files import Written
from ggprune.pipeline.outcome import AutoReport
from ggprune.pipeline.prune import prune, pruned_size, requantize, requantized_size

__all__ = [
    "AutoOptions",
    "AutoReport",
    "Written",
    "auto",
    "choose",
    "prune",
    "pruned_size",
    "requantize",
    "requantized_size",
]
