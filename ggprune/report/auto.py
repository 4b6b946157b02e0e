"""The whole job: the final table and what it means, and the report with everything in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from ggprune.bench.ratio import CONFIDENCE, WIDTH, Ratio
from ggprune.pipeline.result import AutoResult, JudgedText, Row, Verdict
from ggprune.report import ranking
from ggprune.report.blocks import Block, Heading, Table, Text, table_of
from ggprune.report.evaluation import text_blocks, texts_table
from ggprune.report.heal import healing_blocks
from ggprune.report.units import (
    count,
    estimate,
    named_versions,
    percent,
    ratio_cell,
    size,
    speed_cell,
)
from ggprune.scoring.target import Goal


def blocks(result: AutoResult) -> tuple[Block, ...]:
    """The final table and what it means."""
    text = result.evaluation_text
    dropped = (
        f"dropped layers {result.plan.cut} of 0-{result.plan.n_layer - 1}; "
        f"judged on {text.source} ({_chunks(text)}, {text.n_token} tokens scored)"
    )
    front = "Every number of layers on the calibration text; sizes before requantizing:"
    choice = result.ranking.chosen
    steps: tuple[Block, ...] = ()
    if choice is not None and choice.steps:
        opening = Text(("How the layers were found:",))
        tables = ranking.steps_table(choice), *ranking.trials_table(choice)
        steps = (opening, *tables, ranking.decision(choice))
    return (
        Text((dropped,)),
        _table(result.rows),
        Text((*_verdict(result.verdict), *_promise(result), *_healing(result))),
        *_rounds(result),
        *steps,
        Text((front,)),
        ranking.front_table(result.front),
        *((texts_table(result.health),) if result.health else ()),
    )


def _chunks(text: JudgedText) -> str:
    """`34 chunks`, `64 of 938 chunks`."""
    of = "" if text.n_chunk == text.n_chunk_whole else f" of {text.n_chunk_whole}"
    return f"{text.n_chunk}{of} chunks"


def report(result: AutoResult) -> tuple[Block, ...]:
    """Everything: also the ranking, the models' texts whole, and what it was done with."""
    machine = result.machine
    made_with = (
        f"{named_versions(result.ranking.versions)}; {machine.backends} on "
        f"{', '.join(machine.descriptions)}, {machine.n_threads} threads."
    )
    written: tuple[Block, ...] = ()
    if result.health:
        written = (Heading("What the models write"), *text_blocks(result.health, whole=True))
    healed: tuple[Block, ...] = ()
    if result.healing is not None:
        healed = (Heading("Healing"), *healing_blocks(result.healing))
    return (
        Heading(f"{Path(result.ranking.model.path).name} -> {result.out.name}", level=1),
        *blocks(result),
        Heading("Ranking"),
        *ranking.blocks(result.ranking),
        *healed,
        *written,
        Heading("How"),
        Text((made_with, f"Source fingerprint: {result.ranking.model.fingerprint}.")),
    )


Z_95 = 1.96  # errors within which the difference of two losses is no difference
SPEEDUP = f"tg speed-up ({100 * CONFIDENCE:.0f} % interval)"


def _table(rows: Sequence[Row]) -> Table:
    pp, tg = rows[0].pp, rows[0].tg
    return table_of(
        rows,
        ("model", lambda row: row.name), ("layers", lambda row: row.n_layer),
        ("size", lambda row: size(row.size_bytes)),
        ("bpw", lambda row: f"{row.bits_per_weight:.2f}"), ("PPL", lambda row: estimate(row.ppl)),
        ("KLD", lambda row: estimate(row.kld) if row.kld else "0"),
        ("same top p", lambda row: percent(row.same_top_p) if row.same_top_p else "100 %"),
        (f"{pp.case.name if pp else 'pp'} t/s", lambda row: speed_cell(row.pp)),
        (f"{tg.case.name if tg else 'tg'} t/s", lambda row: speed_cell(row.tg)),
        (SPEEDUP, lambda row: ratio_cell(row.speedup) if row.tg else None),
        ("predicted", lambda r: f"{r.predicted_speedup:.3f}x" if r.predicted_speedup else None),
        spare=("bpw", "layers", f"{pp.case.name if pp else 'pp'} t/s", "same top p", "PPL",
               "predicted", f"{tg.case.name if tg else 'tg'} t/s", SPEEDUP),
    )  # fmt: skip


