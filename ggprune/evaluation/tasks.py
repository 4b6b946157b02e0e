"""lm-eval's tasks on GGUF models. lm-eval itself is loaded only when tasks are run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from ggprune.errors import DataError, MissingExtraError
from ggprune.files.keys import Key
from ggprune.progress import SILENT, Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.library import versions

# The seven tasks of Shortened LLaMA (Kim et al., 2024) and LLM-Pruner, with the metric whose mean
# they report.
COMMONSENSE = "commonsense"
COMMONSENSE_METRICS = {
    "boolq": "acc", "piqa": "acc", "hellaswag": "acc_norm", "winogrande": "acc",
    "arc_easy": "acc", "arc_challenge": "acc_norm", "openbookqa": "acc_norm",
}  # fmt: skip


TaskName = str | dict[str, object]  # lm-eval's name, a YAML file, or a configuration


@dataclass(frozen=True)
class TaskMetric:
    """One number of one task."""

    task: str
    metric: str
    value: float
    se: float | None


@dataclass(frozen=True)
class TaskScores:
    """What lm-eval reports about one model."""

    path: Annotated[str, Key(name="model.path")]
    limit: Annotated[int | None, "documents of each task, with --limit"]
    metrics: Annotated[tuple[TaskMetric, ...], Key(name="tasks")]
    versions: Annotated[dict[str, str], "lm-eval's too"]


def check_tasks() -> None:
    """Raises MissingExtraError if tasks could not be run in the end."""
    if find_spec("lm_eval") is None:
        raise MissingExtraError("tasks need lm-eval: pip install 'ggprune[tasks]'")


def run_tasks(
    paths: Sequence[Path],
    tasks: Sequence[TaskName],
    *,
    limit: int | None = None,
    n_ctx: int = 2048,
    compute: Compute | None = None,
    progress: Progress = SILENT,
) -> tuple[TaskScores, ...]:
    """Names of lm-eval's tasks, YAML files or configurations; `limit` takes the first N documents.

    `commonsense` stands for the seven tasks in COMMONSENSE_METRICS and adds their mean.
    Raises MissingExtraError without lm-eval, DataError if it does not know a task or cannot get
    its data.
    """
    check_tasks()
    from ggprune.evaluation.harness import GgufModel

    scores = []
    for path in paths:
        with closing(GgufModel(path, n_ctx, compute=compute, progress=progress)) as model:
            try:
                results = model.evaluate(_expanded(tasks), limit)
            except (KeyError, ValueError, OSError) as e:
                raise DataError(f"lm-eval cannot run the tasks: {e}") from e
        metrics = tuple(_metrics(results))
        if COMMONSENSE in tasks:
            metrics = (*metrics, commonsense_mean(metrics))
        used = {**versions(), "lm-eval": version("lm-eval")}
        scores.append(TaskScores(str(path), limit, metrics, used))
    return tuple(scores)


def _expanded(tasks: Sequence[TaskName]) -> list[TaskName]:
    """Each task once, `commonsense` as what it stands for."""
    seven = list[TaskName](COMMONSENSE_METRICS)
    named = [name for task in tasks for name in (seven if task == COMMONSENSE else [task])]
    return [task for i, task in enumerate(named) if task not in named[:i]]


def _metrics(results: Mapping[str, Mapping[str, object]]) -> Iterator[TaskMetric]:
    """The numbers in lm-eval's results; their names without the filter."""
    for task, metrics in results.items():
        for name, value in metrics.items():
            metric, _, kept = name.partition(",")
            if kept and not metric.endswith("_stderr") and isinstance(value, int | float):
                se = metrics.get(f"{metric}_stderr,{kept}")
                yield TaskMetric(task, metric, float(value), se if isinstance(se, float) else None)


def commonsense_mean(metrics: Sequence[TaskMetric]) -> TaskMetric:
    """The mean over the seven tasks; its error follows from theirs, which are independent.

    Raises DataError if a task has no such metric: a mean over fewer would be another number.
    """
    chosen = [m for m in metrics if COMMONSENSE_METRICS.get(m.task) == m.metric]
    missing = COMMONSENSE_METRICS.keys() - {m.task for m in chosen}
    if missing:
        name = min(missing)
        raise DataError(f"lm-eval reports no {COMMONSENSE_METRICS[name]} for {name}: no mean")
    errors = [m.se for m in chosen if m.se is not None]
    se = math.hypot(*errors) / len(chosen) if len(errors) == len(chosen) else None
    return TaskMetric(COMMONSENSE, "mean", sum(m.value for m in chosen) / len(chosen), se)
