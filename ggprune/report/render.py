"""Results as text: one function per kind of result. Nothing here prints."""

from __future__ import annotations

from collections.abc import Sequence

from ggprune.bench import Benchmark, Speed
from ggprune.evaluation import Distribution, Divergence, Evaluation
from ggprune.pipeline import AutoReport
from ggprune.pipeline.auto import Row
from ggprune.report.table import bars, is_log_scale, markdown_table
from ggprune.report.units import count, estimate, percent, size
from ggprune.scoring import Choice, Ranking
from ggprune.surgery import format_layers


def render_ranking(ranking: Ranking) -> str:
    """Layers by importance, the least important first."""
    by_layer = {score.layer: score for score in ranking.layers}
    scores = [by_layer[layer] for layer in ranking.order]
    values = [score.kld.value for score in scores]
    rows = [
        (
            str(score.layer) if score.removable else f"{score.layer} *",
            estimate(score.kld),
            estimate(score.ppl),
            percent(score.same_top_p),
            estimate(score.bi),
            str(score.kld.n),
            drawn,
        )
        for score, drawn in zip(scores, bars(values), strict=True)
    ]
    scale = "importance (log)" if is_log_scale(values) else "importance"
    about = ranking.calibration
    head = (
        f"{ranking.model['path']}: {ranking.model['n_layer']} layers of {ranking.model['arch']}, "
        f"PPL {estimate(ranking.base_ppl)} on {about['source']} "
        f"({about['n_chunk']} chunks of {about['n_ctx']}, {about['n_token']} tokens scored)"
    )
    headers = ("layer", "KLD without it", "PPL without it", "same top p", "BI", "tokens", scale)
    parts = [head, markdown_table(headers, rows, left=(6,))]
    if not all(score.removable for score in scores):
        parts.append("* cannot be removed alone, perhaps together with others")
    if ranking.undecided:
        pairs = ", ".join(f"{a} and {b}" for a, b in ranking.undecided)
        parts.append(f"Not settled by this text, more chunks would be needed: {pairs}.")
    if ranking.chosen is not None:
        parts.append(render_choice(ranking.chosen))
    return "\n\n".join(parts)


def render_choice(choice: Choice) -> str:
    """The race of every step, then the set."""
    rows = [
        (step.what, str(step.n_set), format_layers(step.drop), estimate(step.kld))
        for step in choice.steps
    ]
    table = markdown_table(("race", "sets", "winner", "KLD"), rows, left=(0, 2))
    return (
        f"{table}\n\nchosen by {choice.strategy.value}: {format_layers(choice.drop)} "
        f"(KLD {estimate(choice.kld)}, PPL {estimate(choice.ppl)}, {choice.n_set} sets measured)"
    )


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


def render_benchmark(result: Benchmark) -> str:
    """llama-bench's Markdown table, with a column that names the file."""
    rows = []
    for model in result.models:
        for speed in model.speeds:
            rows.append(
                (
                    model.description,
                    size(model.size_bytes),
                    count(model.n_param),
                    result.backends,
                    str(result.n_threads),
                    speed.test,
                    _speed(speed),
                    model.path,
                )
            )
    headers = ("model", "size", "params", "backend", "threads", "test", "t/s", "file")
    return markdown_table(headers, rows, left=(0, 3, 7))


def _speed(speed: Speed | None) -> str:
    return f"{speed.mean:.2f} ± {speed.stdev:.2f}" if speed else "-"


def render_auto(report: AutoReport) -> str:
    """The final table and what it means."""
    base = report.rows[0]
    rows = [
        (
            row.name,
            str(row.n_layer),
            size(row.size_bytes),
            f"{row.bits_per_weight:.2f}",
            estimate(row.ppl),
            estimate(row.divergence.kld.mean) if row.divergence else "0",
            percent(row.divergence.same_top_p) if row.divergence else "100 %",
            _speed(row.pp),
            _speed(row.tg),
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
            f"judged on {text['source']} ({text['n_token']} tokens scored)",
            "",
            markdown_table(headers, rows),
            "",
            *verdict(report.rows),
        ]
    )


def _test(prefix: str, speed: Speed | None) -> str:
    return f"{speed.test if speed else prefix} t/s"


def _ratio(speed: Speed | None, base: Speed | None) -> str:
    return f"{speed.mean / base.mean:.2f}x" if speed and base else "-"


def verdict(rows: Sequence[Row]) -> list[str]:
    """What the table says about size and speed: the result against the rival of its size."""
    result = rows[-1]
    rivals = [row for row in rows[1:-1] if row.size_bytes <= result.size_bytes]
    if not rivals or result.divergence is None:
        return []
    rival = min(rivals, key=lambda row: row.divergence.kld.mean.value if row.divergence else 0.0)
    assert rival.divergence is not None
    loss, rival_loss = result.divergence.kld.mean.value, rival.divergence.kld.mean.value
    better = "less" if rival_loss < loss else "more"
    lines = [
        f"At no more bytes, '{rival.name}' loses {better} than pruning: "
        f"KLD {rival_loss:.4f} against {loss:.4f}."
    ]
    if result.tg and rival.tg:
        lines.append(f"Pruning generates at {result.tg.mean / rival.tg.mean:.2f}x the speed of it.")
    return lines
