"""Results as text: one function per kind of result. Nothing here prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ggprune.bench import Speed
from ggprune.evaluation import Evaluation
from ggprune.metrics.divergence import Distribution, Divergence
from ggprune.model.cut import Unit
from ggprune.model.layers import format_layers
from ggprune.pipeline import AutoResult
from ggprune.pipeline.result import FrontRow, Row
from ggprune.report.bench import speed_cell
from ggprune.report.health import render_health_table
from ggprune.report.table import bars, is_log_scale, markdown_table
from ggprune.report.units import count, estimate, number, percent, size
from ggprune.scoring import Choice, Goal, LayerScore, Metric, Ranking
from ggprune.scoring.activations import LayerActivations
from ggprune.scoring.metric import BY_KLD

UNITS = {Unit.LAYER: "layer", Unit.ATTN: "attention of", Unit.FFN: "FFN of"}


def render_ranking(ranking: Ranking) -> str:
    """Layers by importance, the least important first."""
    by_layer = {score.layer: score for score in ranking.layers}
    scores = [by_layer[layer] for layer in ranking.order]
    values = [score.value(ranking.by.metric) for score in scores]
    extra = _extra_columns(ranking)
    marks = ranking.unit is Unit.LAYER  # modules are never removed alone
    rows = [
        (
            f"{score.layer} *" if marks and not score.removable else str(score.layer),
            estimate(score.kld),
            number(score.kld_99),
            estimate(score.ppl),
            percent(score.same_top_p),
            estimate(score.bi),
            *(column(score) for _, column in extra),
            str(score.kld.n),
            drawn,
        )
        for score, drawn in zip(scores, bars(values), strict=True)
    ]
    scale = "importance (log)" if is_log_scale(values) else "importance"
    about = ranking.calibration
    head = (
        f"{ranking.model.path}: {ranking.model.n_layer} layers of {ranking.model.arch}, "
        f"PPL {estimate(ranking.base_ppl)} on {about.source} "
        f"({about.n_chunk} chunks of {about.n_ctx}, {about.n_token} tokens scored)"
    )
    headers = (
        UNITS[ranking.unit], "KLD without it", "99 % of tokens", "PPL without it", "same top p",
        "BI", *(name for name, _ in extra), "tokens", scale,
    )  # fmt: skip
    parts = [head, markdown_table(headers, rows, left=(len(headers) - 1,))]
    if marks and not all(score.removable for score in scores):
        parts.append("* cannot be removed alone, perhaps together with others")
    if ranking.by != BY_KLD:
        parts.append(f"Ordered by {ranking.by}.")
    if ranking.undecided:
        pairs = ", ".join(f"{a} and {b}" for a, b in ranking.undecided)
        parts.append(f"Not settled by this text, more chunks would be needed: {pairs}.")
    if ranking.chosen is not None:
        parts.append(render_choice(ranking.chosen))
    return "\n\n".join(parts)


def _extra_columns(ranking: Ranking) -> list[tuple[str, Callable[[LayerScore], str]]]:
    """What is not always there: the metric that was asked for, statistics of an imatrix."""
    columns: list[tuple[str, Callable[[LayerScore], str]]] = {
        Metric.RMS_DELTA_P: [("RMS Δp", lambda s: percent(s.rms_delta_p))],
        Metric.ANGULAR: [("angular", lambda s: estimate(s.angular))],
        Metric.RELATIVE_MAGNITUDE: [("rel. magnitude", lambda s: estimate(s.relative_magnitude))],
        Metric.MAGNITUDE: [("magnitude", lambda s: number(s.magnitude or 0.0, 0))],
    }.get(ranking.by.metric, [])
    if any(score.activations for score in ranking.layers):
        columns = [
            *columns,
            ("imatrix energy", lambda s: number(s.activations.energy) if s.activations else "-"),
            ("imatrix cosine", lambda s: _cosine(s.activations)),
        ]
    return columns


def _cosine(activations: LayerActivations | None) -> str:
    if activations is None or activations.cosine is None:
        return "-"
    return number(activations.cosine)


def render_choice(choice: Choice) -> str:
    """The race of every step, what each number of layers costs and gives, the set."""
    parts = [render_steps(choice), render_front([FrontRow(p, None, None) for p in choice.front])]
    return "\n\n".join([part for part in parts if part] + ["\n".join(_decision(choice))])


def _decision(choice: Choice) -> list[str]:
    """The set, and what simpler strategies would have chosen, on the calibration text."""
    best = choice.best
    lines = [
        f"chosen by {choice.strategy.value}: {format_layers(best.drop.layers)} "
        f"(KLD {estimate(best.kld)}, {estimate(best.ppl_ratio)} times the PPL; "
        f"{choice.n_set} sets measured)"
    ]
    for other in choice.others:
        strategy, point = other.strategy, other.point
        ratio = f", {point.kld.value / best.kld.value:.2f}x" if best.kld.value > 0 else ""
        lines.append(
            f"{strategy.value} would be {format_layers(point.drop.layers)} "
            f"(KLD {estimate(point.kld)}{ratio})"
        )
    return lines


def render_steps(choice: Choice) -> str:
    """One line per race: what it took, and what came of it. Empty if there was none."""
    rows = [
        (
            step.what,
            str(step.n_set),
            str(step.n_pass),
            f"{step.time_s:.1f}",
            format_layers(step.drop.layers),
            estimate(step.kld),
            str(step.kld.n),
        )
        for step in choice.steps
    ]
    headers = ("race", "sets", "passes", "time s", "winner", "KLD", "tokens")
    return markdown_table(headers, rows, left=(0, 4)) if rows else ""


def render_front(front: Sequence[FrontRow]) -> str:
    """What each number of layers costs and gives; predicted from bytes, measured where it was."""
    is_measured = any(row.tg for row in front)
    rows = [
        (
            str(len(row.point.drop)),
            format_layers(row.point.drop.layers) or "-",
            estimate(row.point.kld),
            estimate(row.point.ppl_ratio),
            size(row.point.footprint.size_bytes),
            count(row.point.footprint.n_param),
            f"{row.point.speedup:.3f}x",
            *((speed_cell(row.tg), f"{row.speedup:.3f}x" if row.speedup else "-") * is_measured),
        )
        for row in front
    ]
    headers = ["dropped", "layers", "KLD", "PPL ratio", "size", "params", "predicted speed-up"]
    return markdown_table(headers + ["tg t/s", "measured"] * is_measured, rows, left=(1,))


def render_evaluation(evaluation: Evaluation) -> str:
    """As llama-perplexity ends its output."""
    ppl = evaluation.ppl
    lines = [f"Final estimate: PPL = {ppl.value:.4f} +/- {ppl.se:.5f}"]
    if evaluation.divergence is not None:
        lines += ["", *_divergence_lines(evaluation, evaluation.divergence)]
    return "\n".join(lines)


def _divergence_lines(evaluation: Evaluation, d: Divergence) -> list[str]:
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
    return [
        "====== Perplexity statistics ======",
        *lines,
        "",
        "====== KL divergence statistics ======",
        f"Mean    KLD: {mean.value:10.6f} ± {mean.se:10.6f}",
        *(f"{name} KLD: {v:10.6f}" for name, v in _extremes(d.kld, skip=(75.0, 25.0))),
        "",
        "====== Token probability statistics ======",
        f"Mean    Δp: {100 * dp.value:6.3f} ± {100 * dp.se:5.3f} %",
        *(f"{name} Δp: {100 * v:6.3f}%" for name, v in _extremes(d.delta_p)),
        f"RMS Δp    : {100 * rms.value:6.3f} ± {100 * rms.se:5.3f} %",
        f"Same top p: {100 * same.value:6.3f} ± {100 * same.se:5.3f} %",
    ]


def _extremes(d: Distribution, skip: Sequence[float] = ()) -> list[tuple[str, float]]:
    middle = [
        ("Median ", v) if p == 50.0 else (f"{p:4.1f}%  ", v)
        for p, v in d.percentiles.items()
        if p not in skip
    ]
    return [("Maximum", d.maximum), *middle, ("Minimum", d.minimum)]


def render_auto(report: AutoResult) -> str:
    """The final table and what it means."""
    base = report.rows[0]
    rows = [
        (
            row.name,
            str(row.n_layer),
            size(row.size_bytes),
            f"{row.bits_per_weight:.2f}",
            estimate(row.ppl),
            estimate(row.kld) if row.kld else "0",
            percent(row.same_top_p) if row.same_top_p else "100 %",
            speed_cell(row.pp),
            speed_cell(row.tg),
            _ratio(row.tg, base.tg),
        )
        for row in report.rows
    ]
    headers = (
        "model", "layers", "size", "bpw", "PPL", "KLD", "same top p", _test("pp", base.pp),
        _test("tg", base.tg), "tg speed-up",
    )  # fmt: skip
    text = report.evaluation_text
    return "\n".join(
        [
            f"dropped layers {format_layers(report.plan.drop)} of 0-{report.plan.n_layer - 1}; "
            f"judged on {text.source} ({text.n_token} tokens scored)",
            "",
            markdown_table(headers, rows),
            "",
            *verdict(report.rows),
            *_promise(report),
            "",
            *_steps(report.ranking.chosen),
            "Every number of layers on the calibration text; sizes before requantizing:",
            "",
            render_front(report.front),
            *(["", render_health_table(report.health)] if report.health else []),
        ]
    )


def _steps(choice: Choice | None) -> list[str]:
    """How the layers were found."""
    if choice is None or not choice.steps:
        return []
    return ["How the layers were found:", "", render_steps(choice), "", *_decision(choice), ""]


def _promise(report: AutoResult) -> list[str]:
    """Was the target reached, by what was measured?"""
    target, last, result = report.target, report.front[-1], report.rows[-1]
    if target is None:
        return []
    if target.goal is Goal.SPEEDUP and last.speedup is not None:
        kept = "reached" if last.speedup >= target.value else "not reached"
        return [
            f"{target}: {kept}, {last.speedup:.3f}x measured, {last.point.speedup:.3f}x predicted."
        ]
    if target.goal is Goal.SIZE:
        kept = "reached" if result.size_bytes <= target.value else "not reached"
        return [f"{target}: {kept}, {result.size_bytes} bytes."]
    return []


def _test(prefix: str, speed: Speed | None) -> str:
    return f"{speed.test if speed else prefix} t/s"


def _ratio(speed: Speed | None, base: Speed | None) -> str:
    return f"{speed.mean / base.mean:.2f}x" if speed and base else "-"


def verdict(rows: Sequence[Row]) -> list[str]:
    """What the table says about size and speed: the result against the rival of its size."""
    result = rows[-1]
    rivals = [row for row in rows[1:-1] if row.size_bytes <= result.size_bytes]
    if not rivals or result.kld is None:
        return []
    rival = min(rivals, key=lambda row: row.kld.value if row.kld else 0.0)
    assert rival.kld is not None
    loss, rival_loss = result.kld.value, rival.kld.value
    better = "less" if rival_loss < loss else "more"
    lines = [
        f"At no more bytes, '{rival.name}' loses {better} than pruning: "
        f"KLD {rival_loss:.4f} against {loss:.4f}."
    ]
    if result.tg and rival.tg:
        lines.append(f"Pruning generates at {result.tg.mean / rival.tg.mean:.2f}x the speed of it.")
    return lines
