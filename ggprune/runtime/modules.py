"""What can be left out of a model in memory: whole layers, or only their attention, or their FFN.

Where attention ends and the FFN begins is read off the graph: it is the place of the residual
stream that all paths through the layer go through (`ffn_inp` in most architectures).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from ggprune.arch import Architecture, StreamNames
from ggprune.errors import ArchitectureError, UsageError
from ggprune.runtime.graph import Graph, graph_of
from ggprune.runtime.session import Session, Tokens
from ggprune.runtime.taps import Tracer

ATTN_WEIGHT = re.compile(rb"\.(attn_|time_mix_|ssm_)")
FFN_WEIGHT = re.compile(rb"\.(ffn_|channel_mix_)")  # RWKV mixes channels in place of an FFN


class Unit(str, Enum):
    """What is left out and scored."""

    LAYER = "layer"
    ATTN = "attn"  # the first half of a layer: attention, or what stands in for it
    FFN = "ffn"  # the second half


def parse_unit(name: str) -> Unit:
    """Raises UsageError for an unknown name."""
    try:
        return Unit(name)
    except ValueError as e:
        raise UsageError(f"--unit {name}: one of {', '.join(u.value for u in Unit)}") from e


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
    tracer = Tracer({})
    session.run(tracer)
    session.chunk_logits(chunk[None, :], n_output)
    middles = find_middles(graph_of(tracer.pointers), arch.places)
    if not middles:
        raise ArchitectureError(
            f"--unit {unit.value}: no layer of {arch.name} is attention and then an FFN"
        )
    return _divided(arch.places, middles, unit)


def _divided(places: Sequence[StreamNames], middles: Mapping[int, str], unit: Unit) -> Parts:
    divided: list[StreamNames] = []
    number = {}
    for layer, place in enumerate(places):
        divided.append(place)
        if layer in middles:
            number[layer] = len(divided) - 1 if unit is Unit.ATTN else len(divided)
            divided.append(((middles[layer],),))
    return Parts(tuple(divided), number)


def find_middles(graph: Graph, places: Sequence[StreamNames]) -> dict[int, str]:
    """Name of the node between attention and FFN, by layer; layers without one are left out."""
    found = {}
    for layer in range(len(places) - 1):
        if not places[layer][0]:  # the graph has no name for what enters
            continue
        first, last = (graph.find(places[i][0]) for i in (layer, layer + 1))
        middles = [i for i in _cuts(graph, first, last) if _is_middle(graph, first, i, last)]
        if middles:
            found[layer] = graph.names[middles[-1]].decode()
    return found


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
    return (
        graph.ops[i] == "ADD"
        and any(front)
        and any(map(FFN_WEIGHT.search, behind))
        and not any(map(FFN_WEIGHT.search, front))
        and not any(map(ATTN_WEIGHT.search, behind))
    )
