"""What every layer is worth: the model without it, measured against the model with it.

One model load and no files: layers are left out in memory, which gives the very logits of the file
that would be written. Chunk by chunk: the whole model first, then once without each layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from ggprune.arch.hparams import n_trunk
from ggprune.arch.legal import legal_cut
from ggprune.errors import UsageError
from ggprune.metrics.chunks import describe_text
from ggprune.metrics.estimates import (
    Float64,
    mean_estimate,
    ppl_estimate,
    rms_estimate,
    share_estimate,
)
from ggprune.metrics.text import Text
from ggprune.model.cut import Cut
from ggprune.model.imatrix import Imatrix
from ggprune.model.model import Model
from ggprune.model.unit import Unit
from ggprune.progress import SILENT, Progress
from ggprune.runtime.library import versions
from ggprune.scoring.activations import activation_statistics
from ggprune.scoring.choose import choose_set, search_options
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.race import Race, RaceRules, kld_of, undecided_pairs
from ggprune.scoring.ranking import (
    BY_KLD,
    CalibrationInfo,
    LayerScore,
    Metric,
    OrderBy,
    Ranking,
    describe_model,
    order_of,
)
from ggprune.scoring.remembered import RowsOpener, open_rows
from ggprune.scoring.rows import BaseRows, Rows, RowSource
from ggprune.scoring.target import DropRequest, check_units, sizes_to_try
from ggprune.scoring.weights import magnitudes

_OF_LAYERS = (Metric.MAGNITUDE, Metric.TAYLOR, Metric.IMATRIX)  # not of attention or FFN alone


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    """What layers are ordered by, and how sure the order has to be."""

    measuring: MeasureOptions = field(default_factory=MeasureOptions)
    by: OrderBy = BY_KLD
    imatrix: Imatrix | None = None
    n_decide: int | None = None  # of the least important layers; None: all see all of the text
    confidence: float = 0.95
    request: DropRequest | None = None  # a set of layers to choose as well
    taylor: tuple[float, ...] | None = None  # by layer; the library's `rank` has torch find it

    def __post_init__(self) -> None:
        metric, unit = self.by.metric, self.measuring.unit
        if metric is Metric.IMATRIX and self.imatrix is None:
            raise UsageError("--metric imatrix needs an importance matrix: --imatrix FILE")
        if metric in _OF_LAYERS and unit is not Unit.LAYER:
            raise UsageError(
                f"--metric {self.by}: of whole layers only, not of --unit {unit.value}"
            )


def rank(
    model: Model, text: Text, options: RankOptions | None = None, progress: Progress = SILENT,
    rows_of: RowsOpener = open_rows,
) -> Ranking:  # fmt: skip
    """Score every layer of the model on the text, or its attention or FFN alone.

    With `n_decide`, layers race: one that is surely among the least important ones, or surely not,
    gets no more chunks. `progress` is told what is ahead and stepped through the chunks; a part of
    it is told what is being tried while a set of layers is chosen. What is measured comes from
    `rows_of`.

    Raises ArchitectureError if layers of this model cannot be left out exactly, DataError if the
    text is too short or the importance matrix is of another model, LlamaError if llama.cpp cannot
    load or compute the model, and what `choose_set` raises.
    """
    options = options or RankOptions()
    by, unit, taylor = options.by, options.measuring.unit, options.taylor
    if by.metric is Metric.TAYLOR and taylor is None:
        raise UsageError("--metric taylor needs the sums that torch finds: ggprune.rank has them")
    if options.request is not None:
        check_units(model, options.request, unit)
    weights = magnitudes(model) if by.metric is Metric.MAGNITUDE else None
    activations = activation_statistics(options.imatrix, model) if options.imatrix else None
    halves = options.request is not None and options.request.halves and unit is Unit.LAYER
    with rows_of(model, text, replace(options.measuring, halves=halves), progress) as source:
        measured = _Measured(source, unit)
        rules = _rules(model, options)
        progress.begin(_ahead(measured, rules, options.measuring.n_ctx))
        race = Race(source, tuple(measured.rows), rules)
        measured.run(race, progress)
        scores = tuple(
            replace(
                _score(model, measured, cut),
                magnitude=float(weights[cut.layers[0]]) if weights is not None else None,
                taylor=taylor[cut.layers[0]] if taylor is not None else None,
                activations=activations[cut.layers[0]] if activations is not None else None,
            )
            for cut in measured.rows
        )
        windows: Float64 = np.zeros((0, 0))  # none between modules
        if unit is Unit.LAYER:
            windows = np.mean([base.angular for base in measured.base], axis=0)
        read = describe_text(text, options.measuring.n_ctx, len(measured.base))
        ranking = Ranking(
            model=describe_model(model), by=by, unit=unit, layers=scores,
            calibration=CalibrationInfo(**vars(read), n_chunk_limit=source.n_chunk),
            base_ppl=ppl_estimate(np.concatenate([base.nll for base in measured.base])),
            order=order_of(scores, by.metric, by.protected(n_trunk(model))),
            undecided=_undecided(race), windows=windows,
            versions=versions(),
        )  # fmt: skip
        if options.request is not None:
            search = search_options(model, ranking, options.confidence)
            chosen = choose_set(model, source, options.request, search, progress)
            ranking = replace(ranking, chosen=chosen)
        return replace(
            ranking, effort=source.effort, workers=source.workers or None,
            kinds=source.kinds or None,
        )  # fmt: skip


# What layers are compared by, token by token, where a ranking follows one of these.
_RACED: dict[Metric, Callable[[Rows], Float64]] = {
    Metric.KLD: kld_of,
    Metric.PPL: lambda row: row.nll,
    Metric.SAME_TOP_P: lambda row: (~row.same_top).astype(np.float64),
    Metric.RMS_DELTA_P: lambda row: np.square(row.delta_p),
}


_NAMES = {Unit.LAYER: "layers", Unit.ATTN: "attention blocks", Unit.FFN: "FFNs"}


def _ahead(measured: _Measured, rules: RaceRules, n_ctx: int) -> str:
    most = "at most " if rules.n_lowest is not None else ""
    what = f"{len(measured.rows)} {_NAMES[measured.unit]}"
    return f"{what} on {most}{measured.source.n_chunk} chunks of {n_ctx} tokens"


def _rules(model: Model, options: RankOptions) -> RaceRules:
    """Where a number of layers is to go, they are those to be known."""
    request, n_lowest = options.request, options.n_decide
    if n_lowest is not None and request is not None and request.target is not None:
        unit = options.measuring.unit
        n_lowest = sizes_to_try(model, request.target, n_trunk(model) - 1, unit)[0]
    by = _RACED.get(options.by.metric, kld_of)
    return RaceRules(n_lowest=n_lowest, by=by, confidence=options.confidence)


class _Measured:
    """Rows of the whole model on every chunk, and without each layer, or its attention or FFN."""

    def __init__(self, source: RowSource, unit: Unit) -> None:
        self.source, self.unit = source, unit
        self.base: list[BaseRows] = []
        self.rows: dict[Cut, list[Rows]] = {Cut.of((n,), unit): [] for n in source.parts}

    def run(self, race: Race, progress: Progress) -> None:
        n_step = len(self.rows) + 1
        n_all, n_done = self.source.n_chunk * n_step, 0

        def take(cut: Cut, rows: Rows) -> None:
            nonlocal n_done
            self.rows[cut].append(rows)
            if len(self.rows[cut]) == len(self.base):  # not one that catches up
                n_done += 1
                progress.step(n_done, n_all)

        for i in race.laps():
            self.base.append(self.source.base(i))
            n_done = i * n_step + 1
            progress.step(n_done, n_all)
            race.lap(i, take)
        if n_done < n_all:  # over before its end, at least for some
            progress.step(n_all, n_all)


def _score(model: Model, measured: _Measured, cut: Cut) -> LayerScore:
    rows, layer = measured.rows[cut], cut.layers[0]
    base, part = measured.base, measured.source.parts[layer]
    kld = np.concatenate([row.kld for row in rows])
    return LayerScore(
        layer=layer, kld=mean_estimate(kld), kld_99=float(np.percentile(kld, 99)),
        ppl=ppl_estimate(np.concatenate([row.nll for row in rows])),
        same_top_p=share_estimate(np.concatenate([row.same_top for row in rows])),
        rms_delta_p=rms_estimate(np.concatenate([row.delta_p for row in rows])),
        bi=mean_estimate(np.concatenate([row.bi[part] for row in base])),
        relative_magnitude=mean_estimate(np.concatenate([row.magnitude[part] for row in base])),
        angular=mean_estimate(np.array([row.angular[part, part + 1] for row in base])),
        removable=legal_cut(model, cut),
    )  # fmt: skip


def _undecided(race: Race) -> tuple[tuple[int, int], ...]:
    """Pairs of layers across the border of those to be decided that all of the text left open."""
    n_cut, n_chunk = len(race.seen), race.source.n_chunk
    if n_cut < 2:
        return ()
    n_lowest = race.rules.n_lowest or n_cut - 1
    pairs = undecided_pairs(race.seen, n_lowest, race.rules.confidence)
    whole = {cut for cut, chunks in race.seen.items() if len(chunks) == n_chunk}
    return tuple((a.layers[0], b.layers[0]) for a, b in pairs if {a, b} <= whole)
