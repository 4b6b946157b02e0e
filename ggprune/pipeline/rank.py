"""Ranking and choosing, each in a child process: no bad file ends the caller's.

What they do is written where they come from.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING

from ggprune.cluster.members import Workforce
from ggprune.metrics.text import Text
from ggprune.model.model import Model
from ggprune.pipeline.spread import rows_by, told_of_servers, workforce_of
from ggprune.progress import SILENT, Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.isolate import isolated
from ggprune.scoring.choice import Choice
from ggprune.scoring.choose import ChooseOptions
from ggprune.scoring.choose import choose as choose_layers
from ggprune.scoring.experts import ExpertScores, ExpertsOptions, score_experts
from ggprune.scoring.rank import RankOptions
from ggprune.scoring.rank import rank as rank_layers
from ggprune.scoring.ranking import Metric, Ranking
from ggprune.scoring.target import DropRequest

if TYPE_CHECKING:
    from distributed import Client


@wraps(score_experts)
def rank_experts(
    model: Model, text: Text, options: ExpertsOptions | None = None, progress: Progress = SILENT
) -> ExpertScores:
    model.read_fingerprint(progress.part("read"))
    return isolated(score_experts, model, text, options, progress)


def choose(
    model: Model, text: Text, ranking: Ranking, request: DropRequest,
    options: ChooseOptions | None = None, progress: Progress = SILENT,
    *, client: Client | Workforce | None = None,
) -> Choice:  # fmt: skip
    """As `scoring.choose.choose`; by the workers of a Dask `client`, if there is one.

    The numbers are the same, to the bit. Raises DataError if no worker can take part.
    """
    force = workforce_of(client)
    compute = options.compute if options is not None and options.compute is not None else Compute()
    told_of_servers(model, compute, ranking.calibration.n_ctx, progress)
    if force is None:
        return isolated(choose_layers, model, text, ranking, request, options, progress)
    model.read_fingerprint(progress.part("read"))
    return choose_layers(model, text, ranking, request, options, progress, rows_by(force))


def rank(
    model: Model, text: Text, options: RankOptions | None = None, progress: Progress = SILENT,
    *, client: Client | Workforce | None = None,
) -> Ranking:  # fmt: skip
    """As `scoring.rank.rank`; by the workers of a Dask `client`, if there is one.

    The numbers are the same, to the bit. Raises DataError if no worker can take part.
    """
    model.read_fingerprint(progress.part("read"))
    options, force = options or RankOptions(), workforce_of(client)
    if options.by.metric is Metric.TAYLOR:
        from ggprune.pipeline.taylor import with_taylor  # and whatever launches torch

        options = with_taylor(model, text, options, progress)
    measuring = options.measuring
    told_of_servers(model, measuring.compute or Compute(), measuring.n_ctx, progress)
    if force is None:
        return isolated(rank_layers, model, text, options, progress)
    return rank_layers(model, text, options, progress, rows_by(force))
