"""What a layer's position means to each architecture: facts as data, rules that use them."""

from ggprune.arch.architecture import (
    Architecture,
    StreamNames,
    architecture_of,
    check_scored,
    layer_traits,
)
from ggprune.arch.change import Change
from ggprune.arch.hparams import mtp_blocks, n_trunk
from ggprune.arch.legal import first_legal, legal_drop, nearest_legal, removal_change, shortest_runs

__all__ = [
    "Architecture", "Change", "StreamNames", "architecture_of", "check_scored", "first_legal",
    "layer_traits", "legal_drop", "mtp_blocks", "n_trunk", "nearest_legal", "removal_change",
    "shortest_runs",
]  # fmt: skip
