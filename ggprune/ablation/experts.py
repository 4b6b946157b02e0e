"""Leaving experts out while the model computes: their router outputs become minus infinity.

Where a router adds biases to choose by, what it chooses by becomes so as well, and no token is sent
to such an expert. A softmax over all experts is computed anew over those that stay, so that every
number is that of a file without the others.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ggprune.ablation.graph import Graph
from ggprune.arch.experts import Experts
from ggprune.errors import ArchitectureError
from ggprune.metrics.estimates import Float32
from ggprune.runtime.nodes import Handler, StreamNode, Taps, TensorStruct, op_name
from ggprune.runtime.softmax import softmax

# `build_moe_ffn` in llama-graph.cpp: what the router says of every expert, by layer.
LOGITS = ("ffn_moe_logits", "ffn_moe_logits_biased")
PROBABILITIES = "ffn_moe_probs"
CHOSEN_BY = "ffn_moe_probs_biased"


def expert_taps(gone: Experts) -> Taps:
    """Taps that leave out experts, (layer -> their numbers)."""
    taps: dict[bytes, Handler] = {}
    for layer, experts in gone.items():
        router = _Router(experts)
        handlers = {**dict.fromkeys(LOGITS, router.hear), PROBABILITIES: router.share,
                    CHOSEN_BY: router.mask}  # fmt: skip
        taps |= {f"{name}-{layer}".encode(): handler for name, handler in handlers.items()}
    return taps


def check_routers(graph: Graph, layers: Iterable[int]) -> None:
    """Raises ArchitectureError if the graph has no router by which experts could be left out."""
    names = frozenset(graph.names)
    for layer in layers:
        if f"{LOGITS[0]}-{layer}".encode() not in names:
            raise ArchitectureError(f"layer {layer}: the graph does not show its router")


class _Router:
    """One layer's router in one pass: rows are tokens, columns experts."""

    def __init__(self, gone: tuple[int, ...]) -> None:
        self.gone = list(gone)
        self.logits: Float32 | None = None

    def hear(self, node: StreamNode) -> None:
        self.mask(node)
        self.logits = node.read()

    def mask(self, node: StreamNode) -> None:
        values = node.read()
        values[:, self.gone] = -np.inf
        node.write(values)

    def share(self, node: StreamNode) -> None:
        """What the router makes of its outputs, where each depends on all."""
        if op_name(TensorStruct.from_address(node.pointer).op) != "SOFT_MAX":
            return
        assert self.logits is not None
        values = np.full_like(self.logits, -np.inf)
        left = np.delete(np.arange(values.shape[1]), self.gone)
        values[:, left] = softmax(self.logits[:, left])
        node.write(values)
