"""What can be left out of a model in memory: whole layers, or only their attention, or their FFN.

Where attention ends and the FFN begins is read off the graph: it is the place of the residual
stream that all paths through the layer go through (`ffn_inp` in most architectures).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ggprune.ablation.graph import Graph
from ggprune.ablation.taps import traced
from ggprune.arch.architecture import Architecture, StreamNames
from ggprune.errors import ArchitectureError, UsageError
from ggprune.model.cut import Cut
from ggprune.model.names import MIXER, Role, roles_of
from ggprune.model.unit import Unit
from ggprune.runtime.session import Session, Tokens

SCORED = (Unit.LAYER, Unit.ATTN, Unit.FFN)  # what can be left out in memory


def parse_unit(name: str) -> Unit:
    """Raises UsageError for an unknown name."""
    names = {unit.value: unit for unit in SCORED}
    if name not in names:
        raise UsageError(f"--unit {name}: one of {', '.join(names)}")
    return names[name]


@dataclass(frozen=True)
class Parts:
    """Places of the residual stream, and the part between two of them that is a layer's unit."""

    places: tuple[StreamNames, ...]
    number: Mapping[int, int]  # by layer; layers without such a part are missing


def parts_of(
    arch: Architecture, unit: Unit, session: Session, chunk: Tokens, n_output: int
) -> Parts:
    """The parts of a model; modules are looked for in the graph of one chunk, (n_ctx,).

    Nodes without a name are called by their number in it, so `n_output` is that of all passes.

    Raises ArchitectureError if no layer has an attention and an FFN of its own.
    """
    if unit is Unit.LAYER:
        return Parts(arch.places, {n: n for n in range(arch.n_trunk)})
    if arch.n_loop > 1:
        raise ArchitectureError(f"--unit {unit.value}: layers of {arch.name} are run repeatedly")
    middles = _middles(arch, session, chunk, n_output)
    if not middles:
        raise ArchitectureError(
            f"--unit {unit.value}: no layer of {arch.name} is attention and then an FFN"
        )
    divided: list[StreamNames] = []
    number = {}
    for layer, place in enumerate(arch.places):
        divided.append(place)
        if layer in middles:
            number[layer] = len(divided) - 1 if unit is Unit.ATTN else len(divided)
            divided.append(((middles[layer],),))
    return Parts(tuple(divided), number)


def halves_of(arch: Architecture, session: Session, chunk: Tokens, n_output: int) -> Halves:
    """Where the graph of one chunk, (n_ctx,), divides the layers in two."""
    return divided(arch, _middles(arch, session, chunk, n_output))


def _middles(
    arch: Architecture, session: Session, chunk: Tokens, n_output: int
) -> Mapping[int, str]:
    return find_middles(traced(session, chunk, n_output), arch.places)


@dataclass(frozen=True)
class Halves:
    """Places of the residual stream with those between attention and FFN, and what is where.

    `numbers[u]` is the part that unit u is (2n: the attention of layer n, 2n + 1: its FFN); a layer
    that is not divided is one part and has none there.
    """

    places: tuple[StreamNames, ...]
    numbers: Mapping[int, int]
    whole: Mapping[int, tuple[int, ...]]  # parts of a layer

    def parts(self, cut: Cut) -> tuple[int, ...]:
        """Raises ArchitectureError for a half of a layer that is not divided."""
        found: set[int] = set()
        for piece in cut:
            if piece.linear:
                raise ArchitectureError(f"{piece}: is fitted in a file, not in memory")
            if piece.unit is Unit.LAYER:
                found.update(self.whole[piece.layer])
                continue
            unit = 2 * piece.layer + (piece.unit is Unit.FFN)
            if unit not in self.numbers:
                raise ArchitectureError(f"{piece}: the graph does not divide the layer in two")
            found.add(self.numbers[unit])
        return tuple(sorted(found))


def divided(arch: Architecture, middles: Mapping[int, str]) -> Halves:
    """`middles` are names of nodes between attention and FFN, by layer."""
    places: list[StreamNames] = []
    numbers: dict[int, int] = {}
    whole: dict[int, tuple[int, ...]] = {}
    *entering, leaving = arch.places
    for layer, place in enumerate(entering):
        first = len(places)
        places.append(place)
        whole[layer] = (first,)
        if layer in middles:
            numbers |= {2 * layer: first, 2 * layer + 1: first + 1}
            whole[layer] = (first, first + 1)
            places.append(((middles[layer],),))
    return Halves((*places, leaving), numbers, whole)


def find_middles(graph: Graph, places: Sequence[StreamNames]) -> dict[int, str]:
    """Name of the node between attention and FFN, by layer; layers without one are left out."""
    by_layer = {}
    for layer in range(len(places) - 1):
        if not places[layer][0]:  # the graph has no name for what enters
            continue
        first, last = (graph.find(places[i][0]) for i in (layer, layer + 1))
        middles = [i for i in _cuts(graph, first, last) if _is_middle(graph, first, i, last)]
        if middles:
            by_layer[layer] = graph.names[middles[-1]].decode()
    return by_layer


def _cuts(graph: Graph, first: int, last: int) -> Iterator[int]:
    """Nodes that all paths from `first` to `last` go through."""
    behind = {first}  # depends on first
    for i in range(first + 1, last + 1):
        if behind.intersection(graph.reads[i]):
            behind.add(i)
    needed, stack = {last}, [last]  # and last depends on it
    while stack:
        for j in graph.reads[stack.pop()]:
            if j in behind and j not in needed:
                needed.add(j)
                stack.append(j)
    last_reader = dict.fromkeys(needed, 0)
    for i in sorted(needed):
        for j in needed.intersection(graph.reads[i]):
            last_reader[j] = max(last_reader[j], i)
    reach = last_reader.get(first, 0)
    for i in sorted(needed - {first, last}):
        if reach == i:
            yield i
        reach = max(reach, last_reader[i])


def _is_middle(graph: Graph, first: int, i: int, last: int) -> bool:
    """Is this node a sum, with the products of attention in front of it, the FFN's behind it?"""
    front, behind = graph.factors[first + 1 : i], graph.factors[i + 1 : last + 1]
    if graph.ops[i] != "ADD" or not any(front) or _has(front, Role.FFN):
        return False
    return _has(behind, Role.FFN) and not _has(behind, MIXER)


def _has(factors: Sequence[bytes], roles: Role) -> bool:
    return any(roles_of(name.decode("utf-8", "replace")) & roles for name in factors)
