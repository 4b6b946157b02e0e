"""Closed-form layer-wise distillation: the pruned model's stream is led back to the original's.

For the kept layers in order, beginning with the last one in front of the first cut: the matrix
through which attention writes into the stream is fitted to the original's stream in front of the
FFN, then the FFN's to the original's stream where it enters the next kept layer. Inputs are those
of the pruned model as it is by then, so that every fit also makes up for what those before it
left, rounding included. A matrix that is no better on chunks set aside stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ggprune.errors import LlamaError
from ggprune.healing.kept import BASE, MIDDLE, PRUNED, Kept
from ggprune.healing.layers import LayerModel
from ggprune.healing.leastsquares import Moments
from ggprune.healing.lowrank import low_rank
from ggprune.healing.matrix import Rows, add_rows, error_of, fit, read_stored, store
from ggprune.healing.patch import Patch
from ggprune.healing.result import Factors, Fitted, HealOptions, Left, Refitted, is_aside
from ggprune.healing.routed import fit_routed
from ggprune.healing.sites import ExpertSite, Site, experts_of, sites_of
from ggprune.metrics.chunks import Chunks
from ggprune.metrics.estimates import Float32
from ggprune.model.model import Model
from ggprune.model.names import half_of, rename_block
from ggprune.model.newlayer import NewLayer
from ggprune.model.types import tensor_type
from ggprune.model.unit import Unit
from ggprune.progress import SILENT, Progress
from ggprune.runtime.nodes import exchange_weights


@dataclass(frozen=True)
class Stage:
    """A kept layer, and what the original computes until the next kept one."""

    layer: int  # of the original; its attention
    ffn: int  # the original's layer whose FFN it has
    missing: Unit | None  # the half that it does not have
    is_linear: bool  # has a matrix come in the place of its attention?
    own: int  # the same layer's number in the model that is fitted
    last: int  # the original's last layer in front of the next kept one
    is_exact: bool  # does the original's own stream enter it?

    def original_name(self, tensor: str, ffn_tensors: Sequence[str] = ()) -> str:
        """A tensor of the model that is fitted, as the original calls it."""
        is_ffn = half_of(tensor, ffn_tensors) is Unit.FFN
        return rename_block(tensor, self.ffn if is_ffn else self.layer)


def stages_of(
    keep: Sequence[NewLayer], n_trunk: int, *, shared: bool, changed: Collection[int] = ()
) -> tuple[Stage, ...]:
    """The layers to fit, in order. `shared`: they are computed inside the original model; the FFNs
    of layers `changed` are not what they were."""
    kept = [layer for layer in keep if layer.first < n_trunk]
    behind = [*(layer.first for layer in kept[1:]), n_trunk]

    def is_hole(i: int) -> bool:
        """Is something missing in front of the first layer, or in or behind this one?"""
        layer = kept[i]
        is_near = layer.last <= i and behind[i] <= layer.last + 1
        return not (layer.is_whole and is_near) or layer.last in changed

    first = next(filter(is_hole, range(len(kept))), None)
    if first is None:
        return ()
    is_first_whole = kept[first].first == first  # layers in front of the cut keep their numbers
    return tuple(
        Stage(
            layer.first, layer.last, layer.missing, layer.linear, layer.first if shared else i,
            behind[i] - 1, is_exact=i == first and is_first_whole,
        )
        for i, layer in enumerate(kept)
        if i >= first
    )  # fmt: skip


@dataclass
class Walk:
    """Two models on the same chunks: the original, and the one that is fitted.

    Both may be the same loaded model, as the original computes a layer before it is changed.
    """

    base: LayerModel
    pruned: LayerModel
    model: Model  # what `pruned` was loaded from
    chunks: Chunks
    kept: Kept
    patch: Patch
    options: HealOptions
    progress: Progress = SILENT
    done: int = 0  # chunks that were computed, of `total`
    total: int = 0
    _sites: dict[int, tuple[tuple[Site, ...], tuple[Left, ...]]] = field(default_factory=dict)
    _experts: dict[int, tuple[ExpertSite, ...]] = field(default_factory=dict)

    def start_base(self, stage: Stage) -> None:
        """Compute the original's stream in front of a stage, while its weights are its own."""
        for i, chunk in enumerate(self.chunks):
            self.kept.put(BASE, i, self.base.stream(chunk.tokens, stage.layer))
            self._tick()

    def start_pruned(self, stage: Stage, drop: Sequence[int]) -> None:
        """And that of the pruned model, as far as it has been fitted."""
        is_known = stage.is_exact and self.pruned is self.base
        for i, chunk in enumerate(self.chunks):
            rows = self.kept.get(BASE, i) if is_known else None
            if rows is None:
                rows = self.pruned.stream(chunk.tokens, stage.own, drop)
            self.kept.put(PRUNED, i, rows)

    def fit(self, stage: Stage, *, is_last: bool) -> tuple[list[Refitted], list[Left]]:
        """Fit a layer, and lead both streams to the next kept one unless this is the last."""
        self._teach(stage)
        span = self.pruned.span(stage.own, stage.own)
        sites, without = self.sites(stage)
        results: list[Refitted | Left] = [*without]
        state: dict[int, str] = {}
        for site in sites:
            state = self._feed(stage, site, {span.first: PRUNED, **state})
            results.append(self._fit(stage, site, state))
        for routed in self.experts(stage):
            # What is known behind the experts would hide what is changed of them.
            known = {node for node in state if node < routed.input}
            state = {span.first: PRUNED, **self._forget(state, known)}
            results.append(fit_routed(self, stage, routed, span.last, state))
        if not is_last:
            self._go_on(stage, span.last, {span.first: PRUNED, **state})
        fitted = [item for item in results if isinstance(item, Refitted)]
        return fitted, [item for item in results if isinstance(item, Left)]

    def original_name(self, stage: Stage, tensor: str) -> str:
        """A tensor of the model that is fitted, as the original calls it."""
        return stage.original_name(tensor, self.base.arch.row.ffn_tensors)

    def sites(self, stage: Stage) -> tuple[tuple[Site, ...], tuple[Left, ...]]:
        """What is going to be fitted of a layer, and what not.

        Read once, while the graph is in memory: behind a pass of another kind another one is there.
        """
        if stage.layer not in self._sites:
            self._sites[stage.layer] = self._find_sites(stage)
        return self._sites[stage.layer]

    def experts(self, stage: Stage) -> tuple[ExpertSite, ...]:
        """Routed experts of a layer that are going to be fitted."""
        self.sites(stage)
        return self._experts[stage.layer]

    def everything(self, stage: Stage) -> tuple[Site | ExpertSite, ...]:
        """All that is going to be fitted of a layer."""
        return (*self.sites(stage)[0], *self.experts(stage))

    def _find_sites(self, stage: Stage) -> tuple[tuple[Site, ...], tuple[Left, ...]]:
        computer, span = self.pruned.computer(stage.own), self.pruned.span(stage.own, stage.own)
        sites, untouched = sites_of(computer.graph, computer.nodes, span)
        reasons = {site.tensor: self._reason(stage, site) for site in sites}
        experts = () if self._keeps_experts else experts_of(computer.graph, computer.nodes, span)
        self._experts[stage.layer] = experts
        fitted = {site.tensor for site in experts}
        whys = [(item.tensor, item.reason) for item in untouched if item.tensor not in fitted]
        whys += [(name, why) for name, why in reasons.items() if why is not None]
        left = [Left(stage.layer, self.original_name(stage, name), why) for name, why in whys]
        return tuple(site for site in sites if reasons[site.tensor] is None), tuple(left)

    @property
    def _keeps_experts(self) -> bool:
        """An adapter's product has no experts."""
        return self.options.fitted is Fitted.ATTN or self.options.rank is not None

    def _reason(self, stage: Stage, site: Site) -> str | None:
        """Why a matrix that could be fitted is not."""
        is_same = stage.ffn == stage.layer and stage.missing is None and not stage.is_linear
        if stage.is_exact and site.is_middle and is_same:
            return "nothing has been cut in front of it"
        if self.options.fitted is Fitted.FFN and site.is_middle:
            return "--refit ffn"
        if self.options.fitted is Fitted.ATTN and not site.is_middle:
            return "--refit attn"
        return None

    def _teach(self, stage: Stage) -> None:
        """The original's stream in front of the layer's FFN, and where the next kept one begins."""
        computer = self.base.computer(stage.last)
        span = self.base.span(stage.layer, stage.last, stage.ffn)
        wanted = [node for node in (span.middle, span.last) if node is not None]
        for i, chunk in enumerate(self.chunks):
            entering = {span.first: self.kept.get(BASE, i)}
            *middle, last = computer.compute(chunk.tokens, entering, wanted)
            self.kept.put(BASE, i, last)
            if middle:
                self.kept.put(MIDDLE, i, middle[0])
            self._tick()

    def _feed(self, stage: Stage, site: Site, state: dict[int, str]) -> dict[int, str]:
        """Compute what enters a matrix, and what is added to its product; returns what is known."""
        unknown = [n for n in dict.fromkeys((site.input, *site.addends)) if n not in state]
        known = {**state, **{node: f"{site.tensor}:{node}" for node in unknown}}
        for i in range(len(self.chunks)):
            values = self.computed(stage, state, unknown, i)
            for node, rows in zip(unknown, values, strict=True):
                self.kept.put(known[node], i, rows)
            self._tick()
        return self._forget(known, {site.input, *site.addends})

    def computed(
        self, stage: Stage, state: Mapping[int, str], wanted: Sequence[int], number: int
    ) -> list[Float32]:
        """Nodes of the layer that is fitted, of one chunk, from those that are known."""
        computer = self.pruned.computer(stage.own)
        _, reached = computer.graph.needed(wanted, state)
        given = {node: self.kept.get(state[node], number) for node in sorted(reached)}
        return computer.compute(self.chunks[number].tokens, given, wanted)

    def _forget(self, state: dict[int, str], needed: set[int]) -> dict[int, str]:
        """Only what is behind the site's inputs and addends matters from here on."""
        for node in state.keys() - needed:
            if state[node] != PRUNED:
                self.drop(state[node])
        return {node: name for node, name in state.items() if node in needed}

    def drop(self, name: str) -> None:
        for i in range(len(self.chunks)):
            self.kept.drop(name, i)

    def _fit(self, stage: Stage, site: Site, state: dict[int, str]) -> Refitted | Left:
        tensor = self.model.by_name[site.tensor]
        old = read_stored(tensor)
        n_out, n_in = old.matrix.shape
        moments = Moments(n_in, n_out)
        for rows in self._rows(stage, site, state, aside=False):
            add_rows(moments, site, old.matrix, rows)

        def error(matrix: Float32) -> float:
            rows_aside = self._rows(stage, site, state, aside=True)
            errors = [error_of(site, matrix, rows) for rows in rows_aside]
            return float(np.sum(errors)) / (len(errors) * self.chunks.n_ctx)

        if moments.is_empty:
            name = self.original_name(stage, site.tensor)
            return Left(stage.layer, name, "nothing but zeros enters it")
        importance = moments.importance
        kind = tensor_type(self.options.tensor_type) if self.options.tensor_type else old.type
        try:
            matrix, ridge = fit(moments, old.matrix, self.options.ridge, error)
        except LlamaError as e:
            raise LlamaError(f"layer {stage.layer}, {site.tensor}: {e}") from e
        new = store(matrix, kind, importance)
        before, after = error(old.matrix), error(new.matrix)
        if not after < before:
            reason = f"no better on chunks set aside: error {before:.3g} -> {after:.3g}"
            return Left(stage.layer, self.original_name(stage, site.tensor), reason)
        exchange_weights(site.pointer, new.raw, kind)
        return Refitted(
            layer=stage.layer, tensor=self.original_name(stage, site.tensor), type=kind.name,
            shape=tensor.shape, offset=self.patch.add(new.raw), ridge=ridge,
            error_before=before, error=after,
            factors=self._factors(matrix - old.matrix, moments, ridge),
        )  # fmt: skip

    def _factors(self, change: Float32, moments: Moments, ridge: float) -> Factors | None:
        """Keep the change, before it is rounded, as an adapter has it, if there is to be one."""
        rank = self.options.rank
        if rank is None:
            return None
        a, b = low_rank(change, moments.gram, rank, ridge=ridge)
        b *= len(a) / rank  # readers take rank / len(a) times B A
        raw = np.concatenate([a.ravel(), b.ravel()]).view(np.uint8)
        return Factors(self.patch.add(raw), len(a))

    def _rows(
        self, stage: Stage, site: Site, state: dict[int, str], *, aside: bool
    ) -> Iterator[Rows]:
        is_middle = site.is_middle and stage.missing is None  # else it makes up for the other half
        target = MIDDLE if is_middle else BASE
        for i, chunk in enumerate(self.chunks):
            if is_aside(chunk.number) == aside:
                addends = {node: self.kept.get(state[node], i) for node in site.addends}
                inputs = self.kept.get(state[site.input], i)
                yield Rows(inputs, addends, self.kept.get(target, i))

    def _go_on(self, stage: Stage, last: int, state: dict[int, str]) -> None:
        """The fitted layer's own stream behind it."""
        for i in range(len(self.chunks)):
            (values,) = self.computed(stage, state, [last], i)
            self.kept.put(PRUNED, i, values)
            self._tick()
        self._forget(state, set())

    def _tick(self) -> None:
        self.done += 1
        self.progress.step(self.done, max(self.total, self.done))
