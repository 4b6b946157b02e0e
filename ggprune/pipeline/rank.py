"""Ranking and choosing, each in a child process: no bad file ends the caller's.

What they do is written where they come from.
"""

from __future__ import annotations

from functools import wraps

from ggprune.metrics.text import Text
from ggprune.model.model import Model
from ggprune.progress import SILENT, Progress
from ggprune.runtime.isolate import in_child, isolated
from ggprune.scoring.choose import choose as choose_layers
from ggprune.scoring.experts import ExpertScores, ExpertsOptions, score_experts
from ggprune.scoring.rank import RankOptions
from ggprune.scoring.rank import rank as rank_layers
from ggprune.scoring.ranking import Metric, Ranking

choose = in_child(choose_layers)


@wraps(score_experts)
def rank_experts(
    model: Model, text: Text, options: ExpertsOptions | None = None, progress: Progress = SILENT
) -> ExpertScores:
    model.read_fingerprint(progress.part("read"))
    return isolated(score_experts, model, text, options, progress)


@wraps(rank_layers)
def rank(
    model: Model, text: Text, options: RankOptions | None = None, progress: Progress = SILENT
) -> Ranking:
    model.read_fingerprint(progress.part("read"))
    options = options or RankOptions()
    if options.by.metric is Metric.TAYLOR:
        from ggprune.pipeline.taylor import with_taylor  # and whatever launches torch

        options = with_taylor(model, text, options, progress)
    return isolated(rank_layers, model, text, options, progress)
