"""Measures what a model loses without cuts, chunk by chunk.

A chunk is computed once as it is; every cut then costs only what lies behind its first layer. In
memory are the residual streams and logits of the chunks that were asked for last, as many as there
is room for. No number is remembered here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from blake3 import blake3

from ggprune.ablation.ablator import Ablator, Stream
from ggprune.ablation.experts import check_routers, expert_taps
from ggprune.ablation.graph import Graph
from ggprune.ablation.taps import traced
from ggprune.ablation.units import Halves, halves_of, parts_of
from ggprune.arch.architecture import StreamNames, architecture_of, check_scored
from ggprune.metrics.chunks import Chunk, make_chunks
from ggprune.metrics.estimates import Float32
from ggprune.metrics.logits import base_logits
from ggprune.metrics.similarity import angular_distances, influences, relative_magnitudes
from ggprune.metrics.text import Text
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.model.unit import Unit
from ggprune.runtime.compute import Compute
from ggprune.runtime.finite import naming
from ggprune.runtime.library import default_threads
from ggprune.runtime.nodes import Taps
from ggprune.runtime.session import LlamaModel, Logits, Session
from ggprune.runtime.workers import KindInfo, WorkerInfo
from ggprune.scoring.kept import ComputedChunk, KeptChunks
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
    keep_bytes: int | None = None  # of chunks in memory; None: a quarter of what is free


@dataclass(frozen=True)
class Probe:
    """What a model computes on a chunk, to the bit: another machine's answer can be compared."""

    whole: Logits  # (n_output, n_vocab)
    without: Logits  # the same without a part in the middle

    @cached_property
    def bits(self) -> str:
        """Its hash."""
        return blake3(self.whole.tobytes() + self.without.tobytes()).hexdigest(16)


