"""Layers by importance; a chosen set: how it was found, what it gives, what stands beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggprune.model.unit import Unit
from ggprune.pipeline.result import FrontRow
from ggprune.report.blocks import Block, Column, Table, Text, table_of
from ggprune.report.plot import bars, choice_figure, is_log_scale, ranking_figure
from ggprune.report.units import (
    count,
    dropped_cell,
    estimate,
    number,
    percent,
    ratio_cell,
    size,
    speed_cell,
)
from ggprune.report.workers import worker_notes
from ggprune.scoring.choice import Choice
from ggprune.scoring.ranking import BY_KLD, LayerScore, Metric, Ranking

UNITS = {Unit.LAYER: "layer", Unit.ATTN: "attention of", Unit.FFN: "FFN of"}

# Shown where the layers are ordered by it.
METRICS: dict[Metric, Column[LayerScore]] = {
    Metric.RMS_DELTA_P: ("RMS Δp", lambda s: percent(s.rms_delta_p)),
    Metric.ANGULAR: ("angular", lambda s: estimate(s.angular)),
    Metric.RELATIVE_MAGNITUDE: ("rel. magnitude", lambda s: estimate(s.relative_magnitude)),
    Metric.MAGNITUDE: ("magnitude", lambda s: number(s.magnitude or 0.0, 0)),
    Metric.TAYLOR: ("Taylor", lambda s: number(s.taylor or 0.0)),
}
# Of the others: which column they are ordered by.
COMPUTED = {
    Metric.KLD: "KLD without it", Metric.PPL: "PPL without it", Metric.SAME_TOP_P: "same top p",
    Metric.BI: "BI", Metric.IMATRIX: "imatrix energy",
}  # fmt: skip
IMATRIX: tuple[Column[LayerScore], ...] = (
    ("imatrix energy", lambda s: number(s.activations.energy) if s.activations else None),
    (
        "imatrix cosine",
        lambda s: number(a.cosine) if (a := s.activations) and a.cosine is not None else None,
    ),
)


def blocks(ranking: Ranking) -> tuple[Block, ...]:
    """Layers by importance, the least important first."""
    model, text = ranking.model, ranking.calibration
    head = (
        f"{model.path}: {model.n_layer} layers of {model.arch}, "
        f"PPL {estimate(ranking.base_ppl)} on {text.source} "
        f"({text.n_chunk} chunks of {text.n_ctx}, {text.n_token} tokens scored)"
    )
    choice = _choice_texts(ranking.chosen) if ranking.chosen is not None else ()
    notes = (Text((note,)) for note in _notes(ranking))
    return (Text((head,)), _table(ranking), *notes, *choice, ranking_figure(ranking))


def _table(ranking: Ranking) -> Table:
    by_layer = {score.layer: score for score in ranking.layers}
    scores = [by_layer[layer] for layer in ranking.order]
    metric = ranking.by.metric
    values = [score.value(metric) for score in scores]
    bar_of = dict(zip(ranking.order, bars(values), strict=True))
    columns: tuple[Column[LayerScore], ...] = (
        (UNITS[ranking.unit], lambda s: f"{s.layer} *" if _is_marked(ranking, s) else s.layer),
        ("KLD without it", lambda s: estimate(s.kld)),
        ("99 % of tokens", lambda s: number(s.kld_99)),
        ("PPL without it", lambda s: estimate(s.ppl)),
        ("same top p", lambda s: percent(s.same_top_p)),
        ("BI", lambda s: estimate(s.bi)),
        *((METRICS[metric],) if metric in METRICS else ()),
        *(IMATRIX if any(score.activations for score in scores) else ()),
        ("tokens", lambda s: s.kld.n),
    )
    scale = "importance (log)" if is_log_scale(values) else "importance"
    bar: Column[LayerScore] = (scale, lambda s: bar_of[s.layer])
    spare = ("tokens", "imatrix cosine", "imatrix energy", "99 % of tokens", "BI", scale,
             "same top p", "PPL without it", "KLD without it")  # fmt: skip
    main = COMPUTED.get(metric)  # what they are ordered by stays
    return table_of(
        scores, *columns, bar, left=(len(columns),),
        spare=tuple(header for header in spare if header != main),
    )  # fmt: skip


def _is_marked(ranking: Ranking, score: LayerScore) -> bool:
    """Where no module of the kind can leave, one note says so."""
    is_possible = ranking.unit is Unit.LAYER or any(s.removable for s in ranking.layers)
    return is_possible and not score.removable


def _notes(ranking: Ranking) -> Iterator[str]:
    yield from worker_notes(ranking.workers, ranking.kinds)
    if any(_is_marked(ranking, score) for score in ranking.layers):
        yield "* cannot be removed alone, perhaps together with others"
    if ranking.by != BY_KLD:
        yield f"Ordered by {ranking.by}."
    if ranking.undecided:
        pairs = ", ".join(f"{a} and {b}" for a, b in ranking.undecided)
        yield f"Not settled by this text, more chunks would be needed: {pairs}."


def choice_blocks(choice: Choice) -> tuple[Block, ...]:
    return (*_choice_texts(choice), choice_figure(choice))


def _choice_texts(choice: Choice) -> tuple[Block, ...]:
    """The race of every step, what each number of layers costs and gives, the set."""
    front = front_table([FrontRow(point, None, None) for point in choice.front])
    steps = (steps_table(choice),) * bool(choice.steps)
    return (*steps, *trials_table(choice), front, decision(choice))


def trials_table(choice: Choice) -> tuple[Table, ...]:
    """Sets before and after healing, the one that was chosen first."""
    if not choice.trials:
        return ()
    return (table_of(
        choice.trials,
        ("healed", lambda trial: str(trial.drop)),
        ("KLD before", lambda trial: estimate(trial.before)),
        ("after", lambda trial: estimate(trial.after)),
        ("times", lambda trial: f"{trial.after.value / max(trial.before.value, 1e-12):.2f}x"),
        ("fitted tokens", lambda trial: trial.n_fitted),
        ("time s", lambda trial: f"{trial.time_s:.1f}"),
        spare=("fitted tokens", "time s", "times", "KLD before"),
    ),)  # fmt: skip


def decision(choice: Choice) -> Text:
    """The set, and what simpler strategies would have chosen, on the calibration text."""
    best = choice.best
    lines = [
        f"chosen by {choice.strategy.value}: {best.drop} "
        f"(KLD {estimate(best.kld)}, {estimate(best.ppl_ratio)} times the PPL; "
        f"{choice.n_set} sets measured)"
    ]
    for other in choice.others:
        strategy, point = other.strategy, other.point
        ratio = f", {point.kld.value / best.kld.value:.2f}x" if best.kld.value > 0 else ""
        lines.append(f"{strategy.value} would be {point.drop} (KLD {estimate(point.kld)}{ratio})")
    return Text(tuple(lines))


def steps_table(choice: Choice) -> Table:
    """One row per race: what it took, and what came of it."""
    return table_of(
        choice.steps,
        ("race", lambda step: step.what), ("sets", lambda step: step.n_set),
        ("passes", lambda step: step.n_pass), ("time s", lambda step: f"{step.time_s:.1f}"),
        ("winner", lambda step: step.drop), ("KLD", lambda step: estimate(step.kld)),
        ("tokens", lambda step: step.kld.n), left=(0, 4),
        spare=("tokens", "passes", "sets", "time s"),
    )  # fmt: skip


def front_table(front: Sequence[FrontRow]) -> Table:
    """What each number of layers costs and gives; predicted from bytes, measured where it was."""
    measured: tuple[Column[FrontRow], ...] = (
        ("tg t/s", lambda row: speed_cell(row.tg)),
        ("measured", lambda row: ratio_cell(row.speedup) if row.tg else None),
    )
    return table_of(
        front,
        ("dropped", lambda row: dropped_cell(row.point.drop)),
        ("layers", lambda row: str(row.point.drop) or None),
        ("KLD", lambda row: estimate(row.point.kld)),
        ("PPL ratio", lambda row: estimate(row.point.ppl_ratio)),
        ("size", lambda row: size(row.point.footprint.size_bytes)),
        ("params", lambda row: count(row.point.footprint.n_param)),
        ("predicted speed-up", lambda row: f"{row.point.speedup:.3f}x"),
        *(measured if any(row.tg for row in front) else ()),
        left=(1,),
        spare=("params", "tg t/s", "PPL ratio", "size", "measured", "predicted speed-up"),
    )
