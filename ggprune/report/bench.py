"""Speed, latency, memory and roofline as tables. Nothing here prints."""

from __future__ import annotations

from collections.abc import Sequence

from ggprune.bench import Benchmark, Ratio, Speed
from ggprune.bench.latency import LatencyReport
from ggprune.bench.memory import ModelMemory
from ggprune.bench.ratio import CONFIDENCE
from ggprune.bench.roofline import LEAST_SHARE, Roofline
from ggprune.bench.speed import Machine
from ggprune.bench.suite import Suite
from ggprune.files.documents import encode_fields
from ggprune.report.table import markdown_table
from ggprune.report.units import count, size

COMPARED = f"times the first ({100 * CONFIDENCE:.0f} % interval)"


def render_suite(suite: Suite) -> str:
    """All that was asked for, one table each."""
    parts = [render_benchmark(suite.speed)]
    parts += [render_memory(suite.memory)] if suite.memory is not None else []
    parts += [render_roofline(suite.roofline)] if suite.roofline is not None else []
    return "\n\n".join([*parts, render_machine(suite.speed.hardware)])


def render_machine(machine: Machine) -> str:
    """Every device with its memory, one a line."""
    lines = [
        f"{device.name}: {device.description}, {size(device.total_bytes)}, "
        f"{size(device.free_bytes)} free"
        for device in machine.devices
    ]
    return "\n".join(lines)


def render_benchmark(result: Benchmark) -> str:
    """llama-bench's table, with columns that compare with the first model and name the file."""
    several = len(result.models) > 1
    rows = []
    for model in result.models:
        for test in model.tests:
            speed, case = test.speed, encode_fields(test.speed.case)
            cells = [
                model.description,
                size(model.size_bytes),
                count(model.n_param),
                result.hardware.backends,
                str(case["n_threads"]),
                *(str(case[name]) for name in _varying(result)),
                speed.test,
                speed_cell(speed),
            ]
            rows.append([*cells, *([ratio_cell(test.ratio)] if several else []), model.path])
    headers = ["model", "size", "params", "backend", "threads", *_varying(result), "test", "t/s"]
    headers += [COMPARED] if several else []
    return markdown_table([*headers, "file"], rows, left=(0, 3, len(headers)))


def _varying(result: Benchmark) -> list[str]:
    """Parameters, besides those that have a column anyway, that the tests differ in."""
    cases = [encode_fields(speed.case) for speed in result.models[0].speeds]
    names = ("n_gpu_layers", "n_batch", "n_ubatch", "type_k", "type_v", "flash_attn")
    return [name for name in names if len({case[name] for case in cases}) > 1]


def speed_cell(speed: Speed | None) -> str:
    """`12.34 ± 0.56`."""
    return f"{speed.mean:.2f} ± {speed.stdev:.2f}" if speed else "-"


def ratio_cell(ratio: Ratio | None) -> str:
    """`1.234x (1.200 - 1.268)`; the first model is as fast as itself."""
    if ratio is None:
        return "1.000x"
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.3f}x"
    return f"{ratio.value:.3f}x ({ratio.low:.3f} - {ratio.high:.3f})"


def render_latency(report: LatencyReport) -> str:
    """One line per model and setting."""
    several = len(report.models) > 1
    rows = []
    for model in report.models:
        for latency in model.latencies:
            rows.append(
                [
                    model.description,
                    str(latency.n_seq),
                    str(latency.n_input),
                    str(latency.n_output),
                    f"{latency.mean:.4f} ± {latency.stdev:.4f}",
                    f"{latency.tok_per_s:.2f}",
                    f"{1000 * latency.token_s:.3f}",
                    *([ratio_cell(latency.ratio)] if several else []),
                    model.path,
                ]
            )
    headers = ["model", "sequences", "input", "output", "latency s", "tokens/s", "ms/token"]
    headers += [COMPARED] if several else []
    table = markdown_table([*headers, "file"], rows, left=(0, len(headers)))
    return f"{table}\n\n{render_machine(report.hardware)}"


def render_memory(models: Sequence[ModelMemory]) -> str:
    """What llama.cpp has allocated, by kind, and by device where there are several."""
    rows = [
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
    ]
    headers = (
        "memory of", "weights", "cache", "compute", "buffers by device", "peak RSS", "VRAM", "file",
    )  # fmt: skip
    return markdown_table(headers, rows, left=(0, 4, 7))


def _by_device(memory: ModelMemory) -> list[tuple[str, int]]:
    totals: dict[str, int] = {}
    for buffer in memory.buffers.buffers:
        totals[buffer.device] = totals.get(buffer.device, 0) + buffer.size_bytes
    return [(device, n) for device, n in totals.items() if n]


def render_roofline(roofline: Roofline) -> str:
    """Measured speed beside what the bytes allow."""
    rows = []
    for roof in roofline.roofs:
        predicted = roof.predicted
        rows.append(
            (
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
        )
    headers = (
        "test", "weights/token", "cache/token", "roof t/s", "t/s", "reached", "predicted",
        "measured", "file",
    )  # fmt: skip
    lines = [markdown_table(headers, rows, left=(0, 8))]
    if roofline.bandwidth:
        lines.append(f"Memory is read at {roofline.bandwidth / 1e9:.1f} GB/s at best.")
    if any(roof.is_short for roof in roofline.roofs):
        lines.append(f"! less than {100 * LEAST_SHARE:.0f} % of the predicted speed-up")
    return "\n".join([lines[0], *(["", *lines[1:]] if lines[1:] else [])])
