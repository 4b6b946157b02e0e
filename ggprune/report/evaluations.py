"""Evaluations as text: several models side by side, choice tasks, generation, lm-eval's tasks."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ggprune.evaluation import Evaluation
from ggprune.evaluation.choices import Benchmark, ChoiceScore
from ggprune.evaluation.health import Health, Sample
from ggprune.evaluation.tasks import TaskScores
from ggprune.report.render import render_evaluation
from ggprune.report.table import markdown_table
from ggprune.report.units import estimate, percent

EXCERPT = 100  # characters of a text in the terminal; JSON has all


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
    if score.benchmark is Benchmark.HELLASWAG:
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


def render_health(results: Sequence[Health]) -> str:
    """The table, then the texts: each prompt, and what every model wrote behind it."""
    base = results[0].base
    headers = (
        "model", "tokens", "repeated", "ended", "early", "no end", "other script",
        "stray brackets", "sums right",
    )  # fmt: skip
    rows = [_health_row(result.path, result) for result in results]
    if base is not None:
        alone = Health("base", base, None, results[0].n_predict, {})
        rows.insert(0, _health_row("base", alone))
    texts = [(result.path, result.samples) for result in results]
    if base is not None:
        texts.insert(0, ("base", base))
    return "\n\n".join([markdown_table(headers, rows), *_texts(texts)])


def _health_row(name: str, health: Health) -> tuple[str, ...]:
    right, expected = health.answers
    counts = (health.n_early, health.n_missing_end, health.n_other_script)
    return (
        name,
        str(sum(sample.n_token for sample in health.samples)),
        f"{100 * health.repetition:.1f} %",
        f"{health.n_ended} of {len(health.samples)}",
        *("-" if n is None else str(n) for n in counts),
        str(health.stray_brackets),
        f"{right} of {expected}",
    )


def _texts(models: Sequence[tuple[str, Sequence[Sample]]]) -> list[str]:
    blocks = []
    for i, sample in enumerate(models[0][1]):
        lines = [f"> {_excerpt(sample.prompt)}"]
        lines += [f"  {name}: {_excerpt(samples[i].text)}" for name, samples in models]
        blocks.append("\n".join(lines))
    return blocks


def _excerpt(text: str) -> str:
    return textwrap.shorten(text, EXCERPT, placeholder=" ...") or "(nothing)"
