"""Scores in lm-eval's tasks."""

from __future__ import annotations

from collections.abc import Sequence

from ggprune.evaluation.tasks import TaskScores
from ggprune.report.blocks import Block, Table


def blocks(scores: Sequence[TaskScores]) -> tuple[Block, ...]:
    rows = tuple(
        (score.path, m.task, m.metric, f"{m.value:.4f}", f"{m.se:.4f}" if m.se is not None else "-")
        for score in scores
        for m in score.metrics
    )
    return (Table(("model", "task", "metric", "value", "±"), rows, left=(0, 1, 2)),)
