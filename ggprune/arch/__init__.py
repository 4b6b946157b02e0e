"""What a layer's position means to each architecture: facts as data, rules that use them."""

from ggprune.arch.architecture import Architecture, architecture_of, removal_metadata
from ggprune.arch.legal import choose_legal, legal_drop, nearest_legal

__all__ = [
    "Architecture",
    "architecture_of",
    "choose_legal",
    "legal_drop",
    "nearest_legal",
    "removal_metadata",
]
