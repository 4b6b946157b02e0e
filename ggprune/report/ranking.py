"""A ranking: its layers by importance, and the set that was chosen, where one was."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ggprune.model.cut import Unit
from ggprune.report import chosen
from ggprune.report.blocks import Block, Table, Text
from ggprune.report.plot import ranking_figure
from ggprune.report.table import bars, is_log_scale
from ggprune.report.units import estimate, number, percent
from ggprune.scoring import LayerScore, Metric, Ranking
from ggprune.scoring.activations import LayerActivations
from ggprune.scoring.metric import BY_KLD

UNITS = {Unit.LAYER: "layer", Unit.ATTN: "attention of", Unit.FFN: "FFN of"}

Column = tuple[str, Callable[[LayerScore], str]]


def blocks(ranking: Ranking) -> tuple[Block, ...]:
    """Layers by importance, the least important first."""
    choice = chosen.texts(ranking.chosen) if ranking.chosen is not None else ()
    notes = (Text((note,)) for note in _notes(ranking))
    return (_head(ranking), _table(ranking), *notes, *choice, ranking_figure(ranking))


def _head(ranking: Ranking) -> Text:
    model, text = ranking.model, ranking.calibration
    line = (
        f"{model.path}: {model.n_layer} layers of {model.arch}, "
        f"PPL {estimate(ranking.base_ppl)} on {text.source} "
        f"({text.n_chunk} chunks of {text.n_ctx}, {text.n_token} tokens scored)"
    )
    return Text((line,))


def _table(ranking: Ranking) -> Table:
    by_layer = {score.layer: score for score in ranking.layers}
    scores = [by_layer[layer] for layer in ranking.order]
    values = [score.value(ranking.by.metric) for score in scores]
    scale = "importance (log)" if is_log_scale(values) else "importance"
    columns: tuple[Column, ...] = (
        (UNITS[ranking.unit], lambda s: f"{s.layer} *" if _is_marked(ranking, s) else str(s.layer)),
        ("KLD without it", lambda s: estimate(s.kld)),
        ("99 % of tokens", lambda s: number(s.kld_99)),
        ("PPL without it", lambda s: estimate(s.ppl)),
        ("same top p", lambda s: percent(s.same_top_p)),
        ("BI", lambda s: estimate(s.bi)),
        *_extra_columns(ranking),
        ("tokens", lambda s: str(s.kld.n)),
    )
    rows = tuple(
        (*(cell(score) for _, cell in columns), bar)
        for score, bar in zip(scores, bars(values), strict=True)
    )
    return Table((*(name for name, _ in columns), scale), rows, left=(len(columns),))


def _is_marked(ranking: Ranking, score: LayerScore) -> bool:
    """Modules are never removed alone."""
    return ranking.unit is Unit.LAYER and not score.removable


def _extra_columns(ranking: Ranking) -> tuple[Column, ...]:
    """What is not always there: the metric that was asked for, statistics of an imatrix."""
    columns: dict[Metric, Column] = {
        Metric.RMS_DELTA_P: ("RMS Δp", lambda s: percent(s.rms_delta_p)),
        Metric.ANGULAR: ("angular", lambda s: estimate(s.angular)),
        Metric.RELATIVE_MAGNITUDE: ("rel. magnitude", lambda s: estimate(s.relative_magnitude)),
        Metric.MAGNITUDE: ("magnitude", lambda s: number(s.magnitude or 0.0, 0)),
    }
    metric = ranking.by.metric
    asked = (columns[metric],) if metric in columns else ()
    if not any(score.activations for score in ranking.layers):
        return asked
    return (
        *asked,
        ("imatrix energy", lambda s: number(s.activations.energy) if s.activations else "-"),
        ("imatrix cosine", lambda s: _cosine(s.activations)),
    )


def _cosine(activations: LayerActivations | None) -> str:
    if activations is None or activations.cosine is None:
        return "-"
    return number(activations.cosine)


def _notes(ranking: Ranking) -> Iterator[str]:
    if any(_is_marked(ranking, score) for score in ranking.layers):
        yield "* cannot be removed alone, perhaps together with others"
    if ranking.by != BY_KLD:
        yield f"Ordered by {ranking.by}."
    if ranking.undecided:
        pairs = ", ".join(f"{a} and {b}" for a, b in ranking.undecided)
        yield f"Not settled by this text, more chunks would be needed: {pairs}."
