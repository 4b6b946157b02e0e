"""Experts by importance: one line a layer, and what sets of them cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ggprune.report.blocks import Block, Text, table_of
from ggprune.report.units import estimate, number, size
from ggprune.scoring.experts import ExpertLayer, ExpertMetric, ExpertScores

N_NAMED = 6  # experts a line


def blocks(scores: ExpertScores) -> tuple[Block, ...]:
    """The model, a line per layer, the sets."""
    text = scores.calibration
    head = (
        f"{scores.model.path}: {scores.n_expert} experts in each of {len(scores.layers)} layers of "
        f"{scores.model.arch}, {scores.n_used} for every token; PPL {estimate(scores.base_ppl)} on "
        f"{text.source} ({text.n_chunk} chunks of {text.n_ctx} tokens)"
    )
    layers = table_of(
        scores.layers,
        ("layer", lambda x: x.layer),
        ("least important", lambda x: _least(x, scores.by)),
        ("lowest", lambda x: number(min(_values(x, scores.by)))),
        ("median", lambda x: number(float(np.median(_values(x, scores.by))))),
        ("highest", lambda x: number(max(_values(x, scores.by)))),
        ("never chosen", lambda x: sum(f == 0 for f in x.frequency)),
        ("KLD without one", _alone),
        left=(1,), spare=("KLD without one", "never chosen", "median", "highest"),
    )  # fmt: skip
    order = Text((f"by {scores.by.value}, the least important experts first",))
    return (Text((head,)), order, layers, *_sets(scores))


def _values(layer: ExpertLayer, by: ExpertMetric) -> Sequence[float]:
    if by is ExpertMetric.KLD:
        return [value for value in layer.kld if value is not None] or [0.0]
    return layer.values(by)


def _least(layer: ExpertLayer, by: ExpertMetric) -> str:
    values = layer.kld if by is ExpertMetric.KLD else layer.values(by)
    known = [(value, n) for n, value in enumerate(values) if value is not None]
    return " ".join(str(n) for _, n in sorted(known)[:N_NAMED])


def _alone(layer: ExpertLayer) -> str | None:
    measured = [value for value in layer.kld if value is not None]
    return f"{number(min(measured))} - {number(max(measured))}" if measured else None


def _sets(scores: ExpertScores) -> tuple[Block, ...]:
    if not scores.sets:
        return ()
    before, n_drop = scores.model.size_bytes, scores.sets[0].n_drop
    title = (
        f"without {n_drop} of {scores.n_expert} experts of every layer; a token still reads "
        f"{scores.n_used} of them, so that this saves memory and no time"
    )
    table = table_of(
        scores.sets,
        ("chosen by", lambda s: s.by.value),
        ("KLD", lambda s: estimate(s.kld)),
        ("PPL", lambda s: estimate(s.ppl)),
        ("size", lambda s: size(s.size_bytes)),
        ("of the original", lambda s: f"{100 * s.size_bytes / before:.1f} %"),
    )
    return (Text((title,)), table)
