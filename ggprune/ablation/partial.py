"""Values of some nodes of the graph, computed from values of others that are supplied.

Only what lies between them is computed. Knows nothing of layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ggprune.ablation.graph import Graph, Mask, graph_of
from ggprune.ablation.taps import GraphChangedError, PartOfGraph, Tracer, reader, writer
from ggprune.metrics.estimates import Float32
from ggprune.runtime.nodes import TYPE_I32, Handler, TensorStruct, copy_of, read_indices
from ggprune.runtime.session import Session, Tokens

Positions = tuple[int, ...]


class PartialComputer:
    """Parts of the graph of chunks of one length, through a session for one chunk at a time."""

    def __init__(self, session: Session, first: Tokens, n_output: int) -> None:
        """The graph is that of decodes with logits for the last `n_output` tokens; the last layer
        computes only these. It is traced on the chunk `first`, (n_ctx,)."""
        self.session, self.n_output = session, n_output
        self._first = first
        self._live: dict[tuple[Positions, Positions], Mask] = {}
        self.graph, self.nodes = self._trace()

    def compute(
        self, chunk: Tokens, supplied: Mapping[int, Float32], wanted: Sequence[int]
    ) -> list[Float32]:
        """Values of the nodes `wanted`, (n_row, n) each; nodes are positions in the graph.

        Whole numbers are read as floats.
        chunk: (n_ctx,) token ids, which only nodes that nothing supplied lies before depend on.
        """
        try:
            return self._compute(chunk, supplied, wanted)
        except GraphChangedError:  # llama.cpp built it anew, elsewhere in memory
            before = self.graph
            self.graph, self.nodes = self._trace()
            if (before.names, before.reads) != (self.graph.names, self.graph.reads):
                raise
            return self._compute(chunk, supplied, wanted)

    def _compute(
        self, chunk: Tokens, supplied: Mapping[int, Float32], wanted: Sequence[int]
    ) -> list[Float32]:
        key = (tuple(supplied), tuple(wanted))
        if key not in self._live:
            self._live[key], _ = self.graph.needed(wanted, supplied)
        kept: dict[int, list[Float32]] = {position: [] for position in wanted}
        handlers: dict[int, Handler] = {p: writer([values]) for p, values in supplied.items()}
        handlers |= {position: reader(values) for position, values in kept.items()}
        numbers = {p: kept[p] for p in wanted if self.nodes[p].type == TYPE_I32}
        self.session.run(_Part(self.graph, self._live[key], handlers, numbers))
        self.session.chunk_logits(chunk[None, :], self.n_output)
        return [kept[position][0] for position in wanted]

    def _trace(self) -> tuple[Graph, tuple[TensorStruct, ...]]:
        """The graph, and its nodes as they are; llama.cpp reuses their memory for other graphs."""
        tracer = Tracer({})
        self.session.run(tracer)
        self.session.chunk_logits(self._first[None, :], self.n_output)
        return graph_of(tracer.pointers), tuple(map(copy_of, tracer.pointers))


class _Part(PartOfGraph):
    """Also reads whole numbers."""

    def __init__(
        self, graph: Graph, live: Mask, handlers: Mapping[int, Handler],
        numbers: Mapping[int, list[Float32]],
    ) -> None:  # fmt: skip
        super().__init__(graph, live, handlers)
        self.numbers = numbers

    def computed(self, pointer: int) -> None:
        if self.position in self.numbers:
            self.numbers[self.position][:] = [read_indices(pointer)]
        else:
            super().computed(pointer)
