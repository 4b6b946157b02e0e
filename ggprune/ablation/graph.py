"""The graph that llama.cpp computes, and which of its nodes a computation needs.

From one traced decode: the nodes in the order in which they are computed, and what each reads.
When the values of some nodes are supplied from outside, everything that only they needed can be
left out. Knows nothing of layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ctypes import c_int32
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import LlamaError
from ggprune.runtime.nodes import COMPUTE, TensorStruct, flags_of, op_name, tensor_name

Mask = NDArray[np.bool_]

# Operations that only give other names to memory; all others that end in a view write into it.
ALIASES = frozenset({"NONE", "VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"})
PRODUCTS = frozenset({"MUL_MAT", "MUL_MAT_ID"})

_COPY = re.compile(rb"[^#]+#(.+)#[0-9]+")


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Nodes in the order of computation; `reads[i]` are positions of nodes that node i needs.

    `factors[i]` is the name of what node i multiplies with, if it is a matrix product.
    """

    pointers: tuple[int, ...]
    names: tuple[bytes, ...]
    ops: tuple[str, ...]
    factors: tuple[bytes, ...]
    reads: tuple[tuple[int, ...], ...]

    @cached_property
    def flags(self) -> tuple[c_int32, ...]:
        """Those of all nodes, in memory."""
        return tuple(map(flags_of, self.pointers))

    def find(self, names: Sequence[str]) -> int:
        """Position of the last node with one of these names. Raises LlamaError if there is none."""
        encoded = {name.encode() for name in names}
        for i in range(len(self.names) - 1, -1, -1):
            if self.names[i] in encoded:
                return i
        raise LlamaError(f"llama.cpp's graph has no node named {' or '.join(names)}")

    def live(
        self, dropped: Sequence[tuple[int, int]], supplied: Iterable[int] = ()
    ) -> tuple[Mask, frozenset[int]]:
        """Nodes that must be computed when stretches of the graph are not wanted.

        `dropped` are (first, last) in order; the value of `last` is supplied from outside. Computed
        is what lies behind the first stretch, without the others, and whatever that needs. Also
        returns which of the nodes that can be `supplied` as well are needed.
        """
        live = np.zeros(len(self.pointers), bool)
        live[dropped[0][1] + 1 :] = True
        for first, last in dropped:
            live[first : last + 1] = False
        ends = frozenset(last for _, last in dropped)
        live, reached = self.needed(np.flatnonzero(live).tolist(), ends.union(supplied))
        return live, reached - ends

    def needed(self, wanted: Iterable[int], supplied: Iterable[int]) -> tuple[Mask, frozenset[int]]:
        """Nodes to compute for those that are wanted, where values of some others are supplied.

        Also returns which of the supplied ones that takes. What is wanted is computed.
        """
        live, given = np.zeros(len(self.pointers), bool), frozenset(supplied)
        stack, reached = list(wanted), set()
        live[stack] = True
        while stack:
            for j in self.reads[stack.pop()]:
                if live[j]:
                    continue
                if j in given:
                    reached.add(j)
                else:
                    live[j] = True
                    stack.append(j)
        return live, frozenset(reached)


def graph_of(pointers: Sequence[int]) -> Graph:
    """The graph of nodes that were asked about in this order, while it is in memory.

    Raises LlamaError if a node lacks the flag that all nodes of a graph have: then the library
    lays out its tensors differently.
    """
    position = {pointer: i for i, pointer in enumerate(pointers)}
    writers: dict[int, list[int]] = {}  # of memory outside the graph: caches, states
    named: dict[bytes, int] = {}  # nodes so far
    reads: list[tuple[int, ...]] = []
    ops: list[str] = []
    factors: list[bytes] = []
    for i, pointer in enumerate(pointers):
        struct = TensorStruct.from_address(pointer)
        if not struct.flags & COMPUTE:
            raise LlamaError("this build of llama.cpp has no flag that leaves out graph nodes")
        sources = [s for s in (*struct.src, struct.view_src) if s]
        needed = {position[s] for s in sources if position.get(s, i) < i}
        copied = (_copied(s) for s in sources if s not in position)
        needed |= {named[name] for name in copied if name in named}
        for source in sources:
            needed.update(writers.get(_root(source), ()))
        named[tensor_name(pointer)] = i
        reads.append(tuple(needed))
        ops.append(op_name(struct.op))
        factors.append(tensor_name(struct.src[0]) if ops[-1] in PRODUCTS else b"")
        root = _root(pointer)
        if root not in position and ops[-1] not in ALIASES:
            writers.setdefault(root, []).append(i)
    return Graph(
        pointers=tuple(pointers), names=tuple(map(tensor_name, pointers)), ops=tuple(ops),
        factors=tuple(factors), reads=tuple(reads),
    )  # fmt: skip


def _copied(pointer: int) -> bytes:
    """The name of what a tensor is a copy of, on another device; "" if it is none.

    ggml_backend_sched_split_graph (ggml-backend.cpp) calls it `device#name#number`.
    """
    match = _COPY.fullmatch(tensor_name(pointer))
    return match[1] if match else b""


def _root(pointer: int) -> int:
    """The tensor that owns the memory."""
    while view := TensorStruct.from_address(pointer).view_src:
        pointer = view
    return pointer
