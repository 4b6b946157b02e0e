"""The whole job: the final table and what it means, and the report with everything in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ggprune.model.layers import format_layers
from ggprune.pipeline import AutoResult
from ggprune.pipeline.result import Row
from ggprune.report import ranking
from ggprune.report.blocks import Block, Heading, Table, Text, table_of
from ggprune.report.evaluation import text_blocks, texts_table
from ggprune.report.heal import healing_blocks
from ggprune.report.units import count, estimate, named_versions, percent, size, speed_cell
from ggprune.scoring import Goal


def blocks(result: AutoResult) -> tuple[Block, ...]:
    """The final table and what it means."""
    text = result.evaluation_text
    dropped = (
        f"dropped layers {format_layers(result.plan.drop)} of 0-{result.plan.n_layer - 1}; "
        f"judged on {text.source} ({text.n_token} tokens scored)"
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
        Text((*_verdict(result.rows), *_promise(result), *_healing(result))),
        *_rounds(result),
        *steps,
        Text((front,)),
        ranking.front_table(result.front),
        *((texts_table(result.health),) if result.health else ()),
    )


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
        ("tg speed-up", lambda row: f"{row.tg.mean / tg.mean:.2f}x" if row.tg and tg else None),
        spare=("bpw", "layers", f"{pp.case.name if pp else 'pp'} t/s", "same top p", "PPL",
               f"{tg.case.name if tg else 'tg'} t/s", "tg speed-up"),
    )  # fmt: skip


def _verdict(rows: Sequence[Row]) -> Iterator[str]:
    """What the table says about size and speed: the result against the rival of its size."""
    result = rows[-1]
    whole = [row for row in rows[1:-1] if row.n_layer == rows[0].n_layer]
    rivals = [row for row in whole if row.size_bytes <= result.size_bytes]
    if not rivals or result.kld is None:
        return
    rival = min(rivals, key=lambda row: row.kld.value if row.kld else 0.0)
    assert rival.kld is not None
    loss, rival_loss = result.kld.value, rival.kld.value
    compared = f"loses {'less' if rival_loss < loss else 'more'} than pruning"
    yield (f"At no more bytes, '{rival.name}' {compared}: KLD {rival_loss:.4f} against {loss:.4f}.")
    if result.tg and rival.tg:
        yield f"Pruning generates at {result.tg.mean / rival.tg.mean:.2f}x the speed of it."


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
    heading = "Trained; perplexities of seeds are those on rows set aside:"
    table = table_of(
        result.rounds,
        ("layers", lambda row: row.n_layer), ("parameters", lambda row: count(row.n_param)),
        ("PPL", lambda row: estimate(row.ppl)), ("PPL ratio", lambda row: f"{row.ppl_ratio:.3f}"),
        ("tg speed-up", lambda row: f"{row.speedup:.2f}x" if row.speedup else None),
        ("seeds", lambda row: " / ".join(f"{ppl:.2f}" for ppl in row.seed_ppls) or None),
        left=(), spare=("seeds", "parameters", "PPL ratio", "tg speed-up"),
    )  # fmt: skip
    return (Text((heading,)), table)


def _promise(result: AutoResult) -> Iterator[str]:
    """Was the target reached, by what was measured?"""
    target, last, size_bytes = result.target, result.front[-1], result.rows[-1].size_bytes
    if target is not None and target.goal is Goal.SPEEDUP and last.speedup is not None:
        kept = "reached" if last.speedup >= target.value else "not reached"
        measured = f"{last.speedup:.3f}x measured, {last.point.speedup:.3f}x predicted"
        yield f"{target}: {kept}, {measured}."
    if target is not None and target.goal is Goal.SIZE:
        kept = "reached" if size_bytes <= target.value else "not reached"
        yield f"{target}: {kept}, {size_bytes} bytes."
