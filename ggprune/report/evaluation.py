"""Perplexity and the distance from a base model, choice tasks, lm-eval's tasks, what models write;
and what the reports of all evaluations have in common.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from ggprune.evaluation.choices import ChoiceKind, ChoiceScore
from ggprune.evaluation.health import Health, Sample, Texts
from ggprune.evaluation.perplexity import Evaluation
from ggprune.evaluation.tasks import TaskScores
from ggprune.metrics.estimates import Distribution, Divergence
from ggprune.report.blocks import Block, Code, Heading, Table, Text, table_of
from ggprune.report.units import estimate, named_versions, percent
from ggprune.report.workers import worker_notes

T = TypeVar("T")
EXCERPT = 100  # characters of a text in the terminal; reports and JSON have all


def document(results: Sequence[T]) -> T | dict[str, Sequence[T]]:
    """What --json prints of evaluations of any kind."""
    return results[0] if len(results) == 1 else {"models": results}


def report(versions: Mapping[str, str], title: str, body: Iterable[Block]) -> tuple[Block, ...]:
    """A file about evaluations of any kind, whose blocks are `body`."""
    made_with = Text((f"{named_versions(versions)}.",))
    return (Heading(title, level=1), *body, Heading("How"), made_with)


def task_blocks(scores: Sequence[TaskScores]) -> tuple[Block, ...]:
    """Scores in lm-eval's tasks."""
    rows = [(score.path, metric) for score in scores for metric in score.metrics]
    return (table_of(
        rows,
        ("model", lambda row: row[0]), ("task", lambda row: row[1].task),
        ("metric", lambda row: row[1].metric), ("value", lambda row: f"{row[1].value:.4f}"),
        ("±", lambda row: f"{row[1].se:.4f}" if row[1].se is not None else None), left=(0, 1, 2),
    ),)  # fmt: skip


def choice_blocks(scores: Sequence[ChoiceScore]) -> tuple[Block, ...]:
    """Accuracies in choice tasks, with the errors that llama-perplexity prints."""
    return (table_of(
        scores,
        (scores[0].benchmark.value, lambda score: score.path),
        ("tasks", lambda score: score.accuracy.n),
        ("right %", lambda score: f"{100 * score.accuracy.value:.4f}"),
        ("error", _choice_error), ("guessing %", lambda score: f"{100 * score.chance:.1f}"),
        spare=("guessing %", "tasks", "error"),
    ),)  # fmt: skip


def _choice_error(score: ChoiceScore) -> str:
    if score.benchmark is ChoiceKind.HELLASWAG:
        low, high = score.interval
        return f"[{100 * low:.4f}, {100 * high:.4f}]"
    return f"± {100 * score.accuracy.se:.4f}"


def blocks(results: Sequence[Evaluation]) -> tuple[Block, ...]:
    """One model as llama-perplexity ends its output, several as a table."""
    notes = tuple(Text((note,)) for note in worker_notes(results[0].workers, results[0].kinds))
    if len(results) > 1:
        return (_table(results), *notes)
    (evaluation,) = results
    ppl, divergence = evaluation.ppl, evaluation.divergence
    final = Text((f"Final estimate: PPL = {ppl.value:.4f} +/- {ppl.se:.5f}",))
    statistics = _statistics(evaluation, divergence) if divergence is not None else ()
    return (final, *statistics, *notes)


def _table(results: Sequence[Evaluation]) -> Table:
    alone = table_of(
        results, ("model", lambda result: result.path), ("PPL", lambda result: estimate(result.ppl))
    )
    divergences = [result.divergence for result in results if result.divergence is not None]
    if len(divergences) < len(results):
        return alone
    compared = table_of(
        divergences,
        ("PPL ratio", lambda d: estimate(d.ratio)), ("KLD", lambda d: estimate(d.kld.mean)),
        ("99 % of tokens", lambda d: f"{d.kld.percentiles[99.0]:.4f}"),
        ("RMS Δp", lambda d: percent(d.rms_delta_p)),
        ("same top p", lambda d: percent(d.same_top_p)),
    )  # fmt: skip
    rows = (a + b for a, b in zip(alone.rows, compared.rows, strict=True))
    spare = ("99 % of tokens", "RMS Δp", "PPL ratio", "same top p", "PPL")
    return Table(alone.headers + compared.headers, tuple(rows), spare=spare)


