"""Taps that leave layers out while the model computes, and listen to its residual stream.

A layer whose output is overwritten with its input is gone: the rest computes exactly what a file
without it would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import c_int32

from ggprune.ablation.graph import Graph, Mask, graph_of
from ggprune.arch.architecture import StreamNames
from ggprune.errors import LlamaError
from ggprune.metrics.estimates import Float32
from ggprune.model.layers import runs_of
from ggprune.runtime.nodes import COMPUTE, Handler, NamedTaps, StreamNode, Taps
from ggprune.runtime.session import Session, Tokens

NO_STEP = (0, c_int32(), False, False)  # behind the last node of a graph: fits none


class Tracer(NamedTaps):
    """Also writes down the nodes and what they read."""

    def __init__(self, taps: Taps) -> None:
        super().__init__(taps)
        self.pointers: list[int] = []

    def ask(self, pointer: int) -> bool:
        self.pointers.append(pointer)
        return super().ask(pointer)


class GraphChangedError(LlamaError):
    """llama.cpp has built another graph than the one that was traced."""


class PartOfGraph:
    """Computes only some nodes of a traced graph; handlers are called by position."""

    def __init__(self, graph: Graph, live: Mask, handlers: Mapping[int, Handler]) -> None:
        self.handlers = handlers
        self.position = -1
        is_read = [False] * len(live)
        for position in handlers:
            is_read[position] = True
        self._steps = zip(graph.pointers, graph.flags, live.tolist(), is_read, strict=True)

    def ask(self, pointer: int) -> bool:
        """Called for every node of every pass: what can be looked up was looked up before."""
        self.position += 1
        known, flags, is_live, is_read = next(self._steps, NO_STEP)
        if known != pointer:
            raise GraphChangedError("llama.cpp has built another graph")
        flags.value = flags.value | COMPUTE if is_live else flags.value & ~COMPUTE
        return is_read

    def computed(self, pointer: int) -> None:
        self.handlers[self.position](StreamNode(pointer))


def traced(session: Session, chunk: Tokens, n_output: int) -> Graph:
    """The graph of a decode of one chunk, (n_ctx,), with logits for its last `n_output` tokens.

    Raises LlamaError if the library lays out its nodes differently.
    """
    tracer = Tracer({})
    session.run(tracer)
    session.chunk_logits(chunk[None, :], n_output)
    return graph_of(tracer.pointers)


def joined(*all_taps: Taps) -> Taps:
    """Several taps at once; where they name the same node, the first ones' handlers go first."""
    result: dict[bytes, Handler] = {}
    for taps in all_taps:
        for name, handler in taps.items():
            result[name] = _both(result[name], handler) if name in result else handler
    return result


def ablation_taps(places: Sequence[StreamNames], drop: Sequence[int]) -> Taps:
    """Taps that leave out the parts `drop`: each run's output becomes the run's input.

    Part i, a layer of `Architecture.places`, lies between the places i and i + 1. Where the graph
    has cut the stream down to the rows that yield logits (behind the last layer), those are taken
    to be the last rows of the batch. MTP blocks take no part in decoding.
    """
    saves: dict[bytes, Handler] = {}
    restores: dict[bytes, Handler] = {}
    for first, last in runs_of(n for n in drop if n < len(places) - 1):
        for before, behind in zip(places[first], places[last + 1], strict=True):
            if not before:
                raise LlamaError(f"the stream in front of layer {first} has no name in the graph")
            entering: list[Float32] = []
            saves |= dict.fromkeys(map(str.encode, before), reader(entering))
            restores |= dict.fromkeys(map(str.encode, behind), writer(entering))
    return joined(restores, saves)


def _both(first: Handler, second: Handler) -> Handler:
    def handle(node: StreamNode) -> None:
        first(node)
        second(node)

    return handle


def reader(kept: list[Float32]) -> Handler:
    def read(node: StreamNode) -> None:
        kept[:] = [node.read()]

    return read


def writer(kept: list[Float32]) -> Handler:
    """Behind the last layer only the rows that yield logits are left: the last ones."""

    def write(node: StreamNode) -> None:
        node.write(kept[0][len(kept[0]) - node.shape[0] :])

    return write


class StreamRecorder:
    """Taps that keep the residual stream at all places, in the first run through the layers.

    `rows` are as llama.cpp has them, `stream` has one row per token.
    """

    def __init__(self, places: Sequence[StreamNames]) -> None:
        self.rows: dict[int, Float32] = {}
        self.stream: list[Float32 | None] = [None] * len(places)
        self.taps: dict[bytes, Handler] = {}
        for position, place in enumerate(places):

            def keep(node: StreamNode, position: int = position) -> None:
                self.rows[position] = node.read()
                self.stream[position] = node.by_token(self.rows[position])

            self.taps |= dict.fromkeys(map(str.encode, place[0]), keep)
