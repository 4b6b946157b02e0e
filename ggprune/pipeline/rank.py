"""Ranking and choosing, each in a child process: no bad file ends the caller's.

What they do is written where they come from.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING

from ggprune.metrics.text import Text
from ggprune.model.model import Model
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
from ggprune.scoring.remembered import RowsOpener
from ggprune.scoring.target import DropRequest

if TYPE_CHECKING:
    from distributed import Client

    from ggprune.cluster.members import Workforce


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
    compute = options.compute if options is not None else None
    rows_of = _rows_of(model, compute, ranking.calibration.n_ctx, progress, client)
    if rows_of is None:
        return isolated(choose_layers, model, text, ranking, request, options, progress)
    model.read_fingerprint(progress.part("read"))
    return choose_layers(model, text, ranking, request, options, progress, rows_of)


def rank(
    model: Model, text: Text, options: RankOptions | None = None, progress: Progress = SILENT,
    *, client: Client | Workforce | None = None,
) -> Ranking:  # fmt: skip
    """As `scoring.rank.rank`; by the workers of a Dask `client`, if there is one.

    The numbers are the same, to the bit. Raises DataError if no worker can take part.
    """
    model.read_fingerprint(progress.part("read"))
    options = options or RankOptions()
    if options.by.metric is Metric.TAYLOR:
        from ggprune.pipeline.taylor import with_taylor  # and whatever launches torch

        options = with_taylor(model, text, options, progress)
    measuring = options.measuring
    rows_of = _rows_of(model, measuring.compute, measuring.n_ctx, progress, client)
    if rows_of is None:
        return isolated(rank_layers, model, text, options, progress)
    return rank_layers(model, text, options, progress, rows_of)


def _rows_of(
    model: Model, compute: Compute | None, n_ctx: int, progress: Progress,
    client: Client | Workforce | None,
) -> RowsOpener | None:  # fmt: skip
    """What opens rows of others; None: this process has all. Says what servers of RPC mean."""
    if client is None and not (compute is not None and compute.rpc):
        return None
    from ggprune.pipeline import spread  # and all of it

    spread.told_of_servers(model, compute or Compute(), n_ctx, progress)
    force = spread.workforce_of(client)
    return spread.rows_by(force) if force is not None else None
