"""The whole job: the final table and what it means, and the report with everything in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ggprune.bench import Speed
from ggprune.evaluation.health import Health
from ggprune.model.layers import format_layers
from ggprune.pipeline import AutoResult
from ggprune.pipeline.result import Row
from ggprune.report import chosen, health, ranking
from ggprune.report.blocks import Block, Heading, Table, Text
from ggprune.report.reportfile import named_versions
from ggprune.report.units import estimate, percent, size, speed_cell
from ggprune.scoring import Goal


def blocks(result: AutoResult) -> tuple[Block, ...]:
    """The final table and what it means."""
    text = result.evaluation_text
    dropped = (
        f"dropped layers {format_layers(result.plan.drop)} of 0-{result.plan.n_layer - 1}; "
        f"judged on {text.source} ({text.n_token} tokens scored)"
    )
    front = "Every number of layers on the calibration text; sizes before requantizing:"
    return (
        Text((dropped,)),
        _table(result.rows),
        Text((*_verdict(result.rows), *_promise(result))),
        *_steps(result),
        Text((front,)),
        chosen.front_table(result.front),
        *((health.table(result.health),) if result.health else ()),
    )


def report(result: AutoResult) -> tuple[Block, ...]:
    """Everything: also the ranking, the models' texts whole, and what it was done with."""
    machine = result.machine
    made_with = (
        f"{named_versions(result.ranking.versions)}; {machine.backends} on "
        f"{', '.join(machine.descriptions)}, {machine.n_threads} threads."
    )
    return (
        Heading(f"{Path(result.ranking.model.path).name} -> {result.out.name}", level=1),
        *blocks(result),
        Heading("Ranking"),
        *ranking.blocks(result.ranking),
        *_texts(result.health or ()),
        Heading("How"),
        Text((made_with, f"Source fingerprint: {result.ranking.model.fingerprint}.")),
    )


def _texts(results: Sequence[Health]) -> tuple[Block, ...]:
    if not results:
        return ()
    return (Heading("What the models write"), *health.blocks(results, whole=True))


def _table(rows: Sequence[Row]) -> Table:
    base = rows[0]
    cells = tuple(
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
        for row in rows
    )
    headers = (
        "model", "layers", "size", "bpw", "PPL", "KLD", "same top p", _test("pp", base.pp),
        _test("tg", base.tg), "tg speed-up",
    )  # fmt: skip
    return Table(headers, cells)


def _test(prefix: str, speed: Speed | None) -> str:
    return f"{speed.case.name if speed else prefix} t/s"


def _ratio(speed: Speed | None, base: Speed | None) -> str:
    return f"{speed.mean / base.mean:.2f}x" if speed and base else "-"


def _steps(result: AutoResult) -> tuple[Block, ...]:
    """How the layers were found."""
    choice = result.ranking.chosen
    if choice is None or not choice.steps:
        return ()
    table = chosen.steps_table(choice)
    return (Text(("How the layers were found:",)), table, chosen.decision(choice))


def _promise(result: AutoResult) -> list[str]:
    """Was the target reached, by what was measured?"""
    target, last, row = result.target, result.front[-1], result.rows[-1]
    if target is None:
        return []
    if target.goal is Goal.SPEEDUP and last.speedup is not None:
        kept = "reached" if last.speedup >= target.value else "not reached"
        return [
            f"{target}: {kept}, {last.speedup:.3f}x measured, {last.point.speedup:.3f}x predicted."
        ]
    if target.goal is Goal.SIZE:
        kept = "reached" if row.size_bytes <= target.value else "not reached"
        return [f"{target}: {kept}, {row.size_bytes} bytes."]
    return []


def _verdict(rows: Sequence[Row]) -> list[str]:
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
