"""The matrices through which a layer writes into the residual stream, found in the graph.

What enters such a matrix, and what stands between its product and the stream, is read off the
nodes, for any architecture: sums, constant factors, at most one norm. A matrix with anything else
behind it is left alone, and it is said why.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from ggprune.ablation.graph import Graph
from ggprune.metrics.estimates import Float32
from ggprune.model.names import MIXER, Role, block_of, roles_of
from ggprune.runtime.nodes import TensorStruct, leaf_values

NAMES_ONLY = frozenset({"RESHAPE", "CONT"})  # the same values in the same order
# What may become of the products of experts between their gates and the stream.
SUMS = NAMES_ONLY | {"ADD", "VIEW", "GET_ROWS", "SUM_ROWS", "PERMUTE", "TRANSPOSE", "SCALE"}


@dataclass(frozen=True)
class Sum:
    """Something is added: a node of the graph, or a tensor of the model."""

    node: int | None
    values: Float32 | None = None  # of the model's tensor, (n_out,)


@dataclass(frozen=True)
class Factor:
    """All is multiplied by a number."""

    value: float


@dataclass(frozen=True, eq=False)
class Norm:
    """Each token's vector is divided by its root mean square, then multiplied by `gain`."""

    gain: Float32  # (n_out,)


@dataclass(frozen=True, kw_only=True)
class Site:
    """A matrix W of a layer; its product with what enters it becomes `target` by `steps`."""

    layer: int  # of the original model
    tensor: str  # in the names of the model that it was found in
    pointer: int  # the loaded tensor
    input: int  # positions of graph nodes
    target: int
    is_middle: bool  # is the target the stream between attention and FFN?
    steps: tuple[Sum | Factor | Norm, ...]

    @cached_property
    def norm(self) -> Norm | None:
        return next((step for step in self.steps if isinstance(step, Norm)), None)

    @property
    def addends(self) -> tuple[int, ...]:
        """Nodes that are added on the way."""
        sums = (step for step in self.steps if isinstance(step, Sum))
        return tuple(step.node for step in sums if step.node is not None)


@dataclass(frozen=True, kw_only=True)
class ExpertSite:
    """The output matrices of routed experts, whose products are weighted and added up."""

    layer: int  # of the original model
    tensor: str
    pointer: int
    input: int  # positions of graph nodes
    experts: int  # the numbers of each token's experts
    gates: int  # the weights of their products
    factor: float  # that their sum is multiplied by on its way into the stream


@dataclass(frozen=True)
class Untouched:
    """A matrix of a layer that is not fitted, and why."""

    layer: int
    tensor: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Span:
    """A layer's stretch of the graph: nodes of the stream in front of it, inside it, behind it."""

    layer: int
    first: int
    middle: int | None
    last: int


def sites_of(
    graph: Graph, nodes: Sequence[TensorStruct], span: Span
) -> tuple[tuple[Site, ...], tuple[Untouched, ...]]:
    """At most one for the stream between attention and FFN, one for the stream behind the layer.

    Of several that write to the same place (parallel attention and FFN) the FFN's is taken.
    """
    sites, untouched = _Finder(graph, nodes, span).find()
    chosen: list[Site] = []
    for target in dict.fromkeys(site.target for site in sites):
        *others, best = sorted(
            (site for site in sites if site.target == target),
            key=lambda site: not roles_of(site.tensor) & MIXER,
        )
        chosen.append(best)
        untouched += [
            Untouched(span.layer, site.tensor, f"writes to the same place as {best.tensor}")
            for site in others
        ]
    return tuple(chosen), tuple(untouched)


def experts_of(graph: Graph, nodes: Sequence[TensorStruct], span: Span) -> tuple[ExpertSite, ...]:
    """Where routed experts write, if their products are multiplied by one number each."""
    finder = _Finder(graph, nodes, span)
    places = range(span.first + 1, span.last + 1)
    return tuple(s for s in map(finder.experts_at, places) if s is not None)


