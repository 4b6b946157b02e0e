"""What a layer is made of, as far as it can leave. Data only."""

from __future__ import annotations

from enum import Enum


class Unit(str, Enum):
    """What can leave, of one layer."""

    LAYER = "layer"
    ATTN = "attn"  # the first half: attention, or what stands in for it
    FFN = "ffn"  # the second half
    EXPERTS = "experts"  # of the FFN


# Behind a layer's number: 20 (all of it), 20a, 20f, 20e3+5 (the experts 3 and 5).
SUFFIXES = {Unit.LAYER: "", Unit.ATTN: "a", Unit.FFN: "f", Unit.EXPERTS: "e"}
HALVES = (Unit.ATTN, Unit.FFN)  # in the order in which they compute
