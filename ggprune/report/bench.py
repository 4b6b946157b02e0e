"""Speed, memory and roofline of models that took turns, and what they ran on."""

from __future__ import annotations

from collections.abc import Sequence

from ggprune.bench import Benchmark, Ratio
from ggprune.bench.ratio import CONFIDENCE
from ggprune.bench.roofline import LEAST_SHARE, Roof, Roofline
from ggprune.bench.runner import ModelMemory
from ggprune.bench.speed import Machine
from ggprune.files.documents import encode_fields
from ggprune.pipeline.bench import Suite
from ggprune.report.blocks import Block, Table, Text
from ggprune.report.units import count, size, speed_cell

COMPARED = f"times the first ({100 * CONFIDENCE:.0f} % interval)"


def blocks(suite: Suite) -> tuple[Block, ...]:
    """All that was asked for, one table each."""
    return (
        speed_table(suite.speed),
        *((memory_table(suite.memory),) if suite.memory is not None else ()),
        *(roofline_blocks(suite.roofline) if suite.roofline is not None else ()),
        devices_text(suite.speed.hardware),
    )


def devices_text(machine: Machine) -> Text:
    """Every device with its memory, one a line."""
    lines = (
        f"{device.name}: {device.description}, {size(device.total_bytes)}, "
        f"{size(device.free_bytes)} free"
        for device in machine.devices
    )
    return Text(tuple(lines))


def speed_table(result: Benchmark) -> Table:
    """llama-bench's table, with columns that compare with the first model and name the file."""
    several, varying = len(result.models) > 1, _varying(result)
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
    return Table((*headers, "file"), tuple(rows), left=(0, 3, len(headers)))


def _varying(result: Benchmark) -> tuple[str, ...]:
    """Parameters, besides those that have a column anyway, that the tests differ in."""
    cases = [encode_fields(speed.case) for speed in result.models[0].speeds]
    names = ("n_gpu_layers", "n_batch", "n_ubatch", "type_k", "type_v", "flash_attn")
    return tuple(name for name in names if len({case[name] for case in cases}) > 1)


def ratio_cell(ratio: Ratio | None) -> str:
    """`1.234x (1.200 - 1.268)`; the first model is as fast as itself."""
    if ratio is None:
        return "1.000x"
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.3f}x"
    return f"{ratio.value:.3f}x ({ratio.low:.3f} - {ratio.high:.3f})"


def memory_table(models: Sequence[ModelMemory]) -> Table:
    """What llama.cpp has allocated, by kind, and by device where there are several."""
    rows = tuple(
        (
            memory.test,
            size(memory.model_bytes),
            size(memory.cache_bytes),
            size(memory.compute_bytes),
            ", ".join(f"{device} {size(n)}" for device, n in _by_device(memory)),
            size(memory.peak_rss_bytes),
            ", ".join(f"{gpu.device} {size(gpu.used_bytes)}" for gpu in memory.gpus) or "-",
            memory.path,
        )
        for memory in models
    )
    headers = (
        "memory of", "weights", "cache", "compute", "buffers by device", "peak RSS", "VRAM", "file",
    )  # fmt: skip
    return Table(headers, rows, left=(0, 4, 7))


def _by_device(memory: ModelMemory) -> list[tuple[str, int]]:
    totals: dict[str, int] = {}
    for buffer in memory.buffers.buffers:
        totals[buffer.device] = totals.get(buffer.device, 0) + buffer.size_bytes
    return [(device, n) for device, n in totals.items() if n]


def roofline_blocks(roofline: Roofline) -> tuple[Block, ...]:
    """Measured speed beside what the bytes allow."""
    headers = (
        "test", "weights/token", "cache/token", "roof t/s", "t/s", "reached", "predicted",
        "measured", "file",
    )  # fmt: skip
    table = Table(headers, tuple(_roof_row(roof) for roof in roofline.roofs), left=(0, 8))
    lines = []
    if roofline.bandwidth:
        lines.append(f"Memory is read at {roofline.bandwidth / 1e9:.1f} GB/s at best.")
    if any(roof.is_short for roof in roofline.roofs):
        lines.append(f"! less than {100 * LEAST_SHARE:.0f} % of the predicted speed-up")
    return (table, *((Text(tuple(lines)),) * bool(lines)))


def _roof_row(roof: Roof) -> tuple[str, ...]:
    predicted = roof.predicted
    return (
        roof.test,
        size(roof.weight_bytes),
        size(roof.cache_bytes),
        f"{predicted:.2f}" if predicted else "-",
        f"{roof.measured:.2f}",
        f"{100 * roof.measured / predicted:.0f} %" if predicted else "-",
        f"{roof.predicted_speedup:.3f}x",
        f"{roof.measured_speedup:.3f}x" + (" !" if roof.is_short else ""),
        roof.path,
    )
