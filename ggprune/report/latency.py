"""Latency of whole requests: a row for every model and setting."""

from __future__ import annotations

from ggprune.bench.latency import Latency, LatencyReport
from ggprune.report.bench import COMPARED, devices_text, ratio_cell
from ggprune.report.blocks import Block, Table


def blocks(report: LatencyReport) -> tuple[Block, ...]:
    return (_table(report), devices_text(report.hardware))


def _table(report: LatencyReport) -> Table:
    several = len(report.models) > 1
    rows = tuple(
        (
            model.description,
            *_numbers(latency),
            *((ratio_cell(latency.ratio),) * several),
            model.path,
        )
        for model in report.models
        for latency in model.latencies
    )
    headers: tuple[str, ...] = (
        "model", "sequences", "input", "output", "latency s", "tokens/s", "ms/token",
    )  # fmt: skip
    headers += (COMPARED,) * several
    return Table((*headers, "file"), rows, left=(0, len(headers)))


def _numbers(latency: Latency) -> tuple[str, ...]:
    return (
        str(latency.n_seq),
        str(latency.n_input),
        str(latency.n_output),
        f"{latency.mean:.4f} ± {latency.stdev:.4f}",
        f"{latency.tok_per_s:.2f}",
        f"{1000 * latency.token_s:.3f}",
    )
