"""What computes through llama.cpp, each call in a child process: no bad file ends the caller's.

These are the library's functions. What they do is written where they come from.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from ggprune import bench, evaluation, scoring
from ggprune.bench import latency
from ggprune.evaluation import choices, health, tasks
from ggprune.metrics.text import Text
from ggprune.model import Model
from ggprune.pipeline.taylor import with_taylor
from ggprune.progress import SILENT, Progress
from ggprune.runtime.isolate import isolated
from ggprune.scoring import Ranking, RankOptions

P = ParamSpec("P")
T = TypeVar("T")


def in_child(function: Callable[P, T]) -> Callable[P, T]:
    """The same function, computed in a child process; also raises LlamaAbortError if that dies."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return isolated(function, *args, **kwargs)

    return call


@wraps(scoring.rank)
def rank(
    model: Model, text: Text, options: RankOptions | None = None, progress: Progress = SILENT
) -> Ranking:
    model.read_fingerprint(progress.part("read"))
    options = with_taylor(model, text, options or RankOptions(), progress)
    return isolated(scoring.rank, model, text, options, progress)


choose = in_child(scoring.choose)
evaluate = in_child(evaluation.evaluate)
evaluate_strided = in_child(evaluation.evaluate_strided)
score_choices = in_child(choices.score_choices)
run_tasks = in_child(tasks.run_tasks)
check_health = in_child(health.check_health)
benchmark = in_child(bench.benchmark)
measure_latency = in_child(latency.measure_latency)
