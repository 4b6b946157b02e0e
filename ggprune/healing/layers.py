"""A loaded model of which single layers are computed, from a residual stream that is supplied."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from ggprune.ablation.graph import Graph
from ggprune.ablation.partial import PartialComputer
from ggprune.ablation.taps import ablation_taps, joined, reader
from ggprune.ablation.units import find_middles
from ggprune.arch.architecture import Architecture
from ggprune.errors import ArchitectureError
from ggprune.healing.sites import Span
from ggprune.metrics.chunks import Chunk, Tokens
from ggprune.metrics.estimates import Float32
from ggprune.runtime.adapters import Adapter
from ggprune.runtime.compute import Compute
from ggprune.runtime.session import LlamaModel, Logits, Session


class LayerModel:
    """A model and a session for one chunk of n_ctx tokens at a time. Use as a context manager."""

    def __init__(
        self, loaded: LlamaModel, arch: Architecture, first: Tokens, compute: Compute
    ) -> None:
        """`first` is a chunk, (n_ctx,); all others are as long."""
        n_ctx = len(first)
        whole = replace(compute, n_batch=n_ctx, n_ubatch=n_ctx)
        self.arch, self.places, self._first, self._compute = arch, arch.places, first, compute
        self.session = Session(loaded, n_ctx, compute=whole, tapped=True)

    def __enter__(self) -> LayerModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    @contextlib.contextmanager
    def adapted(self, adapter: Path) -> Iterator[LayerModel]:
        """The same weights with a LoRA adapter, in a session that takes the place of this one."""
        loaded = self.session.model
        self.session.close()
        with (
            Adapter(loaded, adapter) as lora,
            LayerModel(loaded, self.arch, self._first, self._compute) as model,
        ):
            lora.apply(model.session)
            yield model

    def computer(self, last: int) -> PartialComputer:
        """For what goes up to layer `last`. Only where it must does it compute all logits."""
        return self._whole if last == self.arch.n_trunk - 1 else self._inner

    def span(self, first: int, last: int, ffn: int | None = None) -> Span:
        """The stretch of layers in the graph of `computer(last)`; its middle is that in front of
        the FFN of the layer `ffn`, by default of the first.

        Raises ArchitectureError if they read anything but the stream in front of them.
        """
        graph = self.computer(last).graph
        self._check(first)
        start, end = (graph.find(self.places[n][0]) for n in (first, last + 1))
        whose = first if ffn is None else ffn
        between = find_middles(graph, self.places[whose : whose + 2]).get(0)
        span = Span(
            layer=first, first=start, middle=graph.find((between,)) if between else None, last=end
        )
        self._check_closed(graph, span)
        return span

    def stream(self, chunk: Tokens, place: int, drop: Sequence[int] = ()) -> Float32:
        """What enters a layer, computed from the tokens and without the layers `drop`."""
        self._check(place)
        if not any(n < place for n in drop):  # nothing behind it is computed
            node = self._inner.graph.find(self.places[place][0])
            return self._inner.compute(chunk, {}, [node])[0]
        kept: list[Float32] = []
        taps = dict.fromkeys(map(str.encode, self.places[place][0]), reader(kept))
        self.session.tap(joined(ablation_taps(self.places, drop), taps))
        self.session.chunk_logits(chunk[None, :], 1)
        return kept[0]

    def logits(self, chunk: Chunk, drop: Sequence[int] = ()) -> Logits:
        """Logits of the scored tokens, (n_scored, n_vocab), valid until the next pass."""
        self.session.tap(ablation_taps(self.places, drop))
        logits: Logits = self.session.chunk_logits(chunk.tokens[None, :], chunk.n_output)[0]
        return chunk.scored(logits)

    def _check(self, place: int) -> None:
        if self.arch.n_loop > 1 or not self.places[place][0]:
            raise ArchitectureError(
                f"{self.arch.name} cannot be healed: its stream in front of layer {place} cannot "
                "be supplied"
            )

    def _check_closed(self, graph: Graph, span: Span) -> None:
        live, _ = graph.needed([span.last], [span.first])
        others = {graph.find(place[0]) for place in self.places[1 : span.layer + 1] if place[0]}
        if any(live[i] for i in others - {span.first}):
            raise ArchitectureError(
                f"{self.arch.name} cannot be healed: layer {span.layer} reads more than the stream "
                "in front of it"
            )

    @cached_property
    def _inner(self) -> PartialComputer:
        return PartialComputer(self.session, self._first, 1)

    @cached_property
    def _whole(self) -> PartialComputer:
        return PartialComputer(self.session, self._first, len(self._first))
