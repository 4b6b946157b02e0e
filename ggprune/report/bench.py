"""Speed, memory, roofline and latency of models that took turns, and what they ran on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ggprune.bench.latency import LatencyReport
from ggprune.bench.ratio import CONFIDENCE
from ggprune.bench.roofline import LEAST_SHARE, Roofline
from ggprune.bench.runner import ModelMemory
from ggprune.bench.speed import Benchmark, Machine
from ggprune.files.documents import encode_fields
from ggprune.pipeline.bench import Suite
from ggprune.report.blocks import Block, Table, Text, table_of
from ggprune.report.units import count, ratio_cell, size, speed_cell

COMPARED = f"times the first ({100 * CONFIDENCE:.0f} % interval)"
# Parameters that have a column where the tests differ in them.
VARYING = ("n_gpu_layers", "n_batch", "n_ubatch", "type_k", "type_v", "flash_attn")


def blocks(suite: Suite) -> tuple[Block, ...]:
    """All that was asked for, one table each."""
    return (
        speed_table(suite.speed),
        *((memory_table(suite.memory),) if suite.memory is not None else ()),
        *(roofline_blocks(suite.roofline) if suite.roofline is not None else ()),
        _devices(suite.speed.hardware),
    )


def latency_blocks(report: LatencyReport) -> tuple[Block, ...]:
    """Latency of whole requests: a row for every model and setting."""
    several = len(report.models) > 1
    table = table_of(
        ((model, latency) for model in report.models for latency in model.latencies),
        ("model", lambda row: row[0].description), ("sequences", lambda row: row[1].n_seq),
        ("input", lambda row: row[1].n_input), ("output", lambda row: row[1].n_output),
        ("latency s", lambda row: f"{row[1].mean:.4f} ± {row[1].stdev:.4f}"),
        ("tokens/s", lambda row: f"{row[1].tok_per_s:.2f}"),
        ("ms/token", lambda row: f"{1000 * row[1].token_s:.3f}"),
        *(((COMPARED, lambda row: ratio_cell(row[1].ratio)),) if several else ()),
        ("file", lambda row: row[0].path), left=(0, 7 + several),
        spare=("ms/token", "input", "tokens/s", "model"),
    )  # fmt: skip
    return (table, _devices(report.hardware))


def _devices(machine: Machine) -> Text:
    """Every device with its memory, one a line."""
    lines = (
        f"{device.name}: {device.description}, {size(device.total_bytes)}, "
        f"{size(device.free_bytes)} free"
        for device in machine.devices
    )
    return Text(tuple(lines))


def speed_table(result: Benchmark) -> Table:
    """llama-bench's table, with columns that compare with the first model and name the file."""
    several = len(result.models) > 1
    cases = [encode_fields(speed.case) for speed in result.models[0].speeds]
    varying = [name for name in VARYING if len({case[name] for case in cases}) > 1]
    rows = []
    for model in result.models:
        known = (model.description, size(model.size_bytes), count(model.n_param))
        for test in model.tests:
            case = encode_fields(test.speed.case)
            settings = (str(case[name]) for name in ("n_threads", *varying))
            compared = (ratio_cell(test.ratio),) * several
            measured = (test.speed.case.name, speed_cell(test.speed), *compared)
            rows.append((*known, result.hardware.backends, *settings, *measured, model.path))
    headers = ("model", "size", "params", "backend", "threads", *varying, "test", "t/s")
    headers += (COMPARED,) * several
    spare = ("backend", "params", "threads", "size", "model")
    return Table((*headers, "file"), tuple(rows), (0, 3, len(headers)), spare)


def memory_table(models: Sequence[ModelMemory]) -> Table:
    """What llama.cpp has allocated, by kind, and by device where there are several."""
    return table_of(
        models,
        ("memory of", lambda m: m.test), ("weights", lambda m: size(m.model_bytes)),
        ("cache", lambda m: size(m.cache_bytes)), ("compute", lambda m: size(m.compute_bytes)),
        ("buffers by device", _by_device), ("peak RSS", lambda m: size(m.peak_rss_bytes)),
        ("VRAM", lambda m: ", ".join(f"{g.device} {size(g.used_bytes)}" for g in m.gpus) or "-"),
        ("file", lambda m: m.path), left=(0, 4, 7),
        spare=("buffers by device", "VRAM", "compute", "cache", "weights"),
    )  # fmt: skip


def _by_device(memory: ModelMemory) -> str:
    totals = Counter[str]()
    for buffer in memory.buffers.buffers:
        totals[buffer.device] += buffer.size_bytes
    return ", ".join(f"{device} {size(n)}" for device, n in totals.items() if n)


def roofline_blocks(roofline: Roofline) -> tuple[Block, ...]:
    """Measured speed beside what the bytes allow."""
    table = table_of(
        roofline.roofs,
        ("test", lambda roof: roof.test), ("weights/token", lambda roof: size(roof.weight_bytes)),
        ("cache/token", lambda roof: size(roof.cache_bytes)),
        ("roof t/s", lambda roof: f"{roof.predicted:.2f}" if roof.predicted else None),
        ("t/s", lambda roof: f"{roof.measured:.2f}"),
        ("reached", lambda r: f"{100 * r.measured / r.predicted:.0f} %" if r.predicted else None),
        ("predicted", lambda roof: f"{roof.predicted_speedup:.3f}x"),
        ("measured", lambda roof: f"{roof.measured_speedup:.3f}x" + " !" * roof.is_short),
        ("file", lambda roof: roof.path), left=(0, 8),
        spare=("cache/token", "weights/token", "roof t/s", "predicted", "measured"),
    )  # fmt: skip
    lines = []
    if roofline.bandwidth:
        lines.append(f"Memory is read at {roofline.bandwidth / 1e9:.1f} GB/s at best.")
    if any(roof.is_short for roof in roofline.roofs):
        lines.append(f"! less than {100 * LEAST_SHARE:.0f} % of the predicted speed-up")
    return (table, *((Text(tuple(lines)),) * bool(lines)))
