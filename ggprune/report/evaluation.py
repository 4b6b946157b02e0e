"""Perplexity and the distance from a base model, of one model or of several side by side.

Also what the reports of all evaluations have in common: the choice tasks, lm-eval's tasks and what
models write are shown by modules of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from ggprune.evaluation import Evaluation
from ggprune.metrics.estimates import Distribution, Divergence
from ggprune.report.blocks import Block, Heading, Table, Text
from ggprune.report.reportfile import named_versions
from ggprune.report.units import estimate, percent


class Evaluated(Protocol):
    """What came of any evaluation of a model."""

    @property
    def versions(self) -> Mapping[str, str]: ...


E = TypeVar("E", bound=Evaluated)


def document(results: Sequence[E]) -> E | dict[str, Sequence[E]]:
    """What --json prints of evaluations of any kind."""
    return results[0] if len(results) == 1 else {"models": results}


def report(results: Sequence[Evaluated], title: str, body: Iterable[Block]) -> tuple[Block, ...]:
    """A file about evaluations of any kind, whose blocks are `body`."""
    versions = named_versions(results[0].versions)
    return (Heading(title, level=1), *body, Heading("How"), Text((f"{versions}.",)))


def blocks(results: Sequence[Evaluation]) -> tuple[Block, ...]:
    """One model as llama-perplexity ends its output, several as a table."""
    if len(results) > 1:
        return (_table(results),)
    (evaluation,) = results
    ppl, divergence = evaluation.ppl, evaluation.divergence
    final = Text((f"Final estimate: PPL = {ppl.value:.4f} +/- {ppl.se:.5f}",))
    return (final, *(_statistics(evaluation, divergence) if divergence is not None else ()))


def _table(results: Sequence[Evaluation]) -> Table:
    headers: tuple[str, ...] = ("model", "PPL")
    rows = [(result.path, estimate(result.ppl)) for result in results]
    divergences = [result.divergence for result in results if result.divergence is not None]
    if len(divergences) < len(results):
        return Table(headers, tuple(rows))
    headers += ("PPL ratio", "KLD", "99 % of tokens", "RMS Δp", "same top p")
    cells = [
        (
            estimate(d.ratio),
            estimate(d.kld.mean),
            f"{d.kld.percentiles[99.0]:.4f}",
            percent(d.rms_delta_p),
            percent(d.same_top_p),
        )
        for d in divergences
    ]
    return Table(headers, tuple((*a, *b) for a, b in zip(rows, cells, strict=True)))


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
        ("Median ", v) if p == 50.0 else (f"{p:4.1f}%  ", v)
        for p, v in d.percentiles.items()
        if p not in skip
    ]
    return [("Maximum", d.maximum), *middle, ("Minimum", d.minimum)]
