"""Accuracies in choice tasks, with the errors that llama-perplexity prints."""

from __future__ import annotations

from collections.abc import Sequence

from ggprune.evaluation.choices import ChoiceKind, ChoiceScore
from ggprune.report.blocks import Block, Table


def blocks(scores: Sequence[ChoiceScore]) -> tuple[Block, ...]:
    rows = tuple(
        (
            score.path,
            str(score.accuracy.n),
            f"{100 * score.accuracy.value:.4f}",
            _error(score),
            f"{100 * score.chance:.1f}",
        )
        for score in scores
    )
    return (Table((scores[0].benchmark.value, "tasks", "right %", "error", "guessing %"), rows),)


def _error(score: ChoiceScore) -> str:
    """For each kind of task what llama-perplexity prints for it."""
    if score.benchmark is ChoiceKind.HELLASWAG:
        low, high = score.interval
        return f"[{100 * low:.4f}, {100 * high:.4f}]"
    return f"± {100 * score.accuracy.se:.4f}"
