"""Evaluations as text: several models side by side, choice tasks, lm-eval's tasks."""

from __future__ import annotations

from collections.abc import Sequence

from ggprune.evaluation import Evaluation
from ggprune.evaluation.choices import ChoiceKind, ChoiceScore
from ggprune.evaluation.tasks import TaskScores
from ggprune.report.render import render_evaluation
from ggprune.report.table import markdown_table
from ggprune.report.units import estimate, percent


def render_evaluations(results: Sequence[Evaluation]) -> str:
    """One model as llama-perplexity ends its output, several as a table."""
    if len(results) == 1:
        return render_evaluation(results[0])
    headers = ["model", "PPL"]
    rows = [[result.path, estimate(result.ppl)] for result in results]
    if all(result.divergence for result in results):
        headers += ["PPL ratio", "KLD", "99 % of tokens", "RMS Δp", "same top p"]
        for row, result in zip(rows, results, strict=True):
            d = result.divergence
            assert d is not None
            row += [estimate(d.ratio), estimate(d.kld.mean), f"{d.kld.percentiles[99.0]:.4f}",
                    percent(d.rms_delta_p), percent(d.same_top_p)]  # fmt: skip
    return markdown_table(headers, rows)


def render_choices(scores: Sequence[ChoiceScore]) -> str:
    """Accuracies with the error that llama-perplexity prints for each kind of task."""
    rows = [
        (
            score.path,
            str(score.accuracy.n),
            f"{100 * score.accuracy.value:.4f}",
            _error(score),
            f"{100 * score.chance:.1f}",
        )
        for score in scores
    ]
    headers = (scores[0].benchmark.value, "tasks", "right %", "error", "guessing %")
    return markdown_table(headers, rows)


def _error(score: ChoiceScore) -> str:
    if score.benchmark is ChoiceKind.HELLASWAG:
        low, high = score.interval
        return f"[{100 * low:.4f}, {100 * high:.4f}]"
    return f"± {100 * score.accuracy.se:.4f}"


def render_tasks(scores: Sequence[TaskScores]) -> str:
    rows = [
        (score.path, m.task, m.metric, f"{m.value:.4f}", f"{m.se:.4f}" if m.se is not None else "-")
        for score in scores
        for m in score.metrics
    ]
    return markdown_table(("model", "task", "metric", "value", "±"), rows, left=(0, 1, 2))