def _statistics(evaluation: Evaluation, d: Divergence) -> tuple[Text, ...]:
    """The three blocks of llama-perplexity --kl-divergence, to the letter."""
    named = (
        ("Mean PPL(Q)                   ", evaluation.ppl),
        ("Mean PPL(base)                ", d.base_ppl),
        ("Mean ln(PPL(Q)/PPL(base))     ", d.ln_ratio),
        ("Mean PPL(Q)/PPL(base)         ", d.ratio),
        ("Mean PPL(Q)-PPL(base)         ", d.difference),
    )
    lines = [f"{name}: {e.value:10.6f} ± {e.se:10.6f}" for name, e in named]
    lines.insert(2, f"Cor(ln(PPL(Q)), ln(PPL(base))): {100 * d.correlation:6.2f}%")
    mean, dp, rms, same = d.kld.mean, d.delta_p.mean, d.rms_delta_p, d.same_top_p
    kld_lines = (
        f"Mean    KLD: {mean.value:10.6f} ± {mean.se:10.6f}",
        *(f"{name} KLD: {v:10.6f}" for name, v in _extremes(d.kld, skip=(75.0, 25.0))),
    )
    token_lines = (
        f"Mean    Δp: {100 * dp.value:6.3f} ± {100 * dp.se:5.3f} %",
        *(f"{name} Δp: {100 * v:6.3f}%" for name, v in _extremes(d.delta_p)),
        f"RMS Δp    : {100 * rms.value:6.3f} ± {100 * rms.se:5.3f} %",
        f"Same top p: {100 * same.value:6.3f} ± {100 * same.se:5.3f} %",
    )
    return (
        Text(("====== Perplexity statistics ======", *lines)),
        Text(("====== KL divergence statistics ======", *kld_lines)),
        Text(("====== Token probability statistics ======", *token_lines)),
    )


def _extremes(d: Distribution, skip: Sequence[float] = ()) -> list[tuple[str, float]]:
    middle = [
        ("Median " if p == 50.0 else f"{p:4.1f}%  ", v)
        for p, v in d.percentiles.items()
        if p not in skip
    ]
    return [("Maximum", d.maximum), *middle, ("Minimum", d.minimum)]


def text_blocks(results: Sequence[Health], *, whole: bool = False) -> tuple[Block, ...]:
    """The table, then each prompt and what every model wrote behind it: the beginnings of the
    texts, or with `whole` all of them."""
    models = _written(results)
    blocks: list[Block] = [texts_table(results)]
    for i in range(len(models[0][1].samples)):
        samples = [(name, texts.samples[i]) for name, texts in models]
        blocks += _whole(i + 1, samples) if whole else [_excerpts(samples)]
    return tuple(blocks)


def texts_table(results: Sequence[Health]) -> Table:
    """What was counted in the texts of each model."""
    return table_of(
        _written(results),
        ("model", lambda row: row[0]),
        ("tokens", lambda row: sum(sample.n_token for sample in row[1].samples)),
        ("repeated", lambda row: f"{100 * row[1].repetition:.1f} %"),
        ("ended", lambda row: f"{row[1].n_ended} of {len(row[1].samples)}"),
        ("early", lambda row: row[1].n_early), ("no end", lambda row: row[1].n_missing_end),
        ("other script", lambda row: row[1].n_other_script),
        ("other language", lambda row: row[1].n_other_language),
        ("stray brackets", lambda row: row[1].stray_brackets),
        ("sums right", lambda row: f"{row[1].n_right} of {row[1].n_expected}"),
        spare=("tokens", "early", "stray brackets", "other script", "other language", "no end",
               "sums right", "ended"),
    )  # fmt: skip


def _written(results: Sequence[Health]) -> list[tuple[str, Texts]]:
    """The names of all models and what they wrote, the base first."""
    base = results[0].base
    first = [("base", base)] if base is not None else []
    return [*first, *((result.path, result.texts) for result in results)]


def _excerpts(samples: Sequence[tuple[str, Sample]]) -> Text:
    def excerpt(text: str) -> str:
        return textwrap.shorten(text, EXCERPT, placeholder=" ...") or "(nothing)"

    texts = (f"  {name}: {excerpt(sample.text)}" for name, sample in samples)
    return Text((f"> {excerpt(samples[0][1].prompt)}", *texts))


def _whole(number: int, samples: Sequence[tuple[str, Sample]]) -> Iterator[Block]:
    yield Heading(f"Prompt {number}", level=3)
    yield Code(samples[0][1].prompt)
    for name, sample in samples:
        end = "ended by itself" if sample.has_ended else "cut off"
        yield Text((f"{name} ({sample.n_token} tokens, {end}):",))
        yield Code(sample.text)
