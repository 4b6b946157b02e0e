"""Measures what a model loses without cuts, chunk by chunk.

A chunk is computed once as it is; every cut then costs only what lies behind its first layer. In
memory are one chunk's residual stream and logits. Nothing that is done is remembered here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ggprune.ablation.ablator import Ablator, Stream
from ggprune.ablation.experts import check_routers, expert_taps
from ggprune.ablation.graph import Graph
from ggprune.ablation.taps import traced
from ggprune.ablation.units import Halves, halves_of, parts_of
from ggprune.arch.architecture import StreamNames, architecture_of, check_scored
from ggprune.metrics.chunks import Chunk, make_chunks
from ggprune.metrics.logits import BaseLogits, base_logits
from ggprune.metrics.similarity import angular_distances, influences, relative_magnitudes
from ggprune.metrics.text import Text
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.model.unit import Unit
from ggprune.runtime.finite import naming
from ggprune.runtime.library import default_threads
from ggprune.runtime.nodes import Taps
from ggprune.runtime.session import Compute, LlamaModel, Session
from ggprune.scoring.rows import NOTHING, BaseRows, Effort, Rows


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """How much of a text is read, how it is computed, and what of a layer is left out."""

    n_ctx: int = 512
    n_chunk: int | None = None  # None: all chunks of the text
    compute: Compute | None = None
    unit: Unit = Unit.LAYER
    cache: Path | None = None  # folder for finished measurements
    halves: bool = False  # also measures cuts with halves of layers, where the model allows it
    share_prefix: bool = True  # without: slower, the same numbers


@dataclass
class _Computed:
    """What is kept of the chunk that was computed last."""

    chunk: Chunk
    base: BaseLogits
    rows: BaseRows
    streams: dict[Cut, Stream] = field(default_factory=dict)


class Measurer:
    """A loaded model and a text in chunks: a row source that computes. Use as a context manager."""

    def __init__(self, model: Model, text: Text, options: MeasureOptions) -> None:
        """Raises ArchitectureError if layers of this model cannot be left out exactly, DataError
        if the text is too short, LlamaError if llama.cpp cannot load or compute the model."""
        arch = architecture_of(model)
        check_scored(arch)
        compute, n_ctx = options.compute or Compute(), options.n_ctx
        self.unit, self.effort = options.unit, Effort()
        self._n_threads = compute.n_threads or default_threads()
        self._loaded = LlamaModel(model.path, compute)
        self.chunks = make_chunks(text, self._loaded.tokenize, n_ctx, options.n_chunk)
        whole = replace(compute, n_batch=n_ctx, n_ubatch=n_ctx)
        self._session = Session(self._loaded, n_ctx, compute=whole, tapped=True)
        first = self.chunks[0]
        parts = parts_of(arch, options.unit, self._session, first.tokens, first.n_output)
        self.parts = {n: part for n, part in parts.number.items() if parts.places[part][0]}
        places: Sequence[StreamNames] = parts.places
        self._halves: Halves | None = None
        if options.halves and options.unit is Unit.LAYER and arch.row.halves:
            self._halves = halves_of(arch, self._session, first.tokens, first.n_output)
            places = self._halves.places
        self._graph: Graph | None = None  # once experts are left out
        self._routers: dict[tuple[int, tuple[int, ...]], Taps] = {}
        self._ablator = Ablator(self._session, places, share_prefix=options.share_prefix)
        self._computed: _Computed | None = None

    def __enter__(self) -> Measurer:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()
        self._loaded.close()

    @property
    def n_chunk(self) -> int:
        return len(self.chunks)

    @property
    def divided(self) -> frozenset[int]:
        halves = self._halves
        return frozenset(unit // 2 for unit in halves.numbers) if halves else frozenset()

    def base(self, number: int) -> BaseRows:
        """The whole model on a chunk; of the one that was computed last, it is known."""
        return self._at(number).rows

    def rows(self, number: int, cuts: Sequence[Cut], within: Cut = NOTHING) -> Iterator[Rows]:
        for cut in cuts:
            yield self._without(self._at(number), cut, within)

    def _at(self, number: int) -> _Computed:
        if self._computed is not None and self._computed.chunk.number == number:
            return self._computed
        self._computed = None  # two at once would be too much memory
        start, chunk = time.perf_counter(), self.chunks[number]
        logits, stream = self._ablator.record(chunk.tokens, chunk.n_output)
        middle = time.perf_counter()
        with naming(self._loaded.path):
            base = base_logits(chunk.scored(logits), chunk.targets, self._n_threads)
        tokens = stream.tokens
        if self._halves is not None:  # what enters layers, and what leaves the last one
            tokens = [*(tokens[parts[0]] for parts in self._halves.whole.values()), tokens[-1]]
        known = [None if x is None else chunk.scored(x) for x in tokens]
        shape = next(x.shape for x in reversed(known) if x is not None)
        # Not-a-number where the graph has no name for a place.
        scored = [np.full(shape, np.nan, np.float32) if x is None else x for x in known]
        rows = BaseRows(
            base.scores.nll, influences(scored), relative_magnitudes(scored),
            angular_distances(scored),
        )  # fmt: skip
        self.effort.work += 1
        self._count(start, middle)
        self._computed = _Computed(chunk, base, rows, {NOTHING: stream})
        return self._computed

    def _without(self, computed: _Computed, cut: Cut, within: Cut) -> Rows:
        chunk, base = computed.chunk, computed.base
        stream = self._stream(computed, within)
        parts, masks = self._parts_of(cut), self._masks_of(cut)
        more = tuple(part for part in parts if part not in stream.drop)
        changed = [part for part in masks if stream.masks.get(part) is not masks[part]]
        start = time.perf_counter()
        if more or changed:
            logits = self._ablator.without(chunk.tokens, chunk.n_output, more, stream, masks)
            self.effort.work += self._ablator.share_computed(parts, min((*more, *changed)))
        else:
            logits, _ = self._ablator.record(chunk.tokens, chunk.n_output, parts, masks)
            self.effort.work += 1
        middle = time.perf_counter()
        with naming(self._loaded.path, f" without layers {cut.brief}"):
            result = base.compare(chunk.scored(logits), chunk.targets, self._n_threads)
        self._count(start, middle)
        return Rows(result.kld, result.scores.nll, result.delta_p, result.same_top)

    def _stream(self, computed: _Computed, within: Cut) -> Stream:
        """The residual stream without the cut `within`; two are kept."""
        if within not in computed.streams:
            start, chunk = time.perf_counter(), computed.chunk
            computed.streams = {NOTHING: computed.streams[NOTHING]}
            _, computed.streams[within] = self._ablator.record(
                chunk.tokens, chunk.n_output, self._parts_of(within), self._masks_of(within)
            )
            self.effort.work += 1
            self._count(start, time.perf_counter())
        return computed.streams[within]

    def _masks_of(self, cut: Cut) -> dict[int, Taps]:
        """What leaves out experts, by the part that they are in."""
        masks, gone = {}, cut.tidy.experts
        if gone and self._graph is None:  # a mask that meets no router would leave out nothing
            first = self.chunks[0]
            self._graph = traced(self._session, first.tokens, first.n_output)
        if self._graph is not None:
            check_routers(self._graph, gone)
        for layer, experts in gone.items():
            if (layer, experts) not in self._routers:
                self._routers[layer, experts] = expert_taps({layer: experts})
            part = self.parts[layer] if self._halves is None else self._halves.whole[layer][-1]
            masks[part] = self._routers[layer, experts]
        return masks

    def _parts_of(self, cut: Cut) -> tuple[int, ...]:
        cut = cut.without_experts
        if self._halves is not None:
            return self._halves.parts(cut)
        assert all(piece.unit is self.unit for piece in cut)
        return tuple(self.parts[piece.layer] for piece in cut)

    def _count(self, start: float, middle: float) -> None:
        self.effort.n_pass += 1
        self.effort.decode_s += middle - start
        self.effort.callback_s = self._session.callback_s
        self.effort.statistics_s += time.perf_counter() - middle