def _verdict(verdict: Verdict | None) -> Iterator[str]:
    """What the table says about size and speed: the result against the rival of its size."""
    if verdict is None:
        return
    loss, rival_loss = verdict.kld, verdict.rival_kld
    more = loss.value - rival_loss.value
    compared = f"loses {'less' if more > 0 else 'more'} than pruning"
    if abs(more) < Z_95 * math.hypot(loss.se, rival_loss.se):
        compared = "and pruning lose the same, as far as is known"
    values = f"KLD {estimate(rival_loss)} against {estimate(loss)}"
    yield f"At no more bytes, '{verdict.rival}' {compared}: {values}."
    if verdict.speedup is not None:
        yield compared_speed(verdict.speedup, verdict.predicted_speedup)


def compared_speed(ratio: Ratio, predicted: float | None) -> str:
    """How much faster pruning generates than the rival, as far as that is known."""
    measured = ratio_cell(ratio)
    if ratio.low is None:
        said = f"Pruning generates at {measured} the speed of it, measured once"
    elif ratio.is_above(1.0) is None:
        said = f"No difference in the speed of generating was measured: {measured}"
    else:
        said = f"Pruning generates at {measured} the speed of it"
    if math.isfinite(ratio.width) and ratio.width >= WIDTH:
        share = f"{100 * WIDTH:.0f} %"
        said += f", not known to {share} after {ratio.n} repetitions"
    return f"{said}; {predicted:.3f}x is predicted by the bytes read." if predicted else f"{said}."


def _healing(result: AutoResult) -> Iterator[str]:
    """What healing did to the result, on the text that both were judged on."""
    healing = result.healing
    if healing is None:
        return
    if not healing.is_better:
        yield "Healing gained nothing: the result is not healed."
        return
    trained = result.training is not None and result.training.is_better
    before, after = (result.rows[n - trained].kld for n in (-2, -1))
    assert before is not None and after is not None
    yield (
        f"Healing: KLD {before.value:.4f} -> {after.value:.4f}; {len(healing.refitted)} matrices "
        f"fitted to {healing.n_fitted} tokens of {healing.text.source} in {healing.time_s:.0f} s."
    )
    if result.training is None:
        return
    if not trained:
        yield "Training gained nothing: the result is not trained."
        return
    last, run = result.rows[-1].kld, result.training.trained.best
    assert last is not None
    yield (
        f"Training: KLD {after.value:.4f} -> {last.value:.4f}; {run.best.n_token} tokens, seed "
        f"{run.seed}, in {result.training.trained.time_s:.0f} s."
    )


def _rounds(result: AutoResult) -> tuple[Block, ...]:
    """As the depth-first recipe prints it: what every round gave."""
    if result.rounds is None:
        return ()
    first = result.rounds[0]
    heading = "Trained; perplexities of seeds are those on rows set aside:"
    table = table_of(
        result.rounds,
        ("layers", lambda row: row.n_layer), ("parameters", lambda row: count(row.n_param)),
        ("PPL", lambda row: estimate(row.ppl)), ("PPL ratio", lambda row: f"{row.ppl_ratio:.3f}"),
        (SPEEDUP, lambda row: ratio_cell(row.speedup) if row.speedup or row is first else None),
        ("seeds", lambda row: " / ".join(f"{ppl:.2f}" for ppl in row.seed_ppls) or None),
        left=(), spare=("seeds", "parameters", "PPL ratio", SPEEDUP),
    )  # fmt: skip
    return (Text((heading,)), table)


def _promise(result: AutoResult) -> Iterator[str]:
    """Was the target reached, by what was measured?"""
    target, last, size_bytes = result.target, result.front[-1], result.rows[-1].size_bytes
    if target is not None and target.goal is Goal.SPEEDUP and last.speedup is not None:
        is_reached = last.speedup.is_above(target.value)
        verdict = {True: "reached", False: "not reached", None: "not decided"}[is_reached]
        measured = f"{ratio_cell(last.speedup)} measured, {last.point.speedup:.3f}x predicted"
        yield f"{target}: {verdict}, {measured}."
    if target is not None and target.goal is Goal.SIZE:
        kept = "reached" if size_bytes <= target.value else "not reached"
        yield f"{target}: {kept}, {size_bytes} bytes."
