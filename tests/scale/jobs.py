"""What is measured alone and by workers, on the fixture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ggprune
from ggprune.cluster.members import Workforce
from ggprune.metrics.text import Text, read_text
from ggprune.progress import SILENT, Progress
from ggprune.runtime.compute import Compute
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.rank import RankOptions
from ggprune.scoring.ranking import Ranking
from ggprune.scoring.target import DropRequest, Goal, Target
from tests.conftest import CALIBRATION, EVALUATION, TINY

MEASURING = MeasureOptions(n_ctx=128, n_chunk=8, compute=Compute(n_threads=1))
RACING = replace(MEASURING, n_ctx=64, n_chunk=12)
Job = Callable[..., Any]


def text() -> Text:
    return read_text(CALIBRATION)


def all_layers(
    force: Any, cache: Path | None = None, n_chunk: int | None = None,
    progress: Progress = SILENT,
) -> Ranking:  # fmt: skip
    """`rank --exhaustive`."""
    measuring = replace(MEASURING, cache=cache, n_chunk=n_chunk or MEASURING.n_chunk)
    options = RankOptions(measuring=measuring)
    return ggprune.rank(ggprune.open_model(TINY), text(), options, progress, client=force)


def race(
    force: Workforce | None, cache: Path | None = None, progress: Progress = SILENT
) -> Ranking:
    """`rank --drop 3`: a race, and a search with all of its races."""
    request = DropRequest(Target(Goal.LAYERS, 3))
    options = RankOptions(measuring=replace(RACING, cache=cache), n_decide=3, request=request)
    return ggprune.rank(ggprune.open_model(TINY), text(), options, progress, client=force)


def choose(ranking: Ranking, force: Workforce | None) -> Ranking:
    """`choose --drop 2`."""
    options = ggprune.ChooseOptions(compute=MEASURING.compute)
    request = DropRequest(Target(Goal.LAYERS, 2), whole=True)
    model = ggprune.open_model(TINY)
    chosen = ggprune.choose(model, text(), ranking, request, options, client=force)
    return replace(ranking, chosen=chosen)


def evaluate(quantized: Path, force: Workforce | None) -> Any:
    """`eval --base`, of the fixture and of a quantized model: four chunks in a batch."""
    return ggprune.evaluate(
        [TINY, quantized], read_text(EVALUATION), base=TINY, n_ctx=128, n_chunk=18,
        compute=Compute(n_threads=1, n_batch=512), client=force,
    )  # fmt: skip
