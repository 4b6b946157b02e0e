"""A chosen set of layers: how it was found, what it costs and gives, what stands beside it."""

from __future__ import annotations

from collections.abc import Sequence

from ggprune.pipeline.result import FrontRow
from ggprune.report.blocks import Block, Table, Text
from ggprune.report.plot import choice_figure
from ggprune.report.units import count, estimate, size, speed_cell
from ggprune.scoring import Choice


def blocks(choice: Choice) -> tuple[Block, ...]:
    return (*texts(choice), choice_figure(choice))


def texts(choice: Choice) -> tuple[Block, ...]:
    """The race of every step, what each number of layers costs and gives, the set."""
    front = front_table([FrontRow(point, None, None) for point in choice.front])
    return (*((steps_table(choice),) * bool(choice.steps)), front, decision(choice))


def decision(choice: Choice) -> Text:
    """The set, and what simpler strategies would have chosen, on the calibration text."""
    best = choice.best
    lines = [
        f"chosen by {choice.strategy.value}: {best.drop} "
        f"(KLD {estimate(best.kld)}, {estimate(best.ppl_ratio)} times the PPL; "
        f"{choice.n_set} sets measured)"
    ]
    for other in choice.others:
        strategy, point = other.strategy, other.point
        ratio = f", {point.kld.value / best.kld.value:.2f}x" if best.kld.value > 0 else ""
        lines.append(f"{strategy.value} would be {point.drop} (KLD {estimate(point.kld)}{ratio})")
    return Text(tuple(lines))


def steps_table(choice: Choice) -> Table:
    """One row per race: what it took, and what came of it."""
    rows = tuple(
        (
            step.what,
            str(step.n_set),
            str(step.n_pass),
            f"{step.time_s:.1f}",
            str(step.drop),
            estimate(step.kld),
            str(step.kld.n),
        )
        for step in choice.steps
    )
    headers = ("race", "sets", "passes", "time s", "winner", "KLD", "tokens")
    return Table(headers, rows, left=(0, 4))


def front_table(front: Sequence[FrontRow]) -> Table:
    """What each number of layers costs and gives; predicted from bytes, measured where it was."""
    is_measured = any(row.tg for row in front)
    rows = tuple(
        (
            str(len(row.point.drop)),
            str(row.point.drop) or "-",
            estimate(row.point.kld),
            estimate(row.point.ppl_ratio),
            size(row.point.footprint.size_bytes),
            count(row.point.footprint.n_param),
            f"{row.point.speedup:.3f}x",
            *((speed_cell(row.tg), f"{row.speedup:.3f}x" if row.speedup else "-") * is_measured),
        )
        for row in front
    )
    headers = ("dropped", "layers", "KLD", "PPL ratio", "size", "params", "predicted speed-up")
    return Table((*headers, *(("tg t/s", "measured") * is_measured)), rows, left=(1,))
