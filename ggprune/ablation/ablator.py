"""Logits of a model without some of its layers or experts, computing only what lies behind.

One pass through the whole model keeps the residual stream in front of every layer. Without layers
n..m the stream in front of n becomes the stream behind m: it is supplied, and nodes that nobody
needs any more are left out. The logits are those of the full computation, bit for bit; half of the
work, on average over the layers, is saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from ggprune.ablation.graph import Graph, Mask, graph_of
from ggprune.ablation.taps import (
    GraphChangedError,
    PartOfGraph,
    StreamRecorder,
    Tracer,
    ablation_taps,
    joined,
    reader,
    writer,
)
from ggprune.arch.architecture import StreamNames
from ggprune.errors import LlamaError
from ggprune.metrics.estimates import Float32
from ggprune.model.layers import runs_of
from ggprune.runtime.nodes import Taps
from ggprune.runtime.session import Logits, Session, Tokens

# What else is left out of a pass, by the part in which it is.
Masks = Mapping[int, Taps]
NO_MASKS: Masks = MappingProxyType({})
Stretches = tuple[tuple[int, int], ...]  # of the graph, first and last node


@dataclass(frozen=True)
class Stream:
    """The residual stream of one chunk, without the parts `drop` and what `masks` leave out.

    `rows[n]` is what enters part n as llama.cpp has it; n_part: what leaves the last one.
    `tokens[n]` is the same with one row per token, (n_token, n_stream * n_embd).
    """

    drop: tuple[int, ...]
    rows: dict[int, Float32]
    tokens: list[Float32 | None]
    masks: Masks = field(default_factory=dict)


class Ablator:
    """Computes chunks with and without parts, through a session for one chunk at a time.

    Part i lies between the places i and i + 1 of the stream: a layer, with `Architecture.places`.
    """

    def __init__(
        self, session: Session, places: Sequence[StreamNames], *, share_prefix: bool = True
    ) -> None:
        """Without `share_prefix` every pass computes the whole model: slower, the same numbers."""
        self.session, self.places = session, tuple(places)
        self.share_prefix = share_prefix and len(places[0]) == 1  # no loops over the layers
        self._is_proved = False
        self._graph: Graph | None = None
        self._live: dict[Stretches, tuple[Mask, frozenset[int]]] = {}
        self._entries: dict[int, int] = {}  # where a part's input is in the graph: its number

    def record(
        self, chunk: Tokens, n_output: int, drop: Sequence[int] = (), masks: Masks = NO_MASKS
    ) -> tuple[Logits, Stream]:
        """Logits of the last `n_output` tokens without `drop`, and the stream between the layers.

        chunk: (n_ctx,). The logits, (n_output, n_vocab), are valid until the next pass.
        """
        recorder = StreamRecorder(self.places)
        left_out = joined(ablation_taps(self.places, drop), *masks.values())
        tracer = Tracer(joined(left_out, recorder.taps))
        self.session.run(tracer)
        logits = self._logits(chunk, n_output)
        if self._graph is None or self._graph.pointers != tuple(tracer.pointers):
            self._graph = None
            self._live.clear()
            if self.share_prefix:
                self._trace(tracer)
        return logits, Stream(tuple(sorted(drop)), recorder.rows, recorder.stream, masks)

    def without(
        self, chunk: Tokens, n_output: int, parts: Sequence[int], stream: Stream,
        masks: Masks = NO_MASKS,
    ) -> Logits:  # fmt: skip
        """Logits of the chunk that `stream` was kept of, without `parts` as well, and with `masks`
        in place of the stream's. As `record`."""
        drop = tuple(sorted({*parts, *stream.drop}))
        changed = (part for part, taps in masks.items() if stream.masks.get(part) is not taps)
        first = min((*parts, *changed))
        if self._graph is not None and first in stream.rows:
            runs = runs_of(n for n in drop if first <= n < len(self.places) - 1)
            try:
                self.session.run(self._part(self._graph, first, runs, stream, masks))
                logits = self._logits(chunk, n_output)
                if self._is_proved:
                    return logits
                # Once per run: does this backend leave nodes out as it should? If not, never.
                shared, whole = logits.copy(), self._whole(chunk, n_output, drop, masks)
                self._is_proved = bool(np.array_equal(shared, whole))
                if not self._is_proved:
                    self.share_prefix, self._graph = False, None
                return whole
            except GraphChangedError:
                self._graph = None
        return self._whole(chunk, n_output, drop, masks)

    def share_computed(self, drop: Sequence[int], first: int) -> float:
        """Share of the graph's nodes that `without` computes for `drop` from part `first` on."""
        if self._graph is None:
            return 1.0
        _, mask, _ = self._needed(self._graph, first, runs_of(n for n in drop if n >= first))
        return float(mask.mean())

    def _whole(self, chunk: Tokens, n_output: int, drop: Sequence[int], masks: Masks) -> Logits:
        self.session.tap(joined(ablation_taps(self.places, drop), *masks.values()))
        return self._logits(chunk, n_output)

    def _logits(self, chunk: Tokens, n_output: int) -> Logits:
        logits: Logits = self.session.chunk_logits(chunk[None, :], n_output)[0]
        return logits

    def _trace(self, tracer: Tracer) -> None:
        try:
            graph = graph_of(tracer.pointers)
            named = [n for n, place in enumerate(self.places[:-1]) if place[0]]
            self._entries = {graph.find(self.places[n][0]): n for n in named}
            self._graph = graph
        except LlamaError:  # an unknown build: compute everything
            self.share_prefix = False

    def _needed(
        self, graph: Graph, first: int, runs: Sequence[tuple[int, int]]
    ) -> tuple[Stretches, Mask, frozenset[int]]:
        """Where runs of parts lie in the graph (behind what enters, up to what leaves), nodes to
        compute, and inputs of parts to supply: some share keys with later layers.

        Where no run begins with the part `first`, nothing of it is left out but what is before."""
        stretches = tuple(
            (graph.find(self.places[start][0]) + 1, graph.find(self.places[last + 1][0]))
            for start, last in runs
        )
        if not runs or runs[0][0] != first:
            entry = graph.find(self.places[first][0])
            stretches = ((entry, entry), *stretches)
        if stretches not in self._live:
            known = [p for p in self._entries if p < stretches[0][1]]
            self._live[stretches] = graph.live(stretches, known)
        return stretches, *self._live[stretches]

    def _part(
        self, graph: Graph, first: int, runs: Sequence[tuple[int, int]], stream: Stream,
        masks: Masks,
    ) -> PartOfGraph:  # fmt: skip
        """Supply what enters the part `first`, behind it if it goes; alias the stream around other
        runs."""
        stretches, live, reached = self._needed(graph, first, runs)
        handlers = {p: writer([stream.rows[self._entries[p]]]) for p in reached}
        handlers[stretches[0][1]] = writer([stream.rows[first]])
        positions = {name: i for i, name in enumerate(graph.names)} if masks else {}
        for taps in (masks[part] for part in masks if part >= first):
            handlers |= {positions[name]: taps[name] for name in taps if name in positions}
        for before, behind in stretches[1:]:
            kept: list[Float32] = []
            handlers[before - 1] = reader(kept)
            handlers[behind] = writer(kept)
        return PartOfGraph(graph, live, handlers)
