"""What every expert of a MoE model is worth: from one pass over a text, and exactly.

REAP (Lasby et al. 2025, "REAP the Experts"): the mean, over the tokens that were sent to an expert,
of its gate times the norm of what it adds to the stream. Also how often it was chosen, and the mean
of its gates. Exactly: the KL divergence of the model without it, and without the sets that each of
these would choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import numpy as np

from ggprune.arch.architecture import architecture_of, check_scored
from ggprune.arch.experts import Routing, routing_of
from ggprune.arch.footprint import footprints_of
from ggprune.arch.hparams import Illegal, n_trunk
from ggprune.errors import ArchitectureError, DataError, UsageError
from ggprune.files.documents import decode, parse_json
from ggprune.files.reading import read_bytes
from ggprune.metrics.chunks import TextInfo, describe_text
from ggprune.metrics.estimates import Estimate, Float64, mean_estimate, ppl_estimate
from ggprune.metrics.text import Text
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.progress import SILENT, Progress
from ggprune.runtime.library import versions
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.ranking import ModelInfo, describe_model
from ggprune.scoring.remembered import RememberedRows, open_rows
from ggprune.scoring.routers import RouterStatistics, router_statistics
from ggprune.scoring.target import parse_drop


class ExpertMetric(str, Enum):
    """What experts are ordered by; lower is less important."""

    REAP = "reap"
    FREQUENCY = "frequency"
    GATE = "gate"
    KLD = "kld"  # of the model without it alone; for those that were measured


def parse_expert_metric(name: str) -> ExpertMetric:
    """Raises UsageError for an unknown name."""
    try:
        return ExpertMetric(name)
    except ValueError as e:
        raise UsageError(f"--by {name}: one of {', '.join(m.value for m in ExpertMetric)}") from e


@dataclass(frozen=True, kw_only=True)
class ExpertsOptions:
    """What is measured, and which experts are to leave."""

    measuring: MeasureOptions = field(default_factory=MeasureOptions)
    by: ExpertMetric = ExpertMetric.REAP
    drop: str | None = None  # "25%" or a number, of every layer
    n_exact: int = 0  # least important experts of every layer to be measured one by one


@dataclass(frozen=True, kw_only=True)
class ExpertLayer:
    """The experts of one layer, in the order of their numbers."""

    layer: int
    reap: Annotated[tuple[float, ...], "mean gate times norm of the output, where it was chosen"]
    frequency: Annotated[tuple[float, ...], "share of the tokens that were sent to it"]
    gate: Annotated[tuple[float, ...], "mean gate where it was chosen"]
    kld: Annotated[tuple[float | None, ...], "of the model without it alone, where measured"]

    def values(self, by: ExpertMetric) -> tuple[float, ...]:
        """Raises UsageError if not all experts were measured."""
        if by is not ExpertMetric.KLD:
            values: tuple[float, ...] = getattr(self, by.value)
            return values
        measured = tuple(value for value in self.kld if value is not None)
        if len(measured) < len(self.kld):
            raise UsageError(
                f"--by kld: only {len(measured)} of {len(self.kld)} experts of layer {self.layer} "
                f"are measured one by one: --exact {len(self.kld)} measures all of them"
            )
        return measured


@dataclass(frozen=True, kw_only=True)
class ExpertSet:
    """Experts that one metric would drop, and what is left without them."""

    by: ExpertMetric
    n_drop: Annotated[int, "of every layer"]
    drop: Cut
    kld: Estimate
    ppl: Estimate
    size_bytes: Annotated[int, "of the file without them, up to the header's change"]


@dataclass(frozen=True, kw_only=True)
class ExpertScores:
    """Scores of all experts of one model on one text, and what sets of them cost."""

    model: ModelInfo
    calibration: TextInfo
    base_ppl: Estimate
    by: Annotated[ExpertMetric, "what experts are ordered by"]
    n_expert: Annotated[int, "of every MoE layer"]
    n_used: Annotated[int, "that every token is sent to"]
    layers: tuple[ExpertLayer, ...]
    sets: Annotated[tuple[ExpertSet, ...], "what --drop-experts asks for, by every metric"] = ()
    versions: dict[str, str] = field(default_factory=dict)


def score_experts(
    model: Model, text: Text, options: ExpertsOptions | None = None, progress: Progress = SILENT
) -> ExpertScores:
    """Score all experts on the text.

    Raises ArchitectureError if the model has no experts that can leave, UsageError for an
    impossible number of them, DataError if the text is too short, LlamaError if llama.cpp cannot
    load or compute the model.
    """
    options = options or ExpertsOptions()
    arch, measuring = architecture_of(model), options.measuring
    check_scored(arch)
    routing = expert_routing(model)
    n_drop = parse_drop(options.drop, routing) if options.drop is not None else None
    if options.by is ExpertMetric.KLD and options.n_exact < routing.n_expert:
        n = routing.n_expert
        raise UsageError(f"--by kld: of all experts one by one, so that it needs --exact {n}")
    computed = [n for n in routing.layers if n < n_trunk(model)]
    progress.begin(f"{routing.n_expert} experts of each of {len(computed)} layers")
    found = router_statistics(
        model, text, measuring, computed, routing.n_expert, progress.part("routers")
    )
    layers = tuple(_layer(n, statistics) for n, statistics in found.items())
    with open_rows(model, text, measuring, progress) as source:
        base = [source.base(i) for i in range(source.n_chunk)]
        if options.n_exact:
            layers = _measured_alone(source, layers, options, progress.part("one by one"))
        scores = ExpertScores(
            model=describe_model(model),
            calibration=describe_text(text, measuring.n_ctx, source.n_chunk),
            base_ppl=ppl_estimate(np.concatenate([rows.nll for rows in base])),
            by=options.by, n_expert=routing.n_expert, n_used=routing.n_used, layers=layers,
            versions=versions(),
        )  # fmt: skip
        if n_drop is None:
            return scores
        sets = _sets(model, source, scores, routing, n_drop)
        return replace(scores, sets=sets)


def expert_routing(model: Model) -> Routing:
    """Raises ArchitectureError if no experts of the model can leave."""
    try:
        return routing_of(model, architecture_of(model).row)
    except Illegal as e:
        raise ArchitectureError(f"{model.path}: no experts of it can be dropped: {e}") from e


def choose_experts(
    scores: ExpertScores, routing: Routing, by: ExpertMetric, n_drop: int, layers: Sequence[int]
) -> dict[int, tuple[int, ...]]:
    """The least important experts of each of these layers, as many of each of its groups.

    Raises UsageError if the metric was not measured, or as many do not leave each group; an
    ArchitectureError if a layer with experts has no scores.
    """
    known = {layer.layer: layer for layer in scores.layers}
    strange = next((n for n in layers if n not in known), None)
    if strange is not None:
        raise ArchitectureError(
            f"{scores.model.path}: layer {strange} has experts that do not compute (MTP): nothing "
            "says which of them matter; drop these blocks as well (--drop-mtp)"
        )
    if n_drop % routing.n_group:
        raise UsageError(
            f"--drop-experts: {n_drop} experts of {routing.n_group} groups: as many must leave each"
        )
    size, each = routing.n_expert // routing.n_group, n_drop // routing.n_group
    chosen = {}
    for n in layers:
        values = np.array(known[n].values(by))
        groups = np.argsort(values.reshape(routing.n_group, size), axis=1, kind="stable")[:, :each]
        numbers = groups + size * np.arange(routing.n_group)[:, None]
        chosen[n] = tuple(sorted(int(number) for number in numbers.ravel()))
    return chosen


def _layer(layer: int, statistics: RouterStatistics) -> ExpertLayer:
    return ExpertLayer(
        layer=layer, reap=tuple(map(float, statistics.reap)),
        frequency=tuple(map(float, statistics.frequency)), gate=tuple(map(float, statistics.gate)),
        kld=(None,) * len(statistics.n_token),
    )  # fmt: skip


def _measured_alone(
    source: RememberedRows, layers: tuple[ExpertLayer, ...], options: ExpertsOptions,
    progress: Progress,
) -> tuple[ExpertLayer, ...]:  # fmt: skip
    """With the KL divergence without each of the least important experts of every layer."""
    by = ExpertMetric.REAP if options.by is ExpertMetric.KLD else options.by
    cuts: dict[Cut, tuple[int, int]] = {}
    for layer in layers:
        for expert in np.argsort(layer.values(by), kind="stable")[: options.n_exact].tolist():
            cuts[Cut.of_experts({layer.layer: (expert,)})] = (layer.layer, expert)
    sums: dict[tuple[int, int], list[Float64]] = {place: [] for place in cuts.values()}
    n_done, n_all = 0, len(cuts) * source.n_chunk
    progress.begin(f"{len(cuts)} experts on {source.n_chunk} chunks")
    for i in range(source.n_chunk):
        for place, rows in zip(cuts.values(), source.rows(i, list(cuts)), strict=True):
            sums[place].append(rows.kld)
            n_done += 1
            progress.step(n_done, n_all)
    means = {place: float(np.concatenate(rows).mean()) for place, rows in sums.items()}
    return tuple(
        replace(layer, kld=tuple(means.get((layer.layer, n)) for n in range(len(layer.kld))))
        for layer in layers
    )


def _sets(
    model: Model, source: RememberedRows, scores: ExpertScores, routing: Routing, n_drop: int
) -> tuple[ExpertSet, ...]:
    """What every metric would drop, the one that was asked for first."""
    is_whole = all(None not in layer.kld for layer in scores.layers)
    others = [by for by in ExpertMetric if by is not scores.by]
    wanted = [scores.by, *(by for by in others if by is not ExpertMetric.KLD or is_whole)]
    footprints, sets = footprints_of(model), []
    computed = [layer.layer for layer in scores.layers]
    for by in wanted:
        cut = Cut.of_experts(choose_experts(scores, routing, by, n_drop, computed))
        rows = [next(source.rows(i, [cut])) for i in range(source.n_chunk)]
        sets.append(ExpertSet(
            by=by, n_drop=n_drop, drop=cut,
            kld=mean_estimate(np.concatenate([r.kld for r in rows])),
            ppl=ppl_estimate(np.concatenate([r.nll for r in rows])),
            size_bytes=footprints.without(cut).size_bytes,
        ))  # fmt: skip
    return tuple(sets)


def expert_cut(model: Model, scores: ExpertScores, drop: str, others: Cut) -> Cut:
    """What leaves besides `others`: experts of the layers whose FFN stays.

    Raises what `parse_drop` and `choose_experts` raise.
    """
    routing, gone = expert_routing(model), frozenset(others.units)
    layers = [n for n in routing.layers if 2 * n + 1 not in gone]
    n_drop = parse_drop(drop, routing)
    return Cut.of_experts(choose_experts(scores, routing, scores.by, n_drop, layers))


def read_expert_scores(path: Path, model: Model) -> ExpertScores:
    """A file written by `ggprune experts -o`. Raises DataError if it is not one, or of another
    model."""
    try:
        scores = decode(
            ExpertScores, parse_json(read_bytes(path).decode("utf-8"), "surrogateescape")
        )
    except ValueError as e:
        raise DataError(f"{path}: not made by ggprune experts") from e
    if scores.model.fingerprint != model.fingerprint:
        raise DataError(f"{path}: scores the experts of another model than {model.path}")
    n = scores.n_expert
    if any({len(x.reap), len(x.frequency), len(x.gate), len(x.kld)} != {n} for x in scores.layers):
        raise DataError(f"{path}: not made by ggprune experts")
    return scores