class _Finder:
    """The stretch of a graph in which a layer's matrices are looked for."""

    def __init__(self, graph: Graph, nodes: Sequence[TensorStruct], span: Span) -> None:
        self.graph, self.nodes, self.span = graph, nodes, span
        self.position = {pointer: i for i, pointer in enumerate(graph.pointers)}
        self.users: dict[int, list[int]] = {}  # by node, those of the stretch that read it
        for i in range(span.first + 1, span.last + 1):
            for source in dict.fromkeys(nodes[i].src):
                if source in self.position:
                    self.users.setdefault(self.position[source], []).append(i)

    def find(self) -> tuple[list[Site], list[Untouched]]:
        sites: list[Site] = []
        untouched: list[Untouched] = []
        for i in range(self.span.first + 1, self.span.last + 1):
            name = self.graph.factors[i].decode("utf-8", "replace")
            if Role.WRITER not in roles_of(name) or block_of(name) is None:
                continue
            found = self.site_at(i, name)
            if isinstance(found, Site):
                sites.append(found)
            else:
                untouched.append(Untouched(self.span.layer, name, found))
        return sites, untouched

    def experts_at(self, i: int) -> ExpertSite | None:
        name = self.graph.factors[i].decode("utf-8", "replace")
        if self.graph.ops[i] != "MUL_MAT_ID" or Role.WRITER not in roles_of(name):
            return None
        node, stream = self.nodes[i], self.nodes[self.span.last]
        entering, numbers = (self.position.get(source) for source in (node.src[1], node.src[2]))
        weighted = self.weighted_behind(i)
        if entering is None or numbers is None or weighted is None:
            return None
        factor = self.factor_behind(weighted[0])
        if factor is None or stream.ne[1] * stream.ne[2] != node.ne[2]:  # one row for every token
            return None
        return ExpertSite(
            layer=self.span.layer, tensor=name, pointer=int(node.src[0]), input=entering,
            experts=numbers, gates=weighted[1], factor=factor,
        )  # fmt: skip

    def weighted_behind(self, i: int) -> tuple[int, int] | None:
        """Where the products of experts are multiplied by one number each, and these numbers;
        biases may be added before."""
        at = i
        while len(users := self.users.get(at, [])) == 1:
            at, before = users[0], at
            if self.graph.ops[at] == "MUL":
                others = [self.position.get(s) for s in self.nodes[at].src if s]
                gates = next((f for f in others if f is not None and f != before), None)
                if gates is None or self.nodes[gates].ne[:2] != [1, self.nodes[i].ne[1]]:
                    return None
                return at, gates
            if self.graph.ops[at] != "ADD_ID":
                return None
        return None

    def factor_behind(self, start: int) -> float | None:
        """What a node is multiplied by until it is in the stream; None if it is not just added."""
        behind, factor = {start}, 1.0
        for i in range(start + 1, self.span.last + 1):
            if not behind.intersection(self.graph.reads[i]):
                continue
            if self.graph.ops[i] not in SUMS:
                return None
            if self.graph.ops[i] == "SCALE":
                scale, bias = struct.unpack_from("<2f", bytes(self.nodes[i].op_params))
                if bias != 0 or scale == 0:
                    return None
                factor *= scale
            behind.add(i)
        return factor

    def site_at(self, i: int, name: str) -> Site | str:
        """The site of a product, or why it is none."""
        node, span = self.nodes[i], self.span
        if self.graph.ops[i] != "MUL_MAT":
            return "products of its experts are not just weighted and added up"
        entering = self.position.get(node.src[1])
        if entering is None or prod(node.ne[2:]) != 1:
            return "is not multiplied with one row for every token"
        steps: list[Sum | Factor | Norm] = []
        at = i
        while at not in (span.last, span.middle):
            users = self.users.get(at, [])
            step = self.step(at, users[0]) if len(users) == 1 else "is used in several places"
            if isinstance(step, str):
                return step
            if step is not None:
                steps.append(step)
            at = users[0]
        if sum(isinstance(step, Norm) for step in _joined(steps)) > 1:
            return "several norms stand behind it"
        return Site(
            layer=span.layer, tensor=name, pointer=int(node.src[0]), input=entering, target=at,
            is_middle=at == span.middle, steps=_joined(steps),
        )  # fmt: skip

    def step(self, at: int, behind: int) -> Sum | Factor | Norm | str | None:
        """What node `behind` does with node `at`; None if nothing, words if it is not known how
        to undo it."""
        node, ops = self.nodes[behind], self.graph.ops
        op, rows = ops[behind], self.nodes[at].ne[1]
        others = [s for s in node.src if s and s != self.graph.pointers[at]]
        known = self.position.get(others[0]) if others else None
        leaf = leaf_values(others[0]) if others and known is None else None
        step: Sum | Factor | Norm | str | None = f"{op} stands behind it"
        if op in NAMES_ONLY or (op == "GET_ROWS" and node.ne[1] == rows):  # all of them
            step = None
        elif op == "SCALE":
            factor, bias = struct.unpack_from("<2f", bytes(node.op_params))
            step = Factor(factor) if bias == 0 and factor != 0 else "is scaled with an offset"
        elif op == "ADD" and len(others) == 1 and not (known is None and leaf is None):
            step = Sum(known, leaf)
        elif op == "RMS_NORM":
            step = Norm(np.ones(int(node.ne[0]), np.float32))
        elif op == "MUL" and len(others) == 1 and leaf is not None and ops[at] == "RMS_NORM":
            step = Norm(leaf)
        return step


def _joined(steps: Sequence[Sum | Factor | Norm]) -> tuple[Sum | Factor | Norm, ...]:
    """A norm and its gain are one step."""
    result: list[Sum | Factor | Norm] = []
    for step in steps:
        if isinstance(step, Norm) and result and isinstance(result[-1], Norm):
            result[-1] = step
        else:
            result.append(step)
    return tuple(result)
