"""What a layer's position means to each architecture: facts as data, rules that use them."""

from ggprune.arch.architecture import Architecture, architecture_of
from ggprune.arch.rules import layer_metadata

__all__ = ["Architecture", "architecture_of", "layer_metadata"]