class Measurer:
    """A loaded model, and the chunks that were computed last. Use as a context manager."""

    def __init__(
        self, model: Model, loaded: LlamaModel, sample: Chunk, options: MeasureOptions
    ) -> None:
        """`sample` is any chunk of the text: where parts begin is read off its graph.

        Raises ArchitectureError if layers of this model cannot be left out exactly, LlamaError if
        llama.cpp cannot compute the model.
        """
        arch = architecture_of(model)
        check_scored(arch)
        compute, n_ctx = options.compute or Compute(), options.n_ctx
        self.unit, self.effort = options.unit, Effort()
        self._n_threads = compute.n_threads or default_threads()
        self._loaded, self._sample = loaded, sample
        whole = replace(compute, n_batch=n_ctx, n_ubatch=n_ctx)
        self._session = Session(loaded, n_ctx, compute=whole, tapped=True)
        parts = parts_of(arch, options.unit, self._session, sample.tokens, sample.n_output)
        self.parts = {n: part for n, part in parts.number.items() if parts.places[part][0]}
        places: Sequence[StreamNames] = parts.places
        self._halves: Halves | None = None
        if options.halves and options.unit is Unit.LAYER and arch.row.halves:
            self._halves = halves_of(arch, self._session, sample.tokens, sample.n_output)
            places = self._halves.places
        self._graph: Graph | None = None  # once experts are left out
        self._routers: dict[tuple[int, tuple[int, ...]], Taps] = {}
        self._ablator = Ablator(self._session, places, share_prefix=options.share_prefix)
        self._kept = KeptChunks(options.keep_bytes)

    def __enter__(self) -> Measurer:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    @property
    def divided(self) -> frozenset[int]:
        """The layers of which halves can be left out."""
        halves = self._halves
        return frozenset(unit // 2 for unit in halves.numbers) if halves else frozenset()

    def knows(self, chunk: Chunk) -> bool:
        """Is it in memory?"""
        return self._kept.get(chunk) is not None

    def base(self, chunk: Chunk) -> BaseRows:
        """The whole model on a chunk; of one that is in memory, it is known."""
        return self._at(chunk).rows

    def stream(self, chunk: Chunk) -> list[Float32 | None]:
        """The whole model's residual stream at all places, a row per token; None where a place has
        no name."""
        return self._at(chunk).streams[NOTHING].tokens

    def rows(self, chunk: Chunk, cuts: Sequence[Cut], within: Cut = NOTHING) -> Iterator[Rows]:
        """As a `RowSource`'s."""
        for cut in cuts:
            yield self._without(self._at(chunk), cut, within)

    def probe(self, chunk: Chunk) -> Probe:
        """Computed anew each time; no part of the effort."""
        layers = sorted(self.parts)
        middle = self._parts_of(Cut.of((layers[len(layers) // 2],), self.unit))
        logits, stream = self._ablator.record(chunk.tokens, chunk.n_output)
        whole = logits.copy()
        without = self._ablator.without(chunk.tokens, chunk.n_output, middle, stream)
        return Probe(whole, without.copy())

    def _at(self, chunk: Chunk) -> ComputedChunk:
        known = self._kept.get(chunk)
        if known is not None:
            return known
        self._kept.make_room()
        start = time.perf_counter()
        logits, stream = self._ablator.record(chunk.tokens, chunk.n_output)
        middle = time.perf_counter()
        with naming(self._loaded.path):
            base = base_logits(chunk.scored(logits), chunk.targets, self._n_threads)
        tokens = stream.tokens
        if self._halves is not None:  # what enters layers, and what leaves the last one
            tokens = [*(tokens[parts[0]] for parts in self._halves.whole.values()), tokens[-1]]
        known_tokens = [None if x is None else chunk.scored(x) for x in tokens]
        shape = next(x.shape for x in reversed(known_tokens) if x is not None)
        # Not-a-number where the graph has no name for a place.
        scored = [np.full(shape, np.nan, np.float32) if x is None else x for x in known_tokens]
        rows = BaseRows(
            base.scores.nll, influences(scored), relative_magnitudes(scored),
            angular_distances(scored),
        )  # fmt: skip
        self.effort.work += 1
        self._count(start, middle)
        return self._kept.add(ComputedChunk(chunk, base, rows, {NOTHING: stream}))

    def _without(self, computed: ComputedChunk, cut: Cut, within: Cut) -> Rows:
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

    def _stream(self, computed: ComputedChunk, within: Cut) -> Stream:
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
            sample = self._sample
            self._graph = traced(self._session, sample.tokens, sample.n_output)
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


class MeasuredRows:
    """A row source that computes in this process. Use as a context manager."""

    def __init__(self, model: Model, text: Text, options: MeasureOptions) -> None:
        """Raises what `Measurer` raises, DataError if the text is too short."""
        check_scored(architecture_of(model))
        self._loaded = LlamaModel(model.path, options.compute)
        self.chunks = make_chunks(text, self._loaded.tokenize, options.n_ctx, options.n_chunk)
        self.measurer = Measurer(model, self._loaded, self.chunks[0], options)

    def __enter__(self) -> MeasuredRows:
        return self

    def __exit__(self, *_: object) -> None:
        self.measurer.__exit__()
        self._loaded.close()

    @property
    def n_chunk(self) -> int:
        return len(self.chunks)

    @property
    def parts(self) -> Mapping[int, int]:
        return self.measurer.parts

    @property
    def divided(self) -> frozenset[int]:
        return self.measurer.divided

    @property
    def effort(self) -> Effort:
        return self.measurer.effort

    @property
    def workers(self) -> tuple[WorkerInfo, ...]:
        return ()

    @property
    def kinds(self) -> tuple[KindInfo, ...]:
        return ()

    def expect(
        self, first: Mapping[Cut, int], within: Cut = NOTHING, *, is_sure: bool = False
    ) -> None:
        """Nothing is computed before it is asked for."""

    def base(self, number: int) -> BaseRows:
        return self.measurer.base(self.chunks[number])

    def rows(self, number: int, cuts: Sequence[Cut], within: Cut = NOTHING) -> Iterator[Rows]:
        return self.measurer.rows(self.chunks[number], cuts, within)
